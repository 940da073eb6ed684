// Policy gradient on samples with rewards. Sequence i is row i: a prompt and a sampled answer.
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

using Label = TokenLayout::Label;

// Of the rows of a group: the deviation is that of a sample (n - 1), as torch.std gives it.
struct Spread {
  double mean = 0;
  double deviation = 0;
};

Spread SpreadOf(absl::Span<const double> rewards) {
  Spread spread;
  for (const double reward : rewards) spread.mean += reward;
  spread.mean /= static_cast<double>(rewards.size());
  double squares = 0;
  for (const double reward : rewards) squares += (reward - spread.mean) * (reward - spread.mean);
  spread.deviation = std::sqrt(squares / static_cast<double>(rewards.size() - 1));
  return spread;
}

// One advantage a row. InvalidArgument: a row without, or a group of one.
absl::StatusOr<std::vector<double>> Advantages(absl::Span<const TrainingRow> rows, bool scaled) {
  constexpr double kEpsilon = 1e-4;
  std::map<std::string, std::vector<double>> groups;
  for (const TrainingRow& row : rows) {
    if (row.sample.reward.has_value()) groups[row.sample.group].push_back(*row.sample.reward);
  }
  std::vector<double> advantages;
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampleFacts& sample = rows[i].sample;
    if (sample.advantage.has_value()) {
      advantages.push_back(*sample.advantage);
    } else if (!sample.reward.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("row ", i, ": policy, but neither advantage nor reward"));
    } else if (groups[sample.group].size() < 2) {
      return absl::InvalidArgumentError(absl::StrCat(
          "row ", i, ": the only one of group '", sample.group, "', so nothing to compare with"));
    } else {
      const Spread spread = SpreadOf(groups[sample.group]);
      advantages.push_back((*sample.reward - spread.mean) /
                           (scaled ? spread.deviation + kEpsilon : 1.0));
    }
  }
  return advantages;
}

class Policy : public Loss {
 public:
  Policy(const ObjectiveSettings& settings, absl::Span<const TrainingRow> rows,
         std::vector<double> advantages)
      : settings_(settings),
        form_{.cispo = settings.policy_loss == PolicyLoss::kCispo,
              .low = 1 - settings.policy_clip_low,
              .high = 1 + settings.policy_clip_high,
              .kl_beta = settings.policy_kl_beta},
        rows_(rows),
        advantages_(std::move(advantages)),
        old_(rows.size()),
        reference_(rows.size()) {
    for (size_t i = 0; i < rows.size(); ++i) {
      const std::vector<float>& given = rows[i].sample.old_log_probs;
      old_[i].assign(given.begin(), given.end());
      num_labels_.push_back(static_cast<double>(NumTargets(rows[i].labels)));
      const bool by_sequence = settings.policy_mean == PolicyMean::kSequences;
      shares_.push_back(by_sequence ? 1 / num_labels_.back() : 1);
    }
  }

  absl::Span<const TrainingRow> sequences() const override { return rows_; }

  absl::Status Prepare(FrozenPass& model, absl::Span<const int64_t> rows,
                       const std::stop_token& stop) override {
    std::vector<int64_t> without;
    for (const int64_t i : rows) {
      if (old_[static_cast<size_t>(i)].empty()) without.push_back(i);
    }
    RETURN_IF_ERROR(Fill(model, without, FrozenModel::kInit, stop, old_));
    if (settings_.policy_kl_beta == 0) return absl::OkStatus();
    return Fill(model, rows, settings_.reference, stop, reference_);
  }

  double StepWeight(absl::Span<const int64_t> step_rows) const override {
    if (settings_.policy_mean == PolicyMean::kSequences) {
      return static_cast<double>(step_rows.size());
    }
    double labels = 0;
    for (const int64_t i : step_rows) labels += num_labels_[static_cast<size_t>(i)];
    return labels;
  }

  double LossAndGradient(const LogitsChunk& chunk, double factor) override {
    at_.resize(chunk.labels.size());
    const double loss = LogProbLoss(chunk, factor, [&](size_t i, double log_prob) {
      const auto row = static_cast<size_t>(chunk.labels[i].sequence);
      at_[i] = TermOf(chunk.labels[i], log_prob);
      return LabelLoss{at_[i].loss * shares_[row], at_[i].weight * shares_[row]};
    });
    const auto first = static_cast<size_t>(chunk.targets.front().first_label);
    const auto last =
        static_cast<size_t>(chunk.targets.back().first_label + chunk.targets.back().count);
    for (size_t i = first; i < last; ++i) {
      figures_.labels += 1;
      figures_.ratio += at_[i].ratio;
      figures_.clipped += at_[i].clipped;
      figures_.kl += at_[i].old_kl;
    }
    return loss;
  }

  LossParts parts() const override {
    return PolicyParts{form_, advantages_, old_, reference_, shares_};
  }

  void AddTerms(absl::Span<const double> sums) override {
    figures_.labels += sums[0];
    figures_.ratio += sums[1];
    figures_.clipped += sums[2];
    figures_.kl += sums[3];
  }

  std::map<std::string, double> TakeFigures() override {
    const Figures f = std::exchange(figures_, Figures());
    const double labels = std::max(1.0, f.labels);
    return {{"policy_ratio", f.ratio / labels},
            {"policy_clipped", f.clipped / labels},
            {"policy_kl_old", f.kl / labels}};
  }

 private:
  struct Figures {
    double labels = 0;
    double ratio = 0;
    double clipped = 0;
    double kl = 0;
  };

  absl::Status Fill(FrozenPass& model, absl::Span<const int64_t> rows, FrozenModel which,
                    const std::stop_token& stop, std::vector<std::vector<double>>& out) const {
    ASSIGN_OR_RETURN(auto log_probs, FrozenLogProbs(model, rows_, rows, which, stop));
    for (size_t i = 0; i < rows.size(); ++i) {
      out[static_cast<size_t>(rows[i])] = std::move(log_probs[i]);
    }
    return absl::OkStatus();
  }

  PolicyTerm TermOf(const Label& label, double log_prob) const {
    const auto row = static_cast<size_t>(label.sequence);
    const auto place = static_cast<size_t>(label.ordinal);
    const double reference = form_.kl_beta > 0 ? reference_[row][place] : 0;
    return PolicyTermOf(form_, {log_prob, old_[row][place], reference, advantages_[row]});
  }

  const ObjectiveSettings settings_;
  const PolicyForm form_;
  const absl::Span<const TrainingRow> rows_;
  const std::vector<double> advantages_;        // by row
  std::vector<std::vector<double>> old_;        // by row and label: log-probabilities
  std::vector<std::vector<double>> reference_;  // the same
  std::vector<double> num_labels_;              // by row
  std::vector<double> shares_;                  // by row: of a label's loss
  std::vector<PolicyTerm> at_;                  // of a chunk
  Figures figures_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Loss>> MakePolicy(const ObjectiveSettings& settings,
                                                 absl::Span<const TrainingRow> rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto given = static_cast<int64_t>(rows[i].sample.old_log_probs.size());
    if (given == 0 || given == NumTargets(rows[i].labels)) continue;
    return absl::InvalidArgumentError(absl::StrCat("row ", i, ": ", given, " old_logprobs for ",
                                                   NumTargets(rows[i].labels), " labels"));
  }
  ASSIGN_OR_RETURN(std::vector<double> advantages, Advantages(rows, settings.policy_scale_rewards));
  return std::make_unique<Policy>(settings, rows, std::move(advantages));
}

}  // namespace evolora
