// N tokens, R rows of L places, H query heads, K key heads, G = H / K, E head width.
#include "device/plain_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ATen/Functions.h"

namespace evolora {
namespace {

constexpr int64_t kProbabilitiesAtOnce = int64_t{1} << 25;

// [L, L]: 0 where the query (row) sees the key (column), else -infinity.
at::Tensor Mask(int64_t length, int64_t window, const at::TensorOptions& options) {
  const at::Tensor hidden =
      at::full({length, length}, -std::numeric_limits<double>::infinity(), options);
  at::Tensor mask = hidden.triu(1);
  if (window > 0) mask.add_(hidden.tril(-window));
  return mask;
}

}  // namespace

PlainAttention::PlainAttention(const LlamaConfig& config, const DeviceMath& math)
    : config_(config), math_(math), scale_(1 / std::sqrt(static_cast<double>(config.head_dim))) {}

int64_t PlainAttention::RowsAtOnce(const LlamaConfig& config, int64_t length) {
  return std::max<int64_t>(1, kProbabilitiesAtOnce / (config.num_heads * length * length));
}

// Calls body(places) for some rows at a time.
template <typename Body>
void PlainAttention::ForPlaces(const DeviceTokens& tokens, const Body& body) const {
  const int64_t length = tokens.shape.longest_row;
  const int64_t at_once = RowsAtOnce(config_, length);
  for (int64_t row = 0; row < tokens.shape.rows; row += at_once) {
    const int64_t rows = std::min(at_once, tokens.shape.rows - row), first = row * length;
    body(Places{first, rows, tokens.key_tokens.narrow(0, first, rows * length),
                tokens.own_of_place.narrow(0, first, rows * length)});
  }
}

// [R L, ..]; places without a token get those of the last one.
at::Tensor PlainAttention::Gathered(const at::Tensor& values, const at::Tensor& tokens) const {
  return values.index_select(0, tokens.clamp_max(values.size(0) - 1));
}

// [R L, heads * E] -> [R K, G L, E] in fp32.
at::Tensor PlainAttention::ByKeyHead(const at::Tensor& values, int64_t rows) const {
  const int64_t keys = config_.num_kv_heads, width = config_.head_dim;
  const int64_t groups = values.size(1) / (keys * width), length = values.size(0) / rows;
  return values.reshape({rows, length, keys, groups, width})
      .permute({0, 2, 3, 1, 4})
      .to(at::kFloat)
      .reshape({rows * keys, groups * length, width});
}

// [R K, G L, E] -> [R L, heads * E].
at::Tensor PlainAttention::ByPlace(const at::Tensor& heads, int64_t rows, int64_t length) const {
  const int64_t keys = config_.num_kv_heads, width = config_.head_dim;
  const int64_t groups = heads.size(1) / length;
  return heads.view({rows, keys, groups, length, width})
      .permute({0, 3, 1, 2, 4})
      .reshape({rows * length, keys * groups * width});
}

// q [R K, G L, E] scaled, k and v [R K, L, E].
AttentionHeads PlainAttention::PlaceHeads(const at::Tensor& qkv, int64_t rows) const {
  const int64_t width = config_.head_dim;
  const int64_t queries = config_.num_heads, keys = config_.num_kv_heads;
  return {ByKeyHead(qkv.narrow(1, 0, queries * width), rows).mul_(scale_),
          ByKeyHead(qkv.narrow(1, queries * width, keys * width), rows),
          ByKeyHead(qkv.narrow(1, (queries + keys) * width, keys * width), rows)};
}

// [R K, G L, L].
at::Tensor PlainAttention::Probabilities(int64_t window, const AttentionHeads& heads) const {
  const int64_t length = heads.k.size(1), groups = heads.q.size(1) / length;
  const at::Tensor scores = at::bmm(heads.q, heads.k.transpose(1, 2));
  scores.view({heads.q.size(0), groups, length, length}).add_(Mask(length, window, math_.fp32()));
  return at::softmax(scores, -1);
}

at::Tensor PlainAttention::Forward(int64_t window, const DeviceTokens& tokens,
                                   const at::Tensor& qkv) const {
  // Places that give no output write to a row of their own.
  at::Tensor mixed =
      at::empty({tokens.shape.tokens + 1, config_.num_heads * config_.head_dim}, math_.options());
  ForPlaces(tokens, [&](const Places& places) {
    const AttentionHeads heads = PlaceHeads(Gathered(qkv, places.tokens), places.rows);
    const at::Tensor own = at::bmm(Probabilities(window, heads), heads.v);
    mixed.index_copy_(0, places.own,
                      ByPlace(own, places.rows, heads.k.size(1)).to(mixed.scalar_type()));
  });
  return mixed.narrow(0, 0, tokens.shape.tokens);
}

// Of places, [R L, ..]; d_mixed [R L, H E], zero where there is no output.
AttentionHeads PlainAttention::Gradient(int64_t window, const at::Tensor& qkv,
                                        const at::Tensor& d_mixed, int64_t rows) const {
  const AttentionHeads heads = PlaceHeads(qkv, rows);
  const at::Tensor d_own = ByKeyHead(d_mixed, rows);
  const at::Tensor probs = Probabilities(window, heads);
  const at::Tensor d_probs = at::bmm(d_own, heads.v.transpose(1, 2));
  const at::Tensor d_scores = at::_softmax_backward_data(d_probs, probs, -1, at::kFloat);
  const int64_t length = heads.k.size(1);
  return {ByPlace(at::bmm(d_scores, heads.k).mul_(scale_), rows, length),
          ByPlace(at::bmm(d_scores.transpose(1, 2), heads.q), rows, length),
          ByPlace(at::bmm(probs.transpose(1, 2), d_own), rows, length)};
}

void PlainAttention::Backward(int64_t window, const DeviceTokens& tokens, const at::Tensor& qkv,
                              const at::Tensor& d_mixed, const at::Tensor& d_qkv) const {
  const int64_t queries = config_.num_heads * config_.head_dim, both = qkv.size(1) - queries;
  at::Tensor d_queries = at::empty({tokens.shape.tokens + 1, queries}, math_.options());
  const at::Tensor d_keys = at::empty({tokens.key_tokens.size(0), both}, math_.options());
  ForPlaces(tokens, [&](const Places& places) {
    const at::Tensor present = places.own.lt(tokens.shape.tokens).unsqueeze(1);
    const at::Tensor d_rows = Gathered(d_mixed, places.own).mul_(present);
    const AttentionHeads d = Gradient(window, Gathered(qkv, places.tokens), d_rows, places.rows);
    d_queries.index_copy_(0, places.own, d.q.to(d_queries.scalar_type()));
    const at::Tensor here = d_keys.narrow(0, places.first, places.own.size(0));
    here.narrow(1, 0, both / 2).copy_(d.k);
    here.narrow(1, both / 2, both / 2).copy_(d.v);
  });
  d_qkv.narrow(1, 0, queries).copy_(d_queries.narrow(0, 0, tokens.shape.tokens));
  math_.SumRows(d_keys, tokens.places_of_keys, d_qkv.narrow(1, queries, both));
}

}  // namespace evolora
