// Self-distillation. Sequence i is row i as the model sees it; its counterpart, what the teacher
// saw. L targets of a sequence, D model width, V vocabulary, K kept tokens of a target.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "log_probs.h"
#include "token_loss.h"

namespace evolora {
namespace {

using Target = TokenLayout::Target;
using Label = TokenLayout::Label;

// Far below any logit: the kernels' exp gives 0.
constexpr float kGone = -1e30f;

double Divided(float* logits, int64_t vocabulary, float inverse_temperature) {
  if (inverse_temperature != 1.0f) {
    for (int64_t v = 0; v < vocabulary; ++v) logits[v] *= inverse_temperature;
  }
  return Kernels().log_sum_exp(logits, vocabulary);
}

// The k largest, ties by id. `logits` are lost.
TopK TopOf(float* logits, int64_t vocabulary, int64_t k, float inverse_temperature) {
  const double lse = Divided(logits, vocabulary, inverse_temperature);
  std::vector<TokenId> ids(static_cast<size_t>(vocabulary));
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + k, ids.end(), [&](TokenId x, TokenId y) {
    return logits[x] != logits[y] ? logits[x] > logits[y] : x < y;
  });
  ids.resize(static_cast<size_t>(k));
  TopK top{.ids = std::move(ids)};
  for (const TokenId id : top.ids) {
    top.log_probs.push_back(static_cast<double>(logits[id]) - lse);
    logits[id] = kGone;
  }
  top.log_rest = Kernels().log_sum_exp(logits, vocabulary) - lse;
  return top;
}

// Of each row of the chunk, where its labels begin; and where the last one's end.
std::vector<int64_t> LabelBegins(const LogitsChunk& chunk) {
  std::vector<int64_t> begins;
  for (const Target& target : chunk.targets) {
    const bool is_new = static_cast<int64_t>(begins.size()) == target.row - chunk.first_row;
    if (is_new) begins.push_back(target.first_label);
  }
  begins.push_back(chunk.targets.back().first_label + chunk.targets.back().count);
  return begins;
}

absl::Span<const Label> LabelsOf(const LogitsChunk& chunk, const std::vector<int64_t>& label_begin,
                                 int64_t first_row, int64_t last_row) {
  const int64_t begin = label_begin[static_cast<size_t>(first_row)];
  return chunk.labels.subspan(
      static_cast<size_t>(begin),
      static_cast<size_t>(label_begin[static_cast<size_t>(last_row)] - begin));
}

class Distill : public Loss {
 public:
  Distill(const ObjectiveSettings& settings, absl::Span<const TrainingRow> rows)
      : settings_(settings),
        inverse_temperature_(static_cast<float>(1 / settings.distill_temperature)),
        rows_(rows),
        hidden_(rows.size()),
        top_(rows.size()) {}

  absl::Span<const TrainingRow> sequences() const override { return rows_; }

  absl::Status Prepare(FrozenPass& model, absl::Span<const int64_t> rows,
                       const std::stop_token& stop) override {
    model_ = &model;
    std::vector<TrainingRow> teacher;
    for (const TrainingRow& row : rows_) {
      teacher.push_back({.ids = row.counterpart.ids, .labels = row.counterpart.labels});
    }
    const auto keep = [&](int64_t row, const at::Tensor& hidden_LD) {
      const auto i = static_cast<size_t>(row);
      if (is_whole()) {
        hidden_[i] = hidden_LD;
      } else {
        top_[i] = TopOfEach(hidden_LD);
      }
    };
    return ForFrozenHidden(model, teacher, rows, settings_.reference, stop, keep);
  }

  double StepWeight(absl::Span<const int64_t> step_rows) const override {
    int64_t labels = 0;
    for (const int64_t i : step_rows) labels += NumTargets(rows_[static_cast<size_t>(i)].labels);
    return static_cast<double>(labels);
  }

  LossParts parts() const override {
    return DistillParts{settings_.distill_temperature,
                        model_ == nullptr || is_whole() ? 0 : settings_.distill_top_k, top_,
                        hidden_};
  }

