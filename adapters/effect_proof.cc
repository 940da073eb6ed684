#include "evolora/adapters/effect_proof.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr int64_t kMaxTokenId = std::numeric_limits<TokenId>::max();

bool LargerFirst(const TokenLogit& x, const TokenLogit& y) {
  return x.logit != y.logit ? x.logit > y.logit : x.id < y.id;
}

// Ids of the k largest logits.
std::vector<TokenId> TopIds(absl::Span<const float> logits, int k) {
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + k, ids.end(), [&](TokenId x, TokenId y) {
    return LargerFirst({x, logits[x]}, {y, logits[y]});
  });
  ids.resize(k);
  return ids;
}

std::vector<TokenLogit> Listed(const std::set<TokenId>& ids, absl::Span<const float> logits) {
  std::vector<TokenLogit> list;
  for (TokenId id : ids) list.push_back({id, logits[id]});
  std::sort(list.begin(), list.end(), LargerFirst);
  return list;
}

// By id; InvalidArgument for a value that is not finite, a negative id or one that occurs twice.
absl::StatusOr<std::map<TokenId, double>> ById(absl::string_view what,
                                               absl::Span<const TokenLogit> list) {
  std::map<TokenId, double> result;
  for (const TokenLogit& item : list) {
    if (item.id < 0 || !std::isfinite(item.logit)) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": id ", item.id, " with logit ", item.logit));
    }
    if (!result.emplace(item.id, item.logit).second) {
      return absl::InvalidArgumentError(absl::StrCat(what, ": id ", item.id, " twice"));
    }
  }
  return result;
}

// max |x - y| over the ids of both; with `centred`, after taking each side's mean over these away.
struct Distance {
  double value = 0;
  int64_t count = 0;
};
Distance Between(const std::map<TokenId, double>& x, const std::map<TokenId, double>& y,
                 bool centred) {
  std::vector<double> differences;
  for (const auto& [id, value] : x) {
    const auto it = y.find(id);
    if (it != y.end()) differences.push_back(value - it->second);
  }
  const double count = static_cast<double>(differences.size());
  const double mean = centred && count > 0
                          ? std::accumulate(differences.begin(), differences.end(), 0.0) / count
                          : 0.0;
  Distance result{0, static_cast<int64_t>(differences.size())};
  for (double d : differences) result.value = std::max(result.value, std::abs(d - mean));
  return result;
}

std::map<TokenId, double> Restrict(const std::map<TokenId, double>& values,
                                   const std::map<TokenId, double>& to) {
  std::map<TokenId, double> result;
  for (const auto& [id, value] : values) {
    if (to.contains(id)) result.emplace(id, value);
  }
  return result;
}

struct ProbeMaps {
  std::map<TokenId, double> base, adapted;
};

absl::StatusOr<ProbeMaps> CheckProbe(const EffectProbe& probe, size_t index) {
  const std::string what = absl::StrCat("probe ", index);
  if (probe.prompt_ids.empty())
    return absl::InvalidArgumentError(absl::StrCat(what, ": no prompt"));
  for (TokenId id : probe.prompt_ids) {
    if (id < 0) return absl::InvalidArgumentError(absl::StrCat(what, ": prompt id ", id));
  }
  ProbeMaps maps;
  ASSIGN_OR_RETURN(maps.base, ById(what + " base_top", probe.base_top));
  ASSIGN_OR_RETURN(maps.adapted, ById(what + " adapted_top", probe.adapted_top));
  if (maps.base.size() < 2 || maps.base.size() != maps.adapted.size() ||
      Restrict(maps.base, maps.adapted).size() != maps.base.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": base_top and adapted_top do not hold the same ids, at least two"));
  }
  if (!std::isfinite(probe.max_abs_delta) || probe.max_abs_delta < 0) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": max_abs_delta ", probe.max_abs_delta));
  }
  return maps;
}

