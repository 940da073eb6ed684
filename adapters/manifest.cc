#include "evolora/adapters/manifest.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr int64_t kSchema = 1;
constexpr int64_t kMaxRank = 1 << 20;

absl::Status Wrong(absl::string_view field, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("manifest.", field, ": ", why));
}

absl::Status CheckDigest(absl::string_view field, const std::string& value) {
  if (IsSha256Hex(value)) return absl::OkStatus();
  return Wrong(field, absl::StrCat("\"", value, "\" is not 64 lower-case hex digits"));
}

absl::Status CheckOptionalDigest(absl::string_view field, const std::string& value) {
  return value.empty() ? absl::OkStatus() : CheckDigest(field, value);
}

// A value that every run writes alike: finite numbers, no measured durations.
absl::Status CheckDeterministic(const std::string& path, const Json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    return Wrong(path, "number is not finite");
  }
  if (value.is_object()) {
    for (const auto& [key, child] : value.items()) {
      if (key == "seconds" || absl::EndsWith(key, "_seconds")) {
        return Wrong(absl::StrCat(path, ".", key), "a measured duration has no place in a version");
      }
      RETURN_IF_ERROR(CheckDeterministic(absl::StrCat(path, ".", key), child));
    }
  } else if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i) {
      RETURN_IF_ERROR(CheckDeterministic(absl::StrCat(path, "[", i, "]"), value[i]));
    }
  }
  return absl::OkStatus();
}

// Text of a manifest comes from outside in parts; canonical JSON needs valid UTF-8.
absl::Status CheckUtf8(const Json& json) {
  try {
    (void)json.dump();
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError("manifest: a text in it is not valid UTF-8");
  }
  return absl::OkStatus();
}

absl::Status CheckSlot(const std::string& path, const AdapterSlot& slot,
                       const BaseReference& base) {
  if (!IsSlotName(slot.slot)) {
    return Wrong(path + ".slot", absl::StrCat("\"", slot.slot, "\" is no slot name"));
  }
  RETURN_IF_ERROR(CheckDigest(path + ".digest", slot.digest));
  RETURN_IF_ERROR(CheckDigest(path + ".blob", slot.blob));
  RETURN_IF_ERROR(Annotate(ValidateTrigger(slot.scope), "manifest." + path + ".scope"));
  if (slot.scope == Trigger{}) return Wrong(path + ".scope", "an empty trigger matches no request");
  if (slot.rank < 1 || slot.rank > kMaxRank) {
    return Wrong(path + ".rank", absl::StrCat(slot.rank, " is not in 1..", kMaxRank));
  }
  if (slot.base_name != base.name) {
    return Wrong(path + ".base_name", absl::StrCat("adapter made for \"", slot.base_name,
                                                   "\", the base is \"", base.name, "\""));
  }
  return absl::OkStatus();
}

Json SlotToJson(const AdapterSlot& slot) {
  return {{"slot", slot.slot}, {"digest", slot.digest},
          {"blob", slot.blob}, {"scope", TriggerToJson(slot.scope)},
          {"rank", slot.rank}, {"base_name", slot.base_name}};
}

absl::StatusOr<AdapterSlot> SlotFromJson(const Json& json, const std::string& path) {
  JsonFields f(json, path);
  AdapterSlot slot{.slot = f.String("slot"),
                   .digest = f.String("digest"),
                   .blob = f.String("blob"),
                   .rank = f.Integer("rank", 1, kMaxRank),
                   .base_name = f.String("base_name")};
  const Json& scope = f.Object("scope");
  RETURN_IF_ERROR(f.Done());
  ASSIGN_OR_RETURN(slot.scope, TriggerFromJson(scope, path + ".scope"));
  return slot;
}

absl::StatusOr<BaseReference> BaseFromJson(const Json& json) {
  JsonFields f(json, "manifest.base");
  BaseReference base{.name = f.String("name"),
                     .shape_fingerprint = f.String("shape_fingerprint"),
                     .weights_fingerprint = f.String("weights_fingerprint")};
  RETURN_IF_ERROR(f.Done());
  return base;
}

absl::StatusOr<ArtifactDigests> ArtifactsFromJson(const Json& json) {
  JsonFields f(json, "manifest.artifacts");
  ArtifactDigests out{.prompt = f.String("prompt"),
                      .knowledge = f.String("knowledge"),
                      .tools = f.String("tools"),
                      .validation = f.String("validation")};
  RETURN_IF_ERROR(f.Done());
  return out;
}

}  // namespace

bool IsSlotName(absl::string_view text) {
  const auto alnum = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !text.empty() && text.size() <= 48 && alnum(text[0]) &&
         std::all_of(text.begin(), text.end(),
                     [&](char c) { return alnum(c) || c == '.' || c == '_' || c == '-'; });
}

