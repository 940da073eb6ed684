// N tokens, L tokens of one row, H query heads, K key heads, G = H / K, E head width.
#include "device/device_attention.h"

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "ATen/Context.h"
#include "ATen/Functions.h"

namespace evolora {
namespace {

constexpr int64_t kFlashMaxWidth = 192;  // backward: above it not every GPU from Ampere on

// [L, L]: 0 where the query (row) sees the key (column), else -infinity.
at::Tensor Mask(int64_t length, int64_t window, const at::TensorOptions& options) {
  const at::Tensor hidden =
      at::full({length, length}, -std::numeric_limits<double>::infinity(), options);
  at::Tensor mask = hidden.triu(1);
  if (window > 0) mask.add_(hidden.tril(-window));
  return mask;
}

// Flash attention's gradient is added up in any order unless LibTorch is told otherwise, which it
// is only for the life of this object: elsewhere it would refuse or fill what we overwrite.
class FixedOrder {
 public:
  FixedOrder()
      : context_(at::globalContext()),
        was_fixed_(context_.deterministicAlgorithms()),
        was_warning_(context_.deterministicAlgorithmsWarnOnly()),
        was_filling_(context_.deterministicFillUninitializedMemory()) {
    context_.setDeterministicAlgorithms(true, /*warn_only=*/false);
    context_.setDeterministicFillUninitializedMemory(false);
  }
  ~FixedOrder() {
    context_.setDeterministicAlgorithms(was_fixed_, was_warning_);
    context_.setDeterministicFillUninitializedMemory(was_filling_);
  }
  FixedOrder(const FixedOrder&) = delete;
  FixedOrder& operator=(const FixedOrder&) = delete;

