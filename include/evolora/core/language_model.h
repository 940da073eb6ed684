#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/core/compute.h"
#include "evolora/core/message.h"
#include "evolora/core/tokenizer.h"

namespace evolora {

struct Sampling {
  double temperature = 0;  // 0 = greedy
  double top_p = 1;        // nucleus mass, (0, 1]
  int32_t top_k = 0;       // 0 = all
  uint64_t seed = 0;       // one stream per row: equal request, equal text, whatever the batch
};

struct GenerateRequest {
  std::vector<Message> messages;  // rendered with the base's chat template; or
  std::vector<TokenId> ids;       // used as they are when not empty (bypasses the tokenizer)
  std::string adapter;            // digest of an adapter loaded in the model; empty = bare base
  int32_t max_new_tokens = 64;
  Sampling sampling;
  std::vector<std::string> stop;  // text stops before the first of these
  bool ignore_eos = false;        // no id ends it: max_new_tokens are generated, or a stop string's
};

struct Completion {
  std::string text;           // empty when the model has no tokenizer
  std::vector<TokenId> ids;   // generated ids, without the stop token
  std::string finish_reason;  // "stop" (end token or stop string) or "length"
  int64_t num_prompt_tokens = 0;
  double sum_logprob = 0;  // natural log, of the generated ids under the model
};

struct ScoreRequest {
  std::vector<TokenId> ids;
  std::string adapter;
  bool want_last_logits = false;
};

struct Scored {
  std::vector<float> logprobs;     // [num_ids - 1]: log p(ids[t+1] | ids[..t])
  std::vector<float> last_logits;  // [vocab] after the last id, when asked for
};

// A language model as the rest of evolora sees it: no tensors, no device.
// One caller at a time per object unless an implementation says otherwise.
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  // One completion per request, in order. Requests are independent: a row's result does not depend
  // on the other rows' content. Rows may name different adapters.
  // Errors: InvalidArgument names the row (empty prompt, id out of range, context too long),
  //         NotFound adapter not loaded, ResourceExhausted memory.
  virtual absl::StatusOr<std::vector<Completion>> Generate(
      absl::Span<const GenerateRequest> requests) = 0;
  virtual absl::StatusOr<std::vector<Scored>> Score(absl::Span<const ScoreRequest> requests) = 0;
  // Ids of the rendered chat, with the generation prompt of the assistant at the end.
  virtual absl::StatusOr<std::vector<TokenId>> EncodeChat(
      absl::Span<const Message> messages) const = 0;
  // What has been spent since construction.
  virtual Compute spent() const = 0;
};

}  // namespace evolora
