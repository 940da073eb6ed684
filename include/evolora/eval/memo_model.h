#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/core/language_model.h"
#include "evolora/data/evidence_store.h"

namespace evolora {

struct MemoOptions {
  int64_t batch_size = 64;  // requests per call of the inner model
};

// A LanguageModel that never computes the same completion twice: answers are kept in the evidence
// store under SHA-256(model fingerprint, RequestKey). Greedy and sampled requests alike, because a
// sampled answer is a function of request and seed by contract of LanguageModel.
//
// Batches: the distinct requests not yet in the memo, sorted by prompt length (stable), in chunks
// of batch_size; each finished chunk is committed in one transaction before the next starts. So a
// run that is killed anywhere and started again finds every finished chunk, and forms the same
// batches from what is left.
//
// Does not own `inner` and `store`, which must outlive it. Threads: one caller at a time.
class MemoModel : public LanguageModel {
 public:
  // `fingerprint` names everything about the model a request does not say: weights digest, regime.
  MemoModel(LanguageModel& inner, EvidenceStore& store, std::string fingerprint,
            MemoOptions options = {});

  // Errors: those of the inner model and of the store; DataLoss a memo row that cannot be read.
  absl::StatusOr<std::vector<Completion>> Generate(
      absl::Span<const GenerateRequest> requests) override;
  // Not memoised.
  absl::StatusOr<std::vector<Scored>> Score(absl::Span<const ScoreRequest> requests) override;
  absl::StatusOr<std::vector<TokenId>> EncodeChat(
      absl::Span<const Message> messages) const override;

  // Fresh compute only: what the inner model has really spent.
  Compute spent() const override { return inner_->spent(); }
  // What a run without memo would have spent on all requests so far, repeats included; equal after
  // a restart, so budgets are drawn from this one. FLOPs and seconds of a row are its share by
  // tokens of the batch it was computed in. Score is charged as spent.
  Compute charged() const { return charged_; }
  int64_t num_cached() const { return num_cached_; }  // rows answered from the memo
  int64_t num_fresh() const { return num_fresh_; }    // rows computed

 private:
  struct Row;
  absl::Status GenerateBatch(absl::Span<Row*> batch);

  LanguageModel* inner_;
  EvidenceStore* store_;
  std::string fingerprint_;
  MemoOptions options_;
  Compute charged_;
  int64_t num_cached_ = 0;
  int64_t num_fresh_ = 0;
};

}  // namespace evolora