absl::StatusOr<std::vector<ProbeMaps>> CheckProof(const EffectProof& proof) {
  if (!IsSha256Hex(proof.adapter_digest) || !IsSha256Hex(proof.base_weights_fingerprint)) {
    return absl::InvalidArgumentError(
        "effect proof: adapter_digest or base_weights_fingerprint is no SHA-256");
  }
  if (!(proof.tolerance > 0) || !std::isfinite(proof.tolerance)) {
    return absl::InvalidArgumentError(absl::StrCat("effect proof: tolerance ", proof.tolerance));
  }
  if (proof.probes.empty()) return absl::InvalidArgumentError("effect proof: no probes");
  std::vector<ProbeMaps> result;
  double largest = 0;
  for (size_t i = 0; i < proof.probes.size(); ++i) {
    ASSIGN_OR_RETURN(ProbeMaps maps, CheckProbe(proof.probes[i], i));
    largest = std::max(largest, Between(maps.base, maps.adapted, true).value);
    result.push_back(std::move(maps));
  }
  if (largest > 2 * proof.tolerance) return result;
  return absl::InvalidArgumentError(
      absl::StrFormat("effect proof: the listed logits move by at most %.6g (after removal of a "
                      "common shift), not by more than twice the tolerance %.6g",
                      largest, proof.tolerance));
}

Json ListToJson(const std::vector<TokenLogit>& list) {
  Json json = Json::array();
  for (const TokenLogit& item : list) json.push_back({item.id, static_cast<double>(item.logit)});
  return json;
}

std::vector<TokenLogit> ListFromJson(JsonFields& fields, const char* key) {
  std::vector<TokenLogit> list;
  for (const Json& item : fields.Array(key)) {
    if (!item.is_array() || item.size() != 2 || !item[0].is_number_unsigned() ||
        item[0].get<uint64_t>() > static_cast<uint64_t>(kMaxTokenId) || !item[1].is_number()) {
      fields.Fail(key, "an entry is not [token id, logit]");
      break;
    }
    list.push_back({item[0].get<TokenId>(), item[1].get<float>()});
  }
  return list;
}

absl::StatusOr<EffectProbe> ProbeFromJson(const Json& json, size_t index) {
  JsonFields fields(json, absl::StrCat("effect_proof.probes[", index, "]"));
  EffectProbe probe;
  for (const Json& id : fields.Array("prompt_ids")) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(kMaxTokenId)) {
      fields.Fail("prompt_ids", "an entry is not a token id");
      break;
    }
    probe.prompt_ids.push_back(id.get<TokenId>());
  }
  probe.base_top = ListFromJson(fields, "base_top");
  probe.adapted_top = ListFromJson(fields, "adapted_top");
  probe.max_abs_delta = fields.Number("max_abs_delta");
  RETURN_IF_ERROR(fields.Done());
  return probe;
}

EffectVerdict VerdictOf(double to_adapted, double to_base, double tolerance) {
  if (to_adapted <= tolerance) return EffectVerdict::kOk;
  return to_base <= tolerance ? EffectVerdict::kLoadNoEffect : EffectVerdict::kWrongAdapter;
}

}  // namespace

absl::StatusOr<EffectProbe> MakeEffectProbe(std::vector<TokenId> prompt_ids,
                                            absl::Span<const float> base_logits,
                                            absl::Span<const float> adapted_logits, int k) {
  if (prompt_ids.empty()) return absl::InvalidArgumentError("effect probe: no prompt");
  if (k < 2 || base_logits.size() != adapted_logits.size() ||
      base_logits.size() < static_cast<size_t>(k)) {
    return absl::InvalidArgumentError(absl::StrCat("effect probe: k = ", k, " of rows of ",
                                                   base_logits.size(), " and ",
                                                   adapted_logits.size(), " logits"));
  }
  EffectProbe probe;
  for (size_t i = 0; i < base_logits.size(); ++i) {
    if (!std::isfinite(base_logits[i]) || !std::isfinite(adapted_logits[i])) {
      return absl::InvalidArgumentError(absl::StrCat("effect probe: logit ", i, " is not finite"));
    }
    probe.max_abs_delta =
        std::max(probe.max_abs_delta, std::abs(double{adapted_logits[i]} - double{base_logits[i]}));
  }
  std::set<TokenId> ids;
  for (TokenId id : TopIds(base_logits, k)) ids.insert(id);
  for (TokenId id : TopIds(adapted_logits, k)) ids.insert(id);
  probe.prompt_ids = std::move(prompt_ids);
  probe.base_top = Listed(ids, base_logits);
  probe.adapted_top = Listed(ids, adapted_logits);
  return probe;
}

