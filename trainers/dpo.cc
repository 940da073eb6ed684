// Direct preference optimisation. Sequence 2 i is the chosen answer of row i, 2 i + 1 the rejected.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "log_probs.h"
#include "token_loss.h"

namespace evolora {
namespace {

class Dpo : public Loss {
 public:
  Dpo(const ObjectiveSettings& settings, absl::Span<const TrainingRow> rows) : settings_(settings) {
    for (const TrainingRow& row : rows) {
      sequences_.push_back({.ids = row.ids, .labels = row.labels});
      sequences_.push_back({.ids = row.counterpart.ids, .labels = row.counterpart.labels});
    }
    reference_.resize(rows.size());
    weights_.resize(sequences_.size());
  }

  absl::Span<const TrainingRow> sequences() const override { return sequences_; }
  int64_t sequences_per_row() const override { return 2; }

  absl::Status Prepare(FrozenPass& model, absl::Span<const int64_t> rows,
                       const std::stop_token& stop) override {
    std::vector<int64_t> indices;
    for (const int64_t row : rows) indices.insert(indices.end(), {2 * row, 2 * row + 1});
    ASSIGN_OR_RETURN(const auto log_probs,
                     FrozenLogProbs(model, sequences_, indices, settings_.reference, stop));
    const auto sum = [](const std::vector<double>& values) {
      double total = 0;
      for (const double value : values) total += value;
      return total;
    };
    for (size_t i = 0; i < rows.size(); ++i) {
      reference_[static_cast<size_t>(rows[i])] = {sum(log_probs[2 * i]), sum(log_probs[2 * i + 1])};
    }
    return absl::OkStatus();
  }

  double StepWeight(absl::Span<const int64_t> step_rows) const override {
    return static_cast<double>(step_rows.size());
  }

  bool wants_log_probs() const override { return true; }

  double TakeLogProbs(absl::Span<const TokenLayout::Label> labels,
                      absl::Span<const double> log_probs) override {
    // By label, ordered by sequence: the sums do not depend on the layout of the tokens.
    std::vector<std::pair<TokenLayout::Label, double>> sorted;
    for (size_t i = 0; i < labels.size(); ++i) sorted.emplace_back(labels[i], log_probs[i]);
    std::sort(sorted.begin(), sorted.end());
    double loss = 0;
    for (size_t i = 0; i < sorted.size();) {
      const int64_t row = sorted[i].first.sequence / 2;
      AnswerSums sums;
      int64_t times = 0;  // that the row stands in the micro-batch
      for (; i < sorted.size() && sorted[i].first.sequence / 2 == row; ++i) {
        const TokenLayout::Label& label = sorted[i].first;
        if (label == TokenLayout::Label{2 * row, 0}) ++times;
        if (i > 0 && sorted[i - 1].first == label) continue;
        (label.sequence == 2 * row ? sums.chosen : sums.rejected) += sorted[i].second;
      }
      loss += static_cast<double>(times) * TakeRow(row, sums, times);
    }
    return loss;
  }

  double LossAndGradient(const LogitsChunk& chunk, double factor) override {
    return LogProbLoss(chunk, factor, [&](size_t i, double /*log_prob*/) {
      return LabelLoss{.weight = weights_[static_cast<size_t>(chunk.labels[i].sequence)]};
    });
  }

  LossParts parts() const override { return DpoParts{form(), reference_}; }

  void AddTerms(absl::Span<const double> sums) override {
    figures_.pairs += sums[0];
    figures_.reward_chosen += sums[1];
    figures_.reward_rejected += sums[2];
    figures_.right += sums[3];
  }

  std::map<std::string, double> TakeFigures() override {
    const Figures f = std::exchange(figures_, Figures());
    const double pairs = std::max(1.0, f.pairs);
    return {{"reward_chosen", f.reward_chosen / pairs},
            {"reward_rejected", f.reward_rejected / pairs},
            {"reward_margin", (f.reward_chosen - f.reward_rejected) / pairs},
            {"reward_accuracy", f.right / pairs}};
  }

 private:
  struct Figures {
    double pairs = 0;
    double reward_chosen = 0;
    double reward_rejected = 0;
    double right = 0;
  };

  // Loss of a pair; leaves the weights of its labels.
  double TakeRow(int64_t row, const AnswerSums& sums, int64_t times) {
    const AnswerSums& reference = reference_[static_cast<size_t>(row)];
    const DpoTerm term =
        DpoTermOf(form(), sums.chosen - reference.chosen, sums.rejected - reference.rejected);
    weights_[static_cast<size_t>(2 * row)] = term.chosen_weight;
    weights_[static_cast<size_t>(2 * row + 1)] = -term.chosen_weight;
    const auto count = static_cast<double>(times);
    figures_.pairs += count;
    figures_.reward_chosen += count * term.reward_chosen;
    figures_.reward_rejected += count * term.reward_rejected;
    figures_.right += term.reward_chosen > term.reward_rejected ? count : 0;
    return term.loss;
  }

  DpoForm form() const { return {settings_.dpo_beta, settings_.dpo_label_smoothing}; }

  const ObjectiveSettings settings_;
  std::vector<TrainingRow> sequences_;
  std::vector<AnswerSums> reference_;  // by row
  std::vector<double> weights_;        // by sequence: d loss / d(-log p) of each of its labels
  Figures figures_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Loss>> MakeDpo(const ObjectiveSettings& settings,
                                              absl::Span<const TrainingRow> rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].counterpart.ids.empty()) continue;
    return absl::InvalidArgumentError(absl::StrCat("row ", i, ": dpo, but no rejected answer"));
  }
  return std::make_unique<Dpo>(settings, rows);
}

}  // namespace evolora