  double LossAndGradient(const LogitsChunk& chunk, double factor) override {
    const std::vector<int64_t> label_begin = LabelBegins(chunk);
    losses_.assign(static_cast<size_t>(chunk.num_rows), 0);
    if (is_whole()) {
      WholeRows(chunk, label_begin, factor);
    } else {
      at::parallel_for(0, chunk.num_rows, 1, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; ++m) {
          losses_[static_cast<size_t>(m)] =
              TopRow(LabelsOf(chunk, label_begin, m, m + 1), chunk.logits + m * chunk.vocabulary,
                     chunk.vocabulary, factor);
        }
      });
    }
    double sum = 0;
    for (const double loss : losses_) sum += loss;
    return sum;
  }

 private:
  bool is_whole() const {
    return settings_.distill_top_k == 0 || settings_.distill_top_k >= model_->vocabulary();
  }

  std::vector<TopK> TopOfEach(const at::Tensor& hidden_LD) const {
    std::vector<TopK> all;
    const int64_t vocabulary = model_->vocabulary();
    ForLogitsOf(*model_, hidden_LD, [&](int64_t /*first*/, absl::Span<float> logits) {
      std::vector<TopK> some(logits.size() / static_cast<size_t>(vocabulary));
      at::parallel_for(0, static_cast<int64_t>(some.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; ++m) {
          some[static_cast<size_t>(m)] = TopOf(logits.data() + m * vocabulary, vocabulary,
                                               settings_.distill_top_k, inverse_temperature_);
        }
      });
      std::move(some.begin(), some.end(), std::back_inserter(all));
    });
    return all;
  }

  // Some rows at a time, so that the teacher's logits take no more room than the chunk's own.
  void WholeRows(const LogitsChunk& chunk, const std::vector<int64_t>& label_begin, double factor) {
    const auto first_of = [&](int64_t row) { return label_begin[static_cast<size_t>(row)]; };
    for (int64_t first = 0, last = 0; first < chunk.num_rows; first = last) {
      last = first + 1;
      while (last < chunk.num_rows && first_of(last + 1) - first_of(first) <= chunk.num_rows) {
        ++last;
      }
      TeacherLogits(LabelsOf(chunk, label_begin, first, last));
      at::parallel_for(first, last, 1, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; ++m) {
          losses_[static_cast<size_t>(m)] =
              WholeRow(chunk.logits + m * chunk.vocabulary,
                       teacher_.data() + (first_of(m) - first_of(first)) * chunk.vocabulary,
                       first_of(m + 1) - first_of(m), chunk.vocabulary, factor);
        }
      });
    }
  }

  // Into teacher_, [labels, V].
  void TeacherLogits(absl::Span<const Label> labels) {
    const int64_t width = hidden_[static_cast<size_t>(labels.front().sequence)].size(1);
    const auto count = static_cast<int64_t>(labels.size());
    std::vector<float> hidden;
    for (const Label& label : labels) {
      const float* row = hidden_[static_cast<size_t>(label.sequence)].const_data_ptr<float>() +
                         label.ordinal * width;
      hidden.insert(hidden.end(), row, row + width);
    }
    teacher_.resize(static_cast<size_t>(count * model_->vocabulary()));
    model_->Logits(hidden.data(), count, teacher_.data());
  }

  // KL(p || q) of `count` teachers p; d / d logits = (count q - sum of p) / T.
  double WholeRow(float* logits, float* teacher, int64_t count, int64_t vocabulary,
                  double factor) const {
    const double lse_q = Divided(logits, vocabulary, inverse_temperature_);
    std::vector<float> sum_p(static_cast<size_t>(vocabulary));
    std::vector<float> p(static_cast<size_t>(vocabulary));
    double loss = 0;
    for (int64_t i = 0; i < count; ++i) {
      float* t = teacher + i * vocabulary;
      const double lse_p = Divided(t, vocabulary, inverse_temperature_);
      std::copy_n(t, vocabulary, p.data());
      Kernels().exp_shifted(p.data(), vocabulary, static_cast<float>(lse_p), 1);
      for (size_t v = 0; v < p.size(); ++v) {
        const double log_ratio =
            (static_cast<double>(t[v]) - lse_p) - (static_cast<double>(logits[v]) - lse_q);
        loss += static_cast<double>(p[v]) * log_ratio;
        sum_p[v] += p[v];
      }
    }
    const double slope = factor * static_cast<double>(inverse_temperature_);
    Kernels().exp_shifted(logits, vocabulary, static_cast<float>(lse_q),
                          static_cast<float>(slope * static_cast<double>(count)));
    for (size_t v = 0; v < sum_p.size(); ++v) logits[v] -= static_cast<float>(slope) * sum_p[v];
    return loss;
  }

  // One label over K tokens and the rest, whose share is R in the teacher and r in the model:
  //   loss  sum_K p log(p / q) + R log(R / r)
  //   d / d logits, times T: q - p on the K, q (1 - R / r) elsewhere.
  double TopRow(absl::Span<const Label> labels, float* logits, int64_t vocabulary,
                double factor) const {
    const double lse = Divided(logits, vocabulary, inverse_temperature_);
    double loss = 0, weight = 0;
    std::vector<std::pair<TokenId, double>> corrections;  // of d / d logits, without the factor
    std::vector<float> rest(static_cast<size_t>(vocabulary));
    for (const Label& label : labels) {
      const TopK& top =
          top_[static_cast<size_t>(label.sequence)][static_cast<size_t>(label.ordinal)];
      std::copy_n(logits, vocabulary, rest.data());
      for (const TokenId id : top.ids) rest[static_cast<size_t>(id)] = kGone;
      const double log_rest = Kernels().log_sum_exp(rest.data(), vocabulary) - lse;
      const double ratio = std::exp(top.log_rest - log_rest);  // R / r
      loss += std::exp(top.log_rest) * (top.log_rest - log_rest);
      weight += 1 - ratio;
      for (size_t k = 0; k < top.ids.size(); ++k) {
        const double log_q = static_cast<double>(logits[top.ids[k]]) - lse;
        const double p = std::exp(top.log_probs[k]);
        loss += p * (top.log_probs[k] - log_q);
        corrections.emplace_back(top.ids[k], std::exp(log_q) * ratio - p);
      }
    }
    const double slope = factor * static_cast<double>(inverse_temperature_);
    Kernels().exp_shifted(logits, vocabulary, static_cast<float>(lse),
                          static_cast<float>(slope * weight));
    for (const auto& [id, value] : corrections) logits[id] += static_cast<float>(slope * value);
    return loss;
  }

  const ObjectiveSettings settings_;
  const float inverse_temperature_;
  const absl::Span<const TrainingRow> rows_;
  FrozenPass* model_ = nullptr;
  std::vector<at::Tensor> hidden_;      // by row, [L, D]; whole vocabulary only
  std::vector<std::vector<TopK>> top_;  // by row, [L]; else
  std::vector<float> teacher_;          // logits of some labels
  std::vector<double> losses_;          // of the rows of a chunk
};

}  // namespace

absl::StatusOr<std::unique_ptr<Loss>> MakeDistill(const ObjectiveSettings& settings,
                                                  absl::Span<const TrainingRow> rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (TargetsOf(rows[i].labels) == TargetsOf(rows[i].counterpart.labels)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("row ", i, ": distill, but the teacher's labels are not the row's own"));
  }
  return std::make_unique<Distill>(settings, rows);
}

}  // namespace evolora
