#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "decoder.h"
#include "evolora/model/engine.h"

namespace evolora {

// One Score call: packs the rows' tokens into steps of max_step_tokens, in order.
// Requests are checked already; `loras` has one entry per request.
class Scoring {
 public:
  Scoring(Decoder& decoder, KvPool& pool, const EngineOptions& options,
          absl::Span<const ScoreRequest> requests, std::vector<const PackedLora*> loras);

  absl::StatusOr<std::vector<Scored>> Run();
  const Compute& spent() const { return spent_; }

 private:
  // Tokens [begin, end) of one request.
  struct Chunk {
    size_t request;
    int64_t begin;
    int64_t end;
  };
  // A token whose logits somebody wants: its hidden row and what to read.
  struct Wanted {
    size_t request;
    int64_t position;
    const float* hidden;
  };
  std::vector<Chunk> PlanStep();
  absl::Status Step(const std::vector<Chunk>& chunks);
  absl::Status ReadLogits(absl::Span<const Wanted> wanted);

  Decoder& decoder_;
  KvPool& pool_;
  const EngineOptions& options_;
  absl::Span<const ScoreRequest> requests_;
  std::vector<const PackedLora*> loras_;
  std::vector<Scored> results_;
  std::vector<std::unique_ptr<KvCache>> caches_;  // null: not begun, or done
  size_t next_request_ = 0;
  int64_t next_token_ = 0;  // of next_request_
  std::vector<float> gathered_, logits_;
  Compute spent_;
};

}  // namespace evolora
