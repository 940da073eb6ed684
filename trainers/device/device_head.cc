// M rows that predict something, D model width, V vocabulary.
#include "device/device_head.h"

#include <algorithm>
#include <utility>

#include "ATen/Functions.h"

namespace evolora {
namespace {

constexpr int64_t kMinRowsPerChunk = 16;

}  // namespace

DeviceHead::DeviceHead(const DeviceMath& math, DeviceMatrix head_VD, at::Tensor gradient,
                       int64_t logits_per_chunk)
    : math_(math),
      head_VD_(std::move(head_VD)),
      gradient_(std::move(gradient)),
      logits_per_chunk_(logits_per_chunk) {}

// In logits_.
at::Tensor DeviceHead::LogitsOf(const at::Tensor& hidden) {
  const at::Tensor logits =
      logits_.Reserve({hidden.size(0), head_VD_.out_features()}, math_.options());
  head_VD_.Outputs(hidden, logits);
  return logits;
}

void DeviceHead::LossAndGradient(const DeviceTokens& tokens, DeviceLoss& loss,
                                 const at::Tensor& hidden, const at::Tensor& d_hidden,
                                 const at::Tensor& sums) {
  const int64_t num_rows = hidden.size(0);
  const int64_t at_once = std::max(kMinRowsPerChunk, logits_per_chunk_ / head_VD_.out_features());
  const auto count_from = [&](int64_t begin) { return std::min(at_once, num_rows - begin); };
  at::Tensor logits;  // of the last chunk
  for (int64_t i = 0; loss.ties_labels() && i < num_rows; i += at_once) {
    logits = LogitsOf(hidden.narrow(0, i, count_from(i)));
    loss.See(tokens, {i, count_from(i)}, logits);
  }
  if (loss.ties_labels()) loss.Tie(tokens, sums);
  const bool has_logits = loss.ties_labels() && num_rows <= at_once;
  for (int64_t i = 0; i < num_rows; i += at_once) {
    if (!has_logits) logits = LogitsOf(hidden.narrow(0, i, count_from(i)));
    loss.Turn(tokens, {i, count_from(i)}, logits, sums);
    head_VD_.Inputs(logits, d_hidden.narrow(0, i, count_from(i)));
    if (gradient_.defined()) {
      gradient_.add_(at::mm(logits.t(), hidden.narrow(0, i, count_from(i))));
    }
  }
}

void DeviceHead::Logits(const float* hidden, int64_t rows, float* logits) const {
  const at::Tensor hidden_MD =
      at::from_blob(const_cast<float*>(hidden), {rows, head_VD_.in_features()}, at::kFloat);
  const at::Tensor own = at::empty({rows, head_VD_.out_features()}, math_.options());
  head_VD_.Outputs(hidden_MD.to(math_.options()), own);
  at::from_blob(logits, own.sizes(), at::kFloat).copy_(own);
}

}  // namespace evolora