 private:
  at::Context& context_;
  bool was_fixed_, was_warning_, was_filling_;
};

// Flash attention counts the tokens on the left without the token itself.
std::optional<int64_t> LeftOf(int64_t window) {
  return window > 0 ? std::optional<int64_t>(window - 1) : std::nullopt;
}

}  // namespace

DeviceAttention::DeviceAttention(const LlamaConfig& config, const DeviceMath& math)
    : config_(config),
      math_(math),
      scale_(1 / std::sqrt(static_cast<double>(config.head_dim))),
      flash_(math.device().is_cuda() && math.dtype() == at::kBFloat16 && config.head_dim % 8 == 0 &&
             config.head_dim <= kFlashMaxWidth) {}

// Views [N, heads, E] of the three.
DeviceAttention::Heads DeviceAttention::Split(const at::Tensor& qkv) const {
  const int64_t tokens = qkv.size(0), width = config_.head_dim;
  const int64_t queries = config_.num_heads, keys = config_.num_kv_heads;
  return {qkv.narrow(1, 0, queries * width).view({tokens, queries, width}),
          qkv.narrow(1, queries * width, keys * width).view({tokens, keys, width}),
          qkv.narrow(1, (queries + keys) * width, keys * width).view({tokens, keys, width})};
}

// [L, H, E] -> [K, G L, E] in fp32.
at::Tensor DeviceAttention::ByKeyHead(const at::Tensor& rows) const {
  const int64_t keys = config_.num_kv_heads, groups = config_.num_heads / keys;
  return rows.view({rows.size(0), keys, groups, config_.head_dim})
      .permute({1, 2, 0, 3})
      .to(at::kFloat)
      .reshape({keys, groups * rows.size(0), config_.head_dim});
}

// q [K, G L, E] scaled, k and v [K, L, E].
DeviceAttention::Heads DeviceAttention::RowHeads(const at::Tensor& qkv_row) const {
  const Heads row = Split(qkv_row);
  return {ByKeyHead(row.q).mul(scale_), row.k.permute({1, 0, 2}).to(at::kFloat),
          row.v.permute({1, 0, 2}).to(at::kFloat)};
}

// [K, G L, L].
at::Tensor DeviceAttention::Probabilities(int64_t layer, const Heads& heads) const {
  const int64_t keys = config_.num_kv_heads, groups = config_.num_heads / keys;
  const int64_t length = heads.k.size(1);
  const at::Tensor scores = at::bmm(heads.q, heads.k.transpose(1, 2));
  scores.view({keys, groups, length, length})
      .add_(Mask(length, LayerWindow(config_, layer), math_.fp32()));
  return at::softmax(scores, -1);
}

at::Tensor DeviceAttention::Forward(int64_t layer, const DeviceTokens& tokens,
                                    const at::Tensor& qkv, Kept& kept) const {
  const int64_t width = config_.head_dim, queries = config_.num_heads;
  const int64_t keys = config_.num_kv_heads, groups = queries / keys;
  if (flash_) {
    const Heads heads = Split(qkv);
    const std::optional<int64_t> left = LeftOf(LayerWindow(config_, layer));
    std::tie(kept.mixed, kept.logsumexp, kept.rng_state, kept.unused, std::ignore) =
        at::_flash_attention_forward(heads.q, heads.k, heads.v, tokens.row_begin, tokens.row_begin,
                                     tokens.longest_row, tokens.longest_row, /*dropout_p=*/0,
                                     /*is_causal=*/true, /*return_debug_mask=*/false, scale_, left,
                                     left.has_value() ? std::optional<int64_t>(0) : std::nullopt);
    return kept.mixed.view({tokens.num_all(), queries * width});
  }
  at::Tensor mixed = at::empty({tokens.num_all(), queries * width}, math_.options());
  int64_t begin = 0;
  for (const int64_t length : tokens.row_lengths) {
    const Heads heads = RowHeads(qkv.narrow(0, begin, length));
    const at::Tensor own = at::bmm(Probabilities(layer, heads), heads.v);
    mixed.narrow(0, begin, length)
        .view({length, keys, groups, width})
        .copy_(own.view({keys, groups, length, width}).permute({2, 0, 1, 3}));
    begin += length;
  }
  return mixed;
}

// One row: qkv and d_qkv [L, (H + 2 K) E], d_mixed [L, H E].
void DeviceAttention::PlainBackward(int64_t layer, const at::Tensor& qkv, const at::Tensor& d_mixed,
                                    const at::Tensor& d_qkv) const {
  const int64_t width = config_.head_dim, keys = config_.num_kv_heads;
  const int64_t length = qkv.size(0), groups = config_.num_heads / keys;
  const Heads heads = RowHeads(qkv);
  const at::Tensor d_own = ByKeyHead(d_mixed.view({length, config_.num_heads, width}));
  const at::Tensor probs = Probabilities(layer, heads);
  const at::Tensor d_probs = at::bmm(d_own, heads.v.transpose(1, 2));
  const at::Tensor d_scores = at::_softmax_backward_data(d_probs, probs, -1, at::kFloat);
  const Heads out = Split(d_qkv);
  const at::Tensor d_q = at::bmm(d_scores, heads.k).mul_(scale_);
  out.q.view({length, keys, groups, width})
      .copy_(d_q.view({keys, groups, length, width}).permute({2, 0, 1, 3}));
  out.k.copy_(at::bmm(d_scores.transpose(1, 2), heads.q).permute({1, 0, 2}));
  out.v.copy_(at::bmm(probs.transpose(1, 2), d_own).permute({1, 0, 2}));
}

void DeviceAttention::Backward(int64_t layer, const DeviceTokens& tokens, const at::Tensor& qkv,
                               const Kept& kept, const at::Tensor& d_mixed,
                               const at::Tensor& d_qkv) const {
  if (flash_) {
    const FixedOrder fixed_order;
    const Heads heads = Split(qkv), out = Split(d_qkv);
    const std::optional<int64_t> left = LeftOf(LayerWindow(config_, layer));
    const auto [d_q, d_k, d_v] = at::_flash_attention_backward(
        d_mixed.view(kept.mixed.sizes()), heads.q, heads.k, heads.v, kept.mixed, kept.logsumexp,
        tokens.row_begin, tokens.row_begin, tokens.longest_row, tokens.longest_row,
        /*dropout_p=*/0, /*is_causal=*/true, kept.rng_state, kept.unused, scale_, left,
        left.has_value() ? std::optional<int64_t>(0) : std::nullopt);
    out.q.copy_(d_q);
    out.k.copy_(d_k);
    out.v.copy_(d_v);
    return;
  }
  int64_t begin = 0;
  for (const int64_t length : tokens.row_lengths) {
    PlainBackward(layer, qkv.narrow(0, begin, length), d_mixed.narrow(0, begin, length),
                  d_qkv.narrow(0, begin, length));
    begin += length;
  }
}

}  // namespace evolora