absl::Status ValidateEffectProof(const EffectProof& proof) { return CheckProof(proof).status(); }

Json EffectProofToJson(const EffectProof& proof) {
  Json probes = Json::array();
  for (const EffectProbe& probe : proof.probes) {
    probes.push_back({{"prompt_ids", probe.prompt_ids},
                      {"base_top", ListToJson(probe.base_top)},
                      {"adapted_top", ListToJson(probe.adapted_top)},
                      {"max_abs_delta", probe.max_abs_delta}});
  }
  return {{"format", "evolora-effect-proof/1"},
          {"base_weights_fingerprint", proof.base_weights_fingerprint},
          {"adapter_digest", proof.adapter_digest},
          {"tolerance", proof.tolerance},
          {"probes", std::move(probes)}};
}

absl::StatusOr<EffectProof> EffectProofFromJson(const Json& json) {
  JsonFields fields(json, "effect_proof");
  if (fields.String("format") != "evolora-effect-proof/1") {
    fields.Fail("format", "not evolora-effect-proof/1");
  }
  EffectProof proof;
  proof.base_weights_fingerprint = fields.String("base_weights_fingerprint");
  proof.adapter_digest = fields.String("adapter_digest");
  proof.tolerance = fields.Number("tolerance");
  const Json& probes = fields.Array("probes");
  RETURN_IF_ERROR(fields.Done());
  for (size_t i = 0; i < probes.size(); ++i) {
    ASSIGN_OR_RETURN(EffectProbe probe, ProbeFromJson(probes[i], i));
    proof.probes.push_back(std::move(probe));
  }
  RETURN_IF_ERROR(ValidateEffectProof(proof));
  return proof;
}

const char* EffectVerdictName(EffectVerdict verdict) {
  switch (verdict) {
    case EffectVerdict::kOk:
      return "ok";
    case EffectVerdict::kLoadNoEffect:
      return "load_no_effect";
    case EffectVerdict::kWrongAdapter:
      return "wrong_adapter";
  }
  return "unknown";
}

absl::StatusOr<EffectJudgement> JudgeEffect(const EffectProof& proof,
                                            absl::Span<const std::vector<TokenLogit>> measured,
                                            LogitKind kind) {
  ASSIGN_OR_RETURN(const std::vector<ProbeMaps> probes, CheckProof(proof));
  if (measured.size() != probes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("answers to ", measured.size(), " of ", probes.size(), " probes"));
  }
  const bool centred = kind == LogitKind::kLogprobs;
  EffectJudgement result;
  double visible = 0;  // by how much base and adapter differ on the answered ids
  for (size_t i = 0; i < probes.size(); ++i) {
    const std::string what = absl::StrCat("answer ", i);
    ASSIGN_OR_RETURN(const auto answer, ById(what, measured[i]));
    const Distance to_adapted = Between(answer, probes[i].adapted, centred);
    if (to_adapted.count < 2) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": ", to_adapted.count, " of the probe's ids, at least 2 needed"));
    }
    result.num_compared += to_adapted.count;
    result.distance_to_adapted = std::max(result.distance_to_adapted, to_adapted.value);
    result.distance_to_base =
        std::max(result.distance_to_base, Between(answer, probes[i].base, centred).value);
    visible = std::max(visible,
                       Between(Restrict(probes[i].base, answer), probes[i].adapted, centred).value);
  }
  if (visible <= 2 * proof.tolerance) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the answered ids move by at most %.6g, which cannot tell adapter from base", visible));
  }
  result.verdict = VerdictOf(result.distance_to_adapted, result.distance_to_base, proof.tolerance);
  result.reason = absl::StrFormat(
      "%s: %d logits of %d probes differ by at most %.6g from the adapted and %.6g from the base "
      "ones, tolerance %.6g",
      EffectVerdictName(result.verdict), result.num_compared, probes.size(),
      result.distance_to_adapted, result.distance_to_base, proof.tolerance);
  return result;
}

}  // namespace evolora
