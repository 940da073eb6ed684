// M rows that predict something, D model width, V vocabulary.
#include "device/device_head.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "ATen/Functions.h"
#include "log_probs.h"

namespace evolora {
namespace {

using Target = TokenLayout::Target;

constexpr int64_t kMinRowsPerChunk = 16;
constexpr int64_t kHostLogitsPerChunk = int64_t{1} << 24;

// Calls body(first row, number of rows) for all rows, some at a time.
template <typename Body>
void ForChunks(int64_t num_rows, int64_t rows_per_chunk, const Body& body) {
  for (int64_t begin = 0; begin < num_rows; begin += rows_per_chunk) {
    body(begin, std::min(rows_per_chunk, num_rows - begin));
  }
}

LogitsChunk ChunkOf(const TokenLayout& layout, int64_t begin, const at::Tensor& logits) {
  const auto first_of = [&](int64_t row) {
    return static_cast<size_t>(
        std::lower_bound(layout.targets.begin(), layout.targets.end(), row,
                         [](const Target& target, int64_t r) { return target.row < r; }) -
        layout.targets.begin());
  };
  const size_t from = first_of(begin);
  return {.logits = logits.mutable_data_ptr<float>(),
          .num_rows = logits.size(0),
          .vocabulary = logits.size(1),
          .first_row = begin,
          .targets = absl::MakeConstSpan(layout.targets)
                         .subspan(from, first_of(begin + logits.size(0)) - from),
          .labels = layout.labels};
}

}  // namespace

DeviceHead::DeviceHead(const DeviceMath& math, at::Tensor head_VD, int64_t logits_per_chunk)
    : math_(math), head_VD_(std::move(head_VD)), logits_per_chunk_(logits_per_chunk) {}

int64_t DeviceHead::RowsPerChunk(int64_t logits_per_chunk) const {
  return std::max(kMinRowsPerChunk, logits_per_chunk / head_VD_.size(0));
}

void DeviceHead::CrossEntropy(const DeviceTokens& tokens, const at::Tensor& hidden,
                              const at::Tensor& d_hidden, const at::Tensor& loss_sum) {
  const at::Tensor losses = at::zeros(tokens.target_ids.sizes(), math_.fp32());
  ForChunks(hidden.size(0), RowsPerChunk(logits_per_chunk_), [&](int64_t begin, int64_t count) {
    at::Tensor logits = logits_.Reserve({count, head_VD_.size(0)}, math_.options());
    at::mm_out(logits, hidden.narrow(0, begin, count), head_VD_.t());
    math_.CrossEntropy({.first_target = tokens.first_target.const_data_ptr<int32_t>() + begin,
                        .ids = tokens.target_ids.const_data_ptr<int32_t>(),
                        .counts = tokens.target_counts.const_data_ptr<int32_t>(),
                        .losses = losses.mutable_data_ptr<float>(),
                        .factor = tokens.factor.const_data_ptr<float>()},
                       logits);
    at::Tensor out = d_hidden.narrow(0, begin, count);
    at::mm_out(out, logits, head_VD_);
  });
  loss_sum.add_(losses.sum(at::kDouble));
}

at::Tensor DeviceHead::HostLogits(const at::Tensor& hidden) const {
  return at::mm(hidden, head_VD_.t()).to(at::device(at::kCPU).dtype(at::kFloat));
}

void DeviceHead::GiveLogProbs(const TokenLayout& layout, const at::Tensor& hidden,
                              absl::Span<double> log_probs) const {
  ForChunks(static_cast<int64_t>(layout.predicting.size()), RowsPerChunk(kHostLogitsPerChunk),
            [&](int64_t begin, int64_t count) {
              const at::Tensor logits = HostLogits(hidden.narrow(0, begin, count));
              LabelLogProbs(ChunkOf(layout, begin, logits), log_probs);
            });
}

double DeviceHead::HostLoss(const TokenLayout& layout, Loss& loss, double factor,
                            const at::Tensor& hidden, const at::Tensor& d_hidden) {
  double sum = 0;
  if (loss.wants_log_probs()) {
    std::vector<double> log_probs(layout.labels.size());
    GiveLogProbs(layout, hidden, absl::MakeSpan(log_probs));
    sum += loss.TakeLogProbs(layout.labels, log_probs);
  }
  d_hidden.zero_();
  ForChunks(static_cast<int64_t>(layout.predicting.size()), RowsPerChunk(kHostLogitsPerChunk),
            [&](int64_t begin, int64_t count) {
              const at::Tensor logits = HostLogits(hidden.narrow(0, begin, count));
              sum += loss.LossAndGradient(ChunkOf(layout, begin, logits), factor);
              at::Tensor out = d_hidden.narrow(0, begin, count);
              at::mm_out(out, logits.to(math_.options()), head_VD_);
            });
  return sum;
}

void DeviceHead::Logits(const float* hidden, int64_t rows, float* logits) const {
  const at::Tensor hidden_MD =
      at::from_blob(const_cast<float*>(hidden), {rows, head_VD_.size(1)}, at::kFloat);
  at::from_blob(logits, {rows, head_VD_.size(0)}, at::kFloat)
      .copy_(at::mm(hidden_MD.to(math_.options()), head_VD_.t()));
}

}  // namespace evolora
