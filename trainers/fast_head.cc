// M rows that predict something, D model width, V vocabulary.
#include "fast_head.h"

#include <algorithm>

#include "ATen/Parallel.h"
#include "evolora/model/kernels.h"
#include "products.h"

namespace evolora {
namespace {

constexpr int64_t kMinRowsPerChunk = 16;

using Target = TokenLayout::Target;

// Loss of one row; its logits become factor * d loss / d logits = factor * (count * softmax -
// hits).
double RowLoss(absl::Span<const Target> targets, int64_t vocabulary, double factor, float* logits) {
  const double lse = Kernels().log_sum_exp(logits, vocabulary);
  double loss = 0;
  int64_t count = 0;
  for (const Target& target : targets) {
    loss += static_cast<double>(target.count) * (lse - static_cast<double>(logits[target.id]));
    count += target.count;
  }
  Kernels().exp_shifted(logits, vocabulary, static_cast<float>(lse),
                        static_cast<float>(factor * static_cast<double>(count)));
  for (const Target& target : targets) {
    logits[target.id] -= static_cast<float>(factor * static_cast<double>(target.count));
  }
  return loss;
}

}  // namespace

FastHead::FastHead(const at::Tensor& head_VD, int64_t logits_per_chunk)
    : head_VD_(head_VD), packed_({head_VD}), logits_per_chunk_(logits_per_chunk) {}

double FastHead::LossAndGradient(const TokenLayout& layout, const float* hidden, double factor,
                                 float* d_hidden) {
  const int64_t vocabulary = packed_.out_features(), width = packed_.in_features();
  const auto num_rows = static_cast<int64_t>(layout.predicting.size());
  const int64_t rows_per_chunk = std::max(kMinRowsPerChunk, logits_per_chunk_ / vocabulary);
  const absl::Span<const Target> targets = layout.targets;
  const auto first_of = [&](int64_t row) {
    return static_cast<size_t>(
        std::lower_bound(targets.begin(), targets.end(), row,
                         [](const Target& target, int64_t r) { return target.row < r; }) -
        targets.begin());
  };
  double loss_sum = 0;
  for (int64_t begin = 0; begin < num_rows; begin += rows_per_chunk) {
    const int64_t count = std::min(rows_per_chunk, num_rows - begin);
    float* logits = logits_.Reserve(count * vocabulary);
    SumOfProducts({Product{.left = hidden + begin * width,
                           .ldl = width,
                           .depth = width,
                           .right = packed_.panels()}},
                  count, vocabulary, logits, vocabulary, GemmStore::kSet);
    losses_.resize(static_cast<size_t>(count));
    at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
      for (int64_t m = first; m < last; ++m) {
        const size_t from = first_of(begin + m);
        losses_[static_cast<size_t>(m)] =
            RowLoss(targets.subspan(from, first_of(begin + m + 1) - from), vocabulary, factor,
                    logits + m * vocabulary);
      }
    });
    for (const double loss : losses_) loss_sum += loss;
    SumOfProducts({Product{.left = logits,
                           .ldl = vocabulary,
                           .depth = vocabulary,
                           .right = head_VD_.const_data_ptr<float>(),
                           .ldr = width}},
                  count, width, d_hidden + begin * width, width, GemmStore::kSet);
  }
  return loss_sum;
}

}  // namespace evolora
