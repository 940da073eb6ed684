#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/device/label_loss.h"
#include "evolora/trainers/objective.h"
#include "evolora/trainers/training_data.h"
#include "token_layout.h"

namespace evolora {

class FrozenPass;

// Logits of some positions of a micro-batch and what the tokens there have to predict.
struct LogitsChunk {
  float* logits = nullptr;  // [num_rows, vocabulary]
  int64_t num_rows = 0;
  int64_t vocabulary = 0;
  int64_t first_row = 0;  // the `row` of a target that belongs to logits row 0
  absl::Span<const TokenLayout::Target> targets;  // those of these rows, ascending by row
  absl::Span<const TokenLayout::Label> labels;    // what Target::first_label counts in
};

// Sums of log-probabilities over the two answers of a row.
struct AnswerSums {
  double chosen = 0;
  double rejected = 0;
};

// What a loss is made of, for paths that compute it where the logits are. Spans are
// by row of training; lists in them by label.
struct PolicyParts {
  PolicyForm form;
  absl::Span<const double> advantages;
  absl::Span<const std::vector<double>> old_log_probs;
  absl::Span<const std::vector<double>> references;  // lists may be empty: not used
  absl::Span<const double> shares;                   // what a label's loss is multiplied with
};
struct DpoParts {
  DpoForm form;
  absl::Span<const AnswerSums> references;
};
// The teacher's likeliest tokens at one label, the likeliest first, and how likely all others are
// together.
struct TopK {
  std::vector<TokenId> ids;       // [K]
  std::vector<double> log_probs;  // [K]
  double log_rest = 0;
};
struct DistillParts {
  double temperature = 1;
  int64_t top_k = 0;                            // 0: the whole vocabulary
  absl::Span<const std::vector<TopK>> top;      // of each label, with top_k
  absl::Span<const at::Tensor> teacher_hidden;  // [labels, D] fp32 on the CPU, without
};
using LossParts = std::variant<std::monostate, PolicyParts, DpoParts, DistillParts>;

// What a run minimises, as both gradient paths see it: token sequences that go through the model,
// and a function of the logits where they have labels.
//
// Cost: a loss that is a sum over positions needs one head product forward and one backward. One
//   that ties positions together (wants_log_probs) gets the log-probabilities of a micro-batch
//   first: when its logits do not fit into one chunk, the head product forward runs twice. The
//   layers run once in either case, because the sequences of a row stay in one micro-batch.
class Loss {
 public:
  virtual ~Loss() = default;

  // Sequence s belongs to row s / sequences_per_row(). Valid for the life of the loss.
  virtual absl::Span<const TrainingRow> sequences() const = 0;
  virtual int64_t sequences_per_row() const { return 1; }

  // Runs the frozen model once over what `rows`, the rows that the run will visit, need of it.
  // Called once, with the adapter as the run starts. Cancelled when `stop` was requested.
  virtual absl::Status Prepare(FrozenPass& model, absl::Span<const int64_t> rows,
                               const std::stop_token& stop);

  // What the sum of a step's losses is divided by.
  virtual double StepWeight(absl::Span<const int64_t> step_rows) const = 0;

  // With wants_log_probs, TakeLogProbs gets all labels of a micro-batch before the first chunk and
  // returns the micro-batch's loss. log_probs[i] is that of labels[i]. A row that stands in the
  // batch more than once comes with each of its labels as often.
  virtual bool wants_log_probs() const { return false; }
  virtual double TakeLogProbs(absl::Span<const TokenLayout::Label> labels,
                              absl::Span<const double> log_probs);

  // Turns the logits into factor * d loss / d logits, in place, and returns the loss of the chunk
  // (with wants_log_probs: 0). Uses all threads; the bits do not depend on their number.
  virtual double LossAndGradient(const LogitsChunk& chunk, double factor) = 0;
  // Whether several threads may call it at once, each with a micro-batch of its own.
  virtual bool takes_batches_at_once() const { return false; }

  // Valid after Prepare, for the life of the loss; the kind of it before, too. monostate: cross
  // entropy.
  virtual LossParts parts() const { return {}; }
  // Sums of the terms of label_kernels.h but the first, of a path that computes the loss itself.
  virtual void AddTerms(absl::Span<const double> sums);

  // Figures of the micro-batches since the last call, by name; means over rows unless the name says
  // otherwise.
  virtual std::map<std::string, double> TakeFigures() { return {}; }
};

// The loss of `settings`. `rows` outlive it. InvalidArgument names the row that lacks something.
absl::StatusOr<std::unique_ptr<Loss>> MakeLoss(const ObjectiveSettings& settings,
                                               absl::Span<const TrainingRow> rows);

std::unique_ptr<Loss> MakeCrossEntropy(absl::Span<const TrainingRow> rows);
absl::StatusOr<std::unique_ptr<Loss>> MakeDistill(const ObjectiveSettings& settings,
                                                  absl::Span<const TrainingRow> rows);
absl::StatusOr<std::unique_ptr<Loss>> MakePolicy(const ObjectiveSettings& settings,
                                                 absl::Span<const TrainingRow> rows);
absl::StatusOr<std::unique_ptr<Loss>> MakeDpo(const ObjectiveSettings& settings,
                                              absl::Span<const TrainingRow> rows);

}  // namespace evolora
