// M rows that predict something, D model width, V vocabulary.
#include "fast_head.h"

#include <algorithm>

#include "log_probs.h"
#include "products.h"

namespace evolora {
namespace {

constexpr int64_t kMinRowsPerChunk = 16;

using Target = TokenLayout::Target;

}  // namespace

FastHead::FastHead(const at::Tensor& head_VD, int64_t logits_per_chunk)
    : head_VD_(head_VD), packed_({head_VD}), logits_per_chunk_(logits_per_chunk) {}

int64_t FastHead::RowsPerChunk() const {
  return std::max(kMinRowsPerChunk, logits_per_chunk_ / packed_.out_features());
}

void FastHead::Logits(const float* hidden, int64_t rows, float* logits) const {
  const int64_t width = packed_.in_features();
  SumOfProducts({Product{.left = hidden, .ldl = width, .depth = width, .right = packed_.panels()}},
                rows, packed_.out_features(), logits, packed_.out_features(), GemmStore::kSet);
}

LogitsChunk FastHead::ChunkOf(const TokenLayout& layout, int64_t begin, int64_t count) {
  const auto first_of = [&](int64_t row) {
    return std::lower_bound(layout.targets.begin(), layout.targets.end(), row,
                            [](const Target& target, int64_t r) { return target.row < r; }) -
           layout.targets.begin();
  };
  const auto from = static_cast<size_t>(first_of(begin));
  const auto to = static_cast<size_t>(first_of(begin + count));
  return {.logits = logits_.Reserve(count * packed_.out_features()),
          .num_rows = count,
          .vocabulary = packed_.out_features(),
          .first_row = begin,
          .targets = absl::MakeConstSpan(layout.targets).subspan(from, to - from),
          .labels = layout.labels};
}

// The logits of a micro-batch of one chunk stay in logits_.
double FastHead::GiveLogProbs(const TokenLayout& layout, const float* hidden, Loss& loss) {
  const auto num_rows = static_cast<int64_t>(layout.predicting.size());
  log_probs_.resize(layout.labels.size());
  for (int64_t begin = 0; begin < num_rows; begin += RowsPerChunk()) {
    const LogitsChunk chunk = ChunkOf(layout, begin, std::min(RowsPerChunk(), num_rows - begin));
    Logits(hidden + begin * packed_.in_features(), chunk.num_rows, chunk.logits);
    LabelLogProbs(chunk, absl::MakeSpan(log_probs_));
  }
  return loss.TakeLogProbs(layout.labels, log_probs_);
}

double FastHead::LossAndGradient(const TokenLayout& layout, const float* hidden, Loss& loss,
                                 double factor, float* d_hidden) {
  const int64_t vocabulary = packed_.out_features(), width = packed_.in_features();
  const auto num_rows = static_cast<int64_t>(layout.predicting.size());
  double loss_sum = 0;
  if (loss.wants_log_probs()) loss_sum += GiveLogProbs(layout, hidden, loss);
  const bool has_logits = loss.wants_log_probs() && num_rows <= RowsPerChunk();
  for (int64_t begin = 0; begin < num_rows; begin += RowsPerChunk()) {
    const LogitsChunk chunk = ChunkOf(layout, begin, std::min(RowsPerChunk(), num_rows - begin));
    if (!has_logits) Logits(hidden + begin * width, chunk.num_rows, chunk.logits);
    loss_sum += loss.LossAndGradient(chunk, factor);
    SumOfProducts({Product{.left = chunk.logits,
                           .ldl = vocabulary,
                           .depth = vocabulary,
                           .right = head_VD_.const_data_ptr<float>(),
                           .ldr = width}},
                  chunk.num_rows, width, d_hidden + begin * width, width, GemmStore::kSet);
  }
  return loss_sum;
}

}  // namespace evolora
