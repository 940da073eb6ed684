// Q queries and P keys of a sequence, H query heads, K key heads, G = H / K, E head width.
#include "trainers/packed_attention_fake.h"

#include <cmath>
#include <functional>
#include <limits>

#include "ATen/ATen.h"
#include "evolora/core/check.h"

namespace evolora::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class PlainPacked : public PackedAttention {
 public:
  Kept Forward(const Sequences& s, const AttentionHeads& heads) const override {
    Kept kept{.mixed = at::full(heads.q.sizes(), std::nan(""), heads.q.options())};
    ForSequences(s, heads, [&](const Range& q, const Range& k) {
      const at::Tensor values = ByHead(k.Of(heads.v), heads);
      q.Of(kept.mixed).copy_(at::bmm(Probabilities(s, q, k, heads), values).transpose(0, 1));
    });
    return kept;
  }

  AttentionHeads Backward(const Sequences& s, const AttentionHeads& heads, const Kept& kept,
                          const at::Tensor& d_mixed) const override {
    EVOLORA_CHECK(kept.mixed.sizes() == d_mixed.sizes(), "mixed and its gradient differ");
    const auto nans = [](const at::Tensor& x) {
      return at::full(x.sizes(), std::nan(""), x.options());
    };
    const AttentionHeads d = {nans(heads.q), nans(heads.k), nans(heads.v)};
    ForSequences(s, heads, [&](const Range& q, const Range& k) {
      const at::Tensor d_out = q.Of(d_mixed).to(at::kFloat).transpose(0, 1);  // [H, Q, E]
      const at::Tensor probs = Probabilities(s, q, k, heads);
      const at::Tensor d_probs = at::bmm(d_out, ByHead(k.Of(heads.v), heads).transpose(1, 2));
      const at::Tensor d_scores =
          probs.mul(d_probs.sub(d_probs.mul(probs).sum(-1, /*keepdim=*/true))).mul(s.scale);
      const at::Tensor queries = q.Of(heads.q).to(at::kFloat).transpose(0, 1);
      q.Of(d.q).copy_(at::bmm(d_scores, ByHead(k.Of(heads.k), heads)).transpose(0, 1));
      k.Of(d.k).copy_(OfKeyHeads(at::bmm(d_scores.transpose(1, 2), queries), heads));
      k.Of(d.v).copy_(OfKeyHeads(at::bmm(probs.transpose(1, 2), d_out), heads));
    });
    return d;
  }

 private:
  struct Range {
    int64_t begin = 0;
    int64_t size = 0;
    at::Tensor Of(const at::Tensor& all) const { return all.narrow(0, begin, size); }
  };
  using Body = std::function<void(const Range& q, const Range& k)>;

  static void ForSequences(const Sequences& s, const AttentionHeads& heads, const Body& body) {
    const int32_t* q = s.q_begin.const_data_ptr<int32_t>();
    const int32_t* k = s.k_begin.const_data_ptr<int32_t>();
    for (int64_t i = 0; i + 1 < s.q_begin.size(0); ++i) {
      const Range queries = {q[i], q[i + 1] - q[i]}, keys = {k[i], k[i + 1] - k[i]};
      EVOLORA_CHECK(queries.size <= keys.size && keys.size <= s.longest, "sizes of a sequence");
      EVOLORA_CHECK(q[i + 1] <= heads.q.size(0) && k[i + 1] <= heads.k.size(0), "its end");
      if (queries.size > 0) body(queries, keys);
    }
  }

  // [P, K, E] -> [H, P, E] fp32: each key head for its group of query heads.
  static at::Tensor ByHead(const at::Tensor& keys, const AttentionHeads& heads) {
    const int64_t groups = heads.q.size(1) / heads.k.size(1);
    return keys.to(at::kFloat).transpose(0, 1).repeat_interleave(groups, 0);
  }
  // [H, P, E] -> [P, K, E]: sums over the groups.
  static at::Tensor OfKeyHeads(const at::Tensor& d, const AttentionHeads& heads) {
    const int64_t keys = heads.k.size(1);
    return d.view({keys, -1, d.size(1), d.size(2)}).sum(1).transpose(0, 1);
  }

  // [H, Q, P].
  static at::Tensor Probabilities(const Sequences& s, const Range& q, const Range& k,
                                  const AttentionHeads& heads) {
    const at::Tensor queries = q.Of(heads.q).to(at::kFloat).transpose(0, 1);
    const at::Tensor scores =
        at::bmm(queries, ByHead(k.Of(heads.k), heads).transpose(1, 2)).mul(s.scale);
    // The last query sees the last key.
    const at::Tensor last = at::arange(q.size).unsqueeze(1).add(k.size - q.size);
    const at::Tensor place = at::arange(k.size).unsqueeze(0);
    at::Tensor hidden = place.gt(last);
    if (s.window > 0) hidden = hidden.logical_or(place.le(last.sub(s.window)));
    return at::softmax(scores.masked_fill(hidden, -kInfinity), -1);
  }
};

}  // namespace

std::shared_ptr<const PackedAttention> PlainPackedAttention() {
  return std::make_shared<PlainPacked>();
}

}  // namespace evolora::testing
