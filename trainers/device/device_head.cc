// M rows that predict something, D model width, V vocabulary.
#include "device/device_head.h"

#include <algorithm>
#include <utility>

#include "ATen/Functions.h"

namespace evolora {
namespace {

constexpr int64_t kMinRowsPerChunk = 16;

}  // namespace

DeviceHead::DeviceHead(const DeviceMath& math, at::Tensor head_VD, int64_t logits_per_chunk)
    : math_(math), head_VD_(std::move(head_VD)), logits_per_chunk_(logits_per_chunk) {}

void DeviceHead::LossAndGradient(const DeviceTokens& tokens, const at::Tensor& hidden,
                                 double factor, const at::Tensor& d_hidden,
                                 const at::Tensor& loss_sum) {
  const int64_t vocabulary = head_VD_.size(0), num_rows = hidden.size(0);
  const int64_t rows_per_chunk = std::max(kMinRowsPerChunk, logits_per_chunk_ / vocabulary);
  const at::Tensor losses = at::empty(tokens.target_ids.sizes(), math_.fp32());
  for (int64_t begin = 0; begin < num_rows; begin += rows_per_chunk) {
    const int64_t count = std::min(rows_per_chunk, num_rows - begin);
    at::Tensor logits = logits_.Reserve({count, vocabulary}, math_.options());
    at::mm_out(logits, hidden.narrow(0, begin, count), head_VD_.t());
    math_.CrossEntropy({.first_target = tokens.first_target.const_data_ptr<int32_t>() + begin,
                        .ids = tokens.target_ids.const_data_ptr<int32_t>(),
                        .counts = tokens.target_counts.const_data_ptr<int32_t>(),
                        .losses = losses.mutable_data_ptr<float>(),
                        .factor = static_cast<float>(factor)},
                       logits);
    at::Tensor out = d_hidden.narrow(0, begin, count);
    at::mm_out(out, logits, head_VD_);
  }
  loss_sum.add_(losses.sum(at::kDouble));
}

}  // namespace evolora
