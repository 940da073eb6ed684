// N tokens, R rows of L places, H query heads, K key heads, G = H / K, E head width.
#include "device/device_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "ATen/Context.h"
#include "ATen/Functions.h"

namespace evolora {
namespace {

constexpr int64_t kFlashMaxWidth = 192;  // backward: above it not every GPU from Ampere on

constexpr int64_t kProbabilitiesAtOnce = int64_t{1} << 25;

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

// Calls body(places) for some rows at a time.
template <typename Body>
void DeviceAttention::ForPlaces(const DeviceTokens& tokens, const Body& body) const {
  const int64_t length = tokens.shape.longest_row;
  const int64_t at_once =
      std::max<int64_t>(1, kProbabilitiesAtOnce / (config_.num_heads * length * length));
  for (int64_t first = 0; first < tokens.shape.rows; first += at_once) {
    const int64_t rows = std::min(at_once, tokens.shape.rows - first);
    const at::Tensor places = tokens.token_of_place.narrow(0, first * length, rows * length);
    body(Places{rows, places, places.lt(tokens.shape.tokens).unsqueeze(1)});
  }
}

// [R L, ..]; places without a token get those of the last one.
at::Tensor DeviceAttention::Gathered(const at::Tensor& values, const Places& places) const {
  return values.index_select(0, places.tokens.clamp_max(values.size(0) - 1));
}

// [R L, heads * E] -> [R K, G L, E] in fp32.
at::Tensor DeviceAttention::ByKeyHead(const at::Tensor& values, int64_t rows) const {
  const int64_t keys = config_.num_kv_heads, width = config_.head_dim;
  const int64_t groups = values.size(1) / (keys * width), length = values.size(0) / rows;
  return values.reshape({rows, length, keys, groups, width})
      .permute({0, 2, 3, 1, 4})
      .to(at::kFloat)
      .reshape({rows * keys, groups * length, width});
}

// [R K, G L, E] -> [R L, heads * E].
at::Tensor DeviceAttention::ByPlace(const at::Tensor& heads, int64_t rows, int64_t length) const {
  const int64_t keys = config_.num_kv_heads, width = config_.head_dim;
  const int64_t groups = heads.size(1) / length;
  return heads.view({rows, keys, groups, length, width})
      .permute({0, 3, 1, 2, 4})
      .reshape({rows * length, keys * groups * width});
}

// q [R K, G L, E] scaled, k and v [R K, L, E].
DeviceAttention::Heads DeviceAttention::PlaceHeads(const at::Tensor& qkv, int64_t rows) const {
  const int64_t width = config_.head_dim;
  const int64_t queries = config_.num_heads, keys = config_.num_kv_heads;
  return {ByKeyHead(qkv.narrow(1, 0, queries * width), rows).mul_(scale_),
          ByKeyHead(qkv.narrow(1, queries * width, keys * width), rows),
          ByKeyHead(qkv.narrow(1, (queries + keys) * width, keys * width), rows)};
}

// [R K, G L, L].
at::Tensor DeviceAttention::Probabilities(int64_t layer, const Heads& heads) const {
  const int64_t length = heads.k.size(1), groups = heads.q.size(1) / length;
  const at::Tensor scores = at::bmm(heads.q, heads.k.transpose(1, 2));
  scores.view({heads.q.size(0), groups, length, length})
      .add_(Mask(length, LayerWindow(config_, layer), math_.fp32()));
  return at::softmax(scores, -1);
}

at::Tensor DeviceAttention::PlainForward(int64_t layer, const DeviceTokens& tokens,
                                         const at::Tensor& qkv) const {
  // Places without a token write to a row of their own.
  at::Tensor mixed =
      at::empty({tokens.shape.tokens + 1, config_.num_heads * config_.head_dim}, math_.options());
  ForPlaces(tokens, [&](const Places& places) {
    const Heads heads = PlaceHeads(Gathered(qkv, places), places.rows);
    const at::Tensor own = at::bmm(Probabilities(layer, heads), heads.v);
    mixed.index_copy_(0, places.tokens,
                      ByPlace(own, places.rows, heads.k.size(1)).to(mixed.scalar_type()));
  });
  return mixed.narrow(0, 0, tokens.shape.tokens);
}

at::Tensor DeviceAttention::Forward(int64_t layer, const DeviceTokens& tokens,
                                    const at::Tensor& qkv, Kept& kept) const {
  if (!flash_) return PlainForward(layer, tokens, qkv);
  const Heads heads = Split(qkv);
  const int64_t longest = tokens.shape.longest_row;
  const std::optional<int64_t> left = LeftOf(LayerWindow(config_, layer));
  std::tie(kept.mixed, kept.logsumexp, kept.rng_state, kept.unused, std::ignore) =
      at::_flash_attention_forward(heads.q, heads.k, heads.v, tokens.row_begin, tokens.row_begin,
                                   longest, longest, /*dropout_p=*/0, /*is_causal=*/true,
                                   /*return_debug_mask=*/false, scale_, left,
                                   left.has_value() ? std::optional<int64_t>(0) : std::nullopt);
  return kept.mixed.view({tokens.shape.tokens, config_.num_heads * config_.head_dim});
}

// [R L, (H + 2 K) E] of places, as qkv; d_mixed [R L, H E], zero where there is no token.
at::Tensor DeviceAttention::PlainGradient(int64_t layer, const at::Tensor& qkv,
                                          const at::Tensor& d_mixed, int64_t rows) const {
  const Heads heads = PlaceHeads(qkv, rows);
  const at::Tensor d_own = ByKeyHead(d_mixed, rows);
  const at::Tensor probs = Probabilities(layer, heads);
  const at::Tensor d_probs = at::bmm(d_own, heads.v.transpose(1, 2));
  const at::Tensor d_scores = at::_softmax_backward_data(d_probs, probs, -1, at::kFloat);
  const int64_t length = heads.k.size(1);
  return at::cat({ByPlace(at::bmm(d_scores, heads.k).mul_(scale_), rows, length),
                  ByPlace(at::bmm(d_scores.transpose(1, 2), heads.q), rows, length),
                  ByPlace(at::bmm(probs.transpose(1, 2), d_own), rows, length)},
                 1);
}

void DeviceAttention::PlainBackward(int64_t layer, const DeviceTokens& tokens,
                                    const at::Tensor& qkv, const at::Tensor& d_mixed,
                                    const at::Tensor& d_qkv) const {
  at::Tensor padded = at::empty({tokens.shape.tokens + 1, d_qkv.size(1)}, math_.options());
  ForPlaces(tokens, [&](const Places& places) {
    const at::Tensor d_rows = Gathered(d_mixed, places).mul_(places.present);
    const at::Tensor own = PlainGradient(layer, Gathered(qkv, places), d_rows, places.rows);
    padded.index_copy_(0, places.tokens, own.to(padded.scalar_type()));
  });
  d_qkv.copy_(padded.narrow(0, 0, tokens.shape.tokens));
}

void DeviceAttention::Backward(int64_t layer, const DeviceTokens& tokens, const at::Tensor& qkv,
                               const Kept& kept, const at::Tensor& d_mixed,
                               const at::Tensor& d_qkv) const {
  if (!flash_) return PlainBackward(layer, tokens, qkv, d_mixed, d_qkv);
  const FixedOrder fixed_order;
  const Heads heads = Split(qkv), out = Split(d_qkv);
  const int64_t longest = tokens.shape.longest_row;
  const std::optional<int64_t> left = LeftOf(LayerWindow(config_, layer));
  const auto [d_q, d_k, d_v] = at::_flash_attention_backward(
      d_mixed.view(kept.mixed.sizes()), heads.q, heads.k, heads.v, kept.mixed, kept.logsumexp,
      tokens.row_begin, tokens.row_begin, longest, longest, /*dropout_p=*/0, /*is_causal=*/true,
      kept.rng_state, kept.unused, scale_, left,
      left.has_value() ? std::optional<int64_t>(0) : std::nullopt);
  out.q.copy_(d_q);
  out.k.copy_(d_k);
  out.v.copy_(d_v);
}

}  // namespace evolora
