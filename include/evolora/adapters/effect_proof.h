#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/core/json.h"
#include "evolora/core/tokenizer.h"

namespace evolora {

struct TokenLogit {
  TokenId id = 0;
  float logit = 0;
  friend bool operator==(const TokenLogit&, const TokenLogit&) = default;
};

// One prompt with the logits after its last token, without and with the adapter. Both lists hold
// the same ids, each at its own logit, larger logits first (equal ones: smaller id first).
struct EffectProbe {
  std::vector<TokenId> prompt_ids;
  std::vector<TokenLogit> base_top;
  std::vector<TokenLogit> adapted_top;
  double max_abs_delta = 0;  // max |adapted - base| over the whole vocabulary
};

// What an adapter does to a few prompts, measured by the engine that trained it; travels with the
// export (effect_proof.json) so that a server's load can be checked by its answers.
struct EffectProof {
  std::string base_weights_fingerprint;
  std::string adapter_digest;  // AdapterDigest of the adapter as exported
  std::vector<EffectProbe> probes;
  double tolerance = 0;  // max |difference| of one logit that still counts as equal
};

// A probe from full rows of logits [vocab]: the ids are the union of both top-k sets.
// InvalidArgument: empty prompt, rows of different length or shorter than k, not finite, k < 2.
absl::StatusOr<EffectProbe> MakeEffectProbe(std::vector<TokenId> prompt_ids,
                                            absl::Span<const float> base_logits,
                                            absl::Span<const float> adapted_logits, int k);

// InvalidArgument: empty or non-finite fields, lists of different ids, tolerance <= 0, or no probe
// that could tell the adapter from the base (some listed logit must move by > 2 x tolerance, also
// after removal of a common shift).
absl::Status ValidateEffectProof(const EffectProof& proof);

// JSON both ways; parsing is strict and validates.
Json EffectProofToJson(const EffectProof& proof);
absl::StatusOr<EffectProof> EffectProofFromJson(const Json& json);

enum class EffectVerdict { kOk, kLoadNoEffect, kWrongAdapter };
const char* EffectVerdictName(EffectVerdict verdict);  // "ok", "load_no_effect", "wrong_adapter"

enum class LogitKind {
  kLogits,
  kLogprobs,  // logits up to one constant per prompt: compared after removing it
};

struct EffectJudgement {
  EffectVerdict verdict = EffectVerdict::kWrongAdapter;
  double distance_to_adapted = 0;  // max |measured - adapted| over probes and shared ids
  double distance_to_base = 0;     // max |measured - base|
  int64_t num_compared = 0;        // logits compared, all probes together
  std::string reason;              // one line with these numbers
};

// Judges what a server answered: `measured[i]` are logits after proof.probes[i].prompt_ids for at
// least two ids of the probe (others are ignored). ok: all within tolerance of the adapted ones;
// load_no_effect: not so, but all within tolerance of the base; wrong_adapter: neither.
// InvalidArgument: invalid proof, other number of probes, too few shared ids, an id twice, a value
// that is not finite, or answers that cover no id by which base and adapter could be told apart.
absl::StatusOr<EffectJudgement> JudgeEffect(const EffectProof& proof,
                                            absl::Span<const std::vector<TokenLogit>> measured,
                                            LogitKind kind = LogitKind::kLogits);

}  // namespace evolora