absl::Status ValidateManifest(const VersionManifest& m) {
  if (m.schema != kSchema) return Wrong("schema", absl::StrCat(m.schema, ", known is ", kSchema));
  if (m.base.name.empty()) return Wrong("base.name", "empty");
  RETURN_IF_ERROR(CheckDigest("base.shape_fingerprint", m.base.shape_fingerprint));
  RETURN_IF_ERROR(CheckDigest("base.weights_fingerprint", m.base.weights_fingerprint));
  std::set<std::string> slots;
  for (size_t i = 0; i < m.adapters.size(); ++i) {
    const std::string path = absl::StrCat("adapters[", i, "]");
    RETURN_IF_ERROR(CheckSlot(path, m.adapters[i], m.base));
    if (!slots.insert(m.adapters[i].slot).second) {
      return Wrong(path + ".slot", absl::StrCat("\"", m.adapters[i].slot, "\" stands twice"));
    }
  }
  RETURN_IF_ERROR(CheckDigest("artifacts.prompt", m.artifacts.prompt));
  RETURN_IF_ERROR(CheckDigest("artifacts.knowledge", m.artifacts.knowledge));
  RETURN_IF_ERROR(CheckDigest("artifacts.tools", m.artifacts.tools));
  RETURN_IF_ERROR(CheckDigest("artifacts.validation", m.artifacts.validation));
  std::set<std::string> parents;
  for (size_t i = 0; i < m.parents.size(); ++i) {
    const std::string path = absl::StrCat("parents[", i, "]");
    RETURN_IF_ERROR(CheckDigest(path, m.parents[i]));
    if (!parents.insert(m.parents[i]).second) return Wrong(path, m.parents[i] + " stands twice");
  }
  if (!m.decision.is_object()) return Wrong("decision", "must be a JSON object");
  RETURN_IF_ERROR(CheckDeterministic("decision", m.decision));
  RETURN_IF_ERROR(CheckOptionalDigest("evidence", m.evidence));
  RETURN_IF_ERROR(CheckOptionalDigest("verdict", m.verdict));
  return CheckUtf8(ManifestToJson(m));
}

Json ManifestToJson(const VersionManifest& m) {
  Json adapters = Json::array();
  for (const AdapterSlot& slot : m.adapters) adapters.push_back(SlotToJson(slot));
  return {{"schema", m.schema},
          {"base",
           {{"name", m.base.name},
            {"shape_fingerprint", m.base.shape_fingerprint},
            {"weights_fingerprint", m.base.weights_fingerprint}}},
          {"adapters", std::move(adapters)},
          {"artifacts",
           {{"prompt", m.artifacts.prompt},
            {"knowledge", m.artifacts.knowledge},
            {"tools", m.artifacts.tools},
            {"validation", m.artifacts.validation}}},
          {"parents", m.parents},
          {"decision", m.decision},
          {"evidence", m.evidence},
          {"verdict", m.verdict}};
}

absl::StatusOr<VersionManifest> ManifestFromJson(const Json& json) {
  JsonFields f(json, "manifest");
  VersionManifest m{.schema = f.Integer("schema", kSchema, kSchema),
                    .parents = f.StringArray("parents"),
                    .decision = f.Object("decision"),
                    .evidence = f.String("evidence"),
                    .verdict = f.String("verdict")};
  const Json& base = f.Object("base");
  const Json& adapters = f.Array("adapters");
  const Json& artifacts = f.Object("artifacts");
  RETURN_IF_ERROR(f.Done());
  ASSIGN_OR_RETURN(m.base, BaseFromJson(base));
  ASSIGN_OR_RETURN(m.artifacts, ArtifactsFromJson(artifacts));
  for (size_t i = 0; i < adapters.size(); ++i) {
    ASSIGN_OR_RETURN(AdapterSlot slot,
                     SlotFromJson(adapters[i], absl::StrCat("manifest.adapters[", i, "]")));
    m.adapters.push_back(std::move(slot));
  }
  RETURN_IF_ERROR(ValidateManifest(m));
  return m;
}

std::string VersionId(const VersionManifest& manifest) {
  return Sha256Hex(CanonicalJson(ManifestToJson(manifest)));
}

std::string AdapterServingName(absl::string_view slot, int64_t seq, absl::string_view digest) {
  EVOLORA_CHECK(IsSlotName(slot) && seq >= 1 && IsSha256Hex(digest), "parts of a serving name");
  return absl::StrCat(slot, "-v", seq, "-", digest.substr(0, 8));
}

const AdapterSlot* RouteRequest(const VersionManifest& manifest, absl::string_view request_text) {
  for (const AdapterSlot& slot : manifest.adapters) {
    if (Matches(slot.scope, request_text)) return &slot;
  }
  return nullptr;
}

}  // namespace evolora
