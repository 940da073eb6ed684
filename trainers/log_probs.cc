// L targets of a sequence, D model width, V vocabulary.
#include "log_probs.h"

#include <algorithm>
#include <utility>

#include "ATen/Parallel.h"
#include "ATen/core/Tensor.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/kernels.h"
#include "token_loss.h"

namespace evolora {
namespace {

// Sequences of one call to the model; a request to stop waits for no more than these.
constexpr size_t kSequencesAtOnce = 64;
constexpr int64_t kLogitsAtOnce = int64_t{4} << 20;

}  // namespace

std::vector<TokenId> TargetsOf(absl::Span<const TokenId> labels) {
  std::vector<TokenId> targets;
  for (size_t t = 1; t < labels.size(); ++t) {
    if (labels[t] != kIgnoreLabel) targets.push_back(labels[t]);
  }
  return targets;
}

void LabelLogProbs(const LogitsChunk& chunk, absl::Span<double> log_probs) {
  ForLogitsRows(chunk, [&](int64_t m, absl::Span<const TokenLayout::Target> targets) {
    const float* logits = chunk.logits + m * chunk.vocabulary;
    const double lse = Kernels().log_sum_exp(logits, chunk.vocabulary);
    for (const TokenLayout::Target& target : targets) {
      std::fill_n(log_probs.begin() + target.first_label, target.count,
                  static_cast<double>(logits[target.id]) - lse);
    }
  });
}

absl::Status ForFrozenHidden(FrozenPass& model, absl::Span<const TrainingRow> sequences,
                             absl::Span<const int64_t> indices, FrozenModel which,
                             const std::stop_token& stop, const TakeHidden& take) {
  while (!indices.empty()) {
    if (stop.stop_requested()) {
      return absl::CancelledError("training stopped in the passes of the frozen model");
    }
    const absl::Span<const int64_t> some = indices.subspan(0, kSequencesAtOnce);
    ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden,
                     model.TargetHidden(sequences, some, which));
    for (size_t i = 0; i < some.size(); ++i) take(some[i], hidden[i]);
    indices.remove_prefix(some.size());
  }
  return absl::OkStatus();
}

void ForLogitsOf(FrozenPass& model, const at::Tensor& hidden_LD,
                 const std::function<void(int64_t first, absl::Span<float> logits)>& take) {
  const int64_t vocabulary = model.vocabulary();
  const int64_t rows_at_once = std::max<int64_t>(1, kLogitsAtOnce / vocabulary);
  std::vector<float> logits;
  for (int64_t begin = 0; begin < hidden_LD.size(0); begin += rows_at_once) {
    const int64_t count = std::min(rows_at_once, hidden_LD.size(0) - begin);
    logits.resize(static_cast<size_t>(count * vocabulary));
    model.Logits(hidden_LD.const_data_ptr<float>() + begin * hidden_LD.size(1), count,
                 logits.data());
    take(begin, absl::MakeSpan(logits));
  }
}

absl::StatusOr<std::vector<std::vector<double>>> FrozenLogProbs(
    FrozenPass& model, absl::Span<const TrainingRow> sequences, absl::Span<const int64_t> indices,
    FrozenModel which, const std::stop_token& stop) {
  std::vector<std::vector<double>> all;
  const int64_t vocabulary = model.vocabulary();
  const auto take = [&](int64_t index, const at::Tensor& hidden_LD) {
    const std::vector<TokenId> targets = TargetsOf(sequences[static_cast<size_t>(index)].labels);
    std::vector<double>& log_probs = all.emplace_back(targets.size());
    ForLogitsOf(model, hidden_LD, [&](int64_t first, absl::Span<float> logits) {
      const int64_t count = static_cast<int64_t>(logits.size()) / vocabulary;
      at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; ++m) {
          const float* row = logits.data() + m * vocabulary;
          const auto place = static_cast<size_t>(first + m);
          log_probs[place] =
              static_cast<double>(row[targets[place]]) - Kernels().log_sum_exp(row, vocabulary);
        }
      });
    });
  };
  RETURN_IF_ERROR(ForFrozenHidden(model, sequences, indices, which, stop, take));
  return all;
}

}  // namespace evolora
