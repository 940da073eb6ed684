// N tokens, H query heads, K key heads, E head width, L positions of a path, B queries of a block.
#include "tree_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ATen/Parallel.h"
#include "evolora/model/share_out.h"

namespace evolora {
namespace {

constexpr int64_t kVector = 16;
// Queries of a block: enough to reuse a key panel, few enough to skip most of what causality hides.
constexpr int64_t kQueriesPerBlock = 48;

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// y [rows, columns] = or += left right; all row-major. Whole vectors of a row of `right` and, where
// the store sets, of y are touched.
struct Operand {
  const float* data;
  int64_t ld;
  bool transposed = false;
};
void Multiply(const Operand& left, const Operand& right, int64_t rows, int64_t depth,
              int64_t columns, GemmStore store, float* y, int64_t ldy) {
  for (int64_t first = 0; first < columns; first += kPanelColumns) {
    const GemmTerm term = {.x = left.data,
                           .ldx = left.ld,
                           .panel = right.data + first,
                           .depth = depth,
                           .ldp = right.ld,
                           .transposed = left.transposed};
    Kernels().gemm({.terms = &term,
                    .rows = rows,
                    .y = y + first,
                    .ldy = ldy,
                    .columns = std::min(kPanelColumns, columns - first),
                    .store = store});
  }
}

// The values of one head; a call of memcpy costs more than to copy a narrow one.
void CopyHead(const float* from, int64_t width, float* to) {
  constexpr int64_t kPiece = 8;
  int64_t e = 0;
  for (; e + kPiece <= width; e += kPiece) std::memcpy(to + e, from + e, kPiece * sizeof(float));
  for (; e < width; ++e) to[e] = from[e];
}

// sum = `count` rows of `width` values, `stride` apart.
void SumRows(const float* rows, int64_t stride, int64_t count, int64_t width, float* sum) {
  CopyHead(rows, width, sum);
  for (int64_t i = 1; i < count; ++i) Kernels().add(rows + i * stride, width, sum);
}

// The same of rows of pairs, the first of each and the second.
void SumPairs(const float* rows, int64_t stride, int64_t count, int64_t width, float* first,
              float* second) {
  for (int64_t e = 0; e < width; ++e) {
    first[e] = rows[2 * e];
    second[e] = rows[2 * e + 1];
    for (int64_t i = 1; i < count; ++i) {
      first[e] += rows[i * stride + 2 * e];
      second[e] += rows[i * stride + 2 * e + 1];
    }
  }
}

}  // namespace

TreeAttention::TreeAttention(const LlamaConfig& config)
    : config_(config),
      is_narrow_(config.head_dim <= kNarrowHead),
      ld_(is_narrow_ ? kNarrowHead : RoundUp(config.head_dim, kVector)),
      qkv_width_((config.num_heads + 2 * config.num_kv_heads) * config.head_dim),
      mixed_width_(config.num_heads * config.head_dim),
      scale_(static_cast<float>(1 / std::sqrt(static_cast<double>(config.head_dim)))) {}

std::vector<TreeAttention::Scratch>& TreeAttention::ThreadScratch() {
  const auto threads = static_cast<size_t>(at::get_num_threads());
  if (scratch_.size() < threads) scratch_.resize(threads);
  return scratch_;
}

// Keys and values of the segment's path; of wide heads keys also transposed.
void TreeAttention::GatherPath(const TokenLayout& layout, const Task& task, const float* qkv,
                               Scratch& s) const {
  const TokenLayout::Segment& own = layout.segments[static_cast<size_t>(task.segment)];
  const int64_t length = own.first_position + own.num_tokens;
  s.path_tokens.resize(static_cast<size_t>(length));
  for (int64_t i = task.segment; i >= 0; i = layout.segments[static_cast<size_t>(i)].parent) {
    const TokenLayout::Segment& segment = layout.segments[static_cast<size_t>(i)];
    for (int64_t t = 0; t < segment.num_tokens; ++t) {
      s.path_tokens[static_cast<size_t>(segment.first_position + t)] = segment.first_token + t;
    }
  }
  // Not a multiple of 4 KiB, so that a column does not fall into one set of the cache.
  s.ldl = RoundUp(length, 2 * kVector) + kVector;
  const int64_t width = config_.head_dim;
  const int64_t kv_head = task.head / (config_.num_heads / config_.num_kv_heads);
  // Rows behind the last are multiplied with zeros: they have to be numbers.
  const int64_t padded = RoundUp(length, kVector);
  float* keys = s.keys.Reserve(padded * ld_);
  float* values = s.values.Reserve(padded * ld_);
  const int64_t first_zero = width < ld_ && is_narrow_ ? 0 : length * ld_;
  std::fill(keys + first_zero, keys + padded * ld_, 0.0f);
  std::fill(values + first_zero, values + padded * ld_, 0.0f);
  for (int64_t t = 0; t < length; ++t) {
    const float* key =
        qkv + s.path_tokens[static_cast<size_t>(t)] * qkv_width_ + mixed_width_ + kv_head * width;
    CopyHead(key, width, keys + t * ld_);
    CopyHead(key + config_.num_kv_heads * width, width, values + t * ld_);
  }
  if (!is_narrow_) TransposeRows(keys, length, s.ldl, s.keys_t);
}

// [L, ld_] to [E, ldl], with zeros up to the next whole vector of positions.
void TreeAttention::TransposeRows(const float* rows, int64_t length, int64_t ldl,
                                  Buffer& columns) const {
  float* out = columns.Reserve(config_.head_dim * ldl);
  Kernels().transpose(rows, ld_, length, config_.head_dim, 1, out, ldl);
  for (int64_t e = 0; e < config_.head_dim; ++e) {
    std::fill(out + e * ldl + length, out + e * ldl + RoundUp(length, kVector), 0.0f);
  }
}

std::vector<TreeAttention::QueryBlock> TreeAttention::Blocks(const TokenLayout::Segment& segment) {
  std::vector<QueryBlock> blocks;
  for (int64_t t = 0; t < segment.num_tokens; t += kQueriesPerBlock) {
    blocks.push_back({segment.first_token + t, std::min(kQueriesPerBlock, segment.num_tokens - t),
                      segment.first_position + t});
  }
  return blocks;
}

const float* TreeAttention::Queries(const Task& task, const QueryBlock& block,
                                    const float* qkv) const {
  return qkv + block.first_token * qkv_width_ + task.head * config_.head_dim;
}

// The scores [B, L] of a block's queries, in s.weights.
AttentionRows TreeAttention::Scores(const Task& task, const QueryBlock& block, const float* qkv,
                                    const Kept& kept, int64_t num_tokens, Scratch& s) const {
  const int64_t query = task.head * num_tokens + block.first_token;
  const AttentionRows rows = {.rows = block.count,
                              .first_position = block.first_position,
                              .window = task.window,
                              .columns = RoundUp(block.first_position + block.count, kVector),
                              .scores = s.weights.Reserve(kQueriesPerBlock * s.ldl),
                              .ld = s.ldl,
                              .scale = scale_,
                              .max = kept.max.data() + query,
                              .factor = kept.factor.data() + query};
  Multiply({Queries(task, block, qkv), qkv_width_}, {s.keys_t.data(), s.ldl}, block.count,
           config_.head_dim, rows.columns, GemmStore::kSet, rows.scores, s.ldl);
  return rows;
}

void TreeAttention::ForwardTask(const TokenLayout& layout, const Task& task, const float* qkv,
                                Kept& kept, float* mixed, Scratch& s) const {
  GatherPath(layout, task, qkv, s);
  const int64_t width = config_.head_dim;
  if (is_narrow_) {
    const int64_t first = layout.segments[static_cast<size_t>(task.segment)].first_token;
    Kernels().narrow_attention(Narrow(layout, task, qkv, kept, s),
                               mixed + first * mixed_width_ + task.head * width, mixed_width_);
    return;
  }
  const auto num_tokens = static_cast<int64_t>(layout.ids.size());
  for (const QueryBlock& block : Blocks(layout.segments[static_cast<size_t>(task.segment)])) {
    const AttentionRows rows = Scores(task, block, qkv, kept, num_tokens, s);
    Kernels().attention_weights(rows);
    float* out = mixed + block.first_token * mixed_width_ + task.head * width;
    Multiply({rows.scores, s.ldl}, {s.values.data(), ld_}, block.count, rows.columns, width,
             GemmStore::kSet, out, mixed_width_);
    for (int64_t i = 0; i < block.count; ++i) {
      for (int64_t e = 0; e < width; ++e) out[i * mixed_width_ + e] *= rows.factor[i];
    }
  }
}

void TreeAttention::Forward(int64_t layer, const TokenLayout& layout, const float* qkv, Kept& kept,
                            float* mixed) {
  std::vector<Scratch>& scratch = ThreadScratch();
  const auto num_segments = static_cast<int64_t>(layout.segments.size());
  const int64_t num_queries = config_.num_heads * static_cast<int64_t>(layout.ids.size());
  kept.max.Reserve(num_queries);
  kept.factor.Reserve(num_queries);
  const int64_t window = LayerWindow(config_, layer);
  ShareOut(num_segments * config_.num_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Task task = {i / num_segments, i % num_segments, window};
      ForwardTask(layout, task, qkv, kept, mixed,
                  scratch[static_cast<size_t>(at::get_thread_num())]);
    }
  });
}

void TreeAttention::Delta(const float* mixed, const float* d_mixed, int64_t rows,
                          float* delta) const {
  const int64_t width = config_.head_dim;
  at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * config_.num_heads; i < end * config_.num_heads; ++i) {
      float sum = 0;
      for (int64_t e = i * width; e < (i + 1) * width; ++e) sum += mixed[e] * d_mixed[e];
      delta[i] = sum;
    }
  });
}

// d_queries into d_qkv; adds to the path's d_keys and d_values. W the weights:
//   d_W = d_mixed V^T, d_scores = W * (d_W - delta) * scale
//   dQ = d_scores K, dK += d_scores^T Q, dV += W^T d_mixed
void TreeAttention::BackwardBlock(const Task& task, const QueryBlock& block, const float* qkv,
                                  const AttentionRows& rows, const OutputGradient& output,
                                  float* d_qkv, Scratch& s) const {
  const int64_t width = config_.head_dim, heads = config_.num_heads;
  const float* d_out = output.d_mixed + block.first_token * mixed_width_ + task.head * width;
  float* d_weights = s.d_weights.Reserve(kQueriesPerBlock * s.ldl);
  Multiply({d_out, mixed_width_}, {s.values_t.data(), s.ldl}, block.count, width, rows.columns,
           GemmStore::kSet, d_weights, s.ldl);
  float delta[kQueriesPerBlock];
  for (int64_t i = 0; i < block.count; ++i) {
    delta[i] = output.delta[(block.first_token + i) * heads + task.head];
  }
  Kernels().attention_gradient(rows, delta, d_weights);
  Multiply({d_weights, s.ldl}, {s.keys.data(), ld_}, block.count, rows.columns, width,
           GemmStore::kSet, d_qkv + block.first_token * qkv_width_ + task.head * width, qkv_width_);
  // Transposed, so that whole vectors of keys are computed with, however narrow a head is.
  Multiply({Queries(task, block, qkv), qkv_width_, true}, {d_weights, s.ldl}, width, block.count,
           rows.columns, GemmStore::kAdd, s.d_keys_t.data(), s.ldl);
  Multiply({d_out, mixed_width_, true}, {rows.scores, s.ldl}, width, block.count, rows.columns,
           GemmStore::kAdd, s.d_values_t.data(), s.ldl);
}

// Of the task's head; [N, 2 E].
float* TreeAttention::KeyValueGradients(const TokenLayout& layout, const Task& task) {
  const auto num_tokens = static_cast<int64_t>(layout.ids.size());
  return d_keys_values_.data() + task.head * num_tokens * 2 * config_.head_dim;
}

// The first E values of sums [N, 2 E] += columns [E, L] of the path.
void TreeAttention::AddColumns(const Buffer& columns, float* sums, Scratch& s) const {
  const auto length = static_cast<int64_t>(s.path_tokens.size());
  float* rows = s.keys.data();  // of no more use
  Kernels().transpose(columns.data(), s.ldl, config_.head_dim, length, 1, rows, ld_);
  AddRows(rows, ld_, config_.head_dim, sums, s);
}

// The first `count` values of sums [N, 2 E] += rows [L, ld] of the path.
void TreeAttention::AddRows(const float* rows, int64_t ld, int64_t count, float* sums,
                            const Scratch& s) const {
  for (const int64_t token : s.path_tokens) {
    Kernels().add(rows, count, sums + token * 2 * config_.head_dim);
    rows += ld;
  }
}

void TreeAttention::BackwardTask(const TokenLayout& layout, const Task& task, const float* qkv,
                                 const Kept& kept, const OutputGradient& output, float* d_qkv,
                                 Scratch& s) {
  GatherPath(layout, task, qkv, s);
  is_narrow_ ? BackwardNarrow(layout, task, qkv, kept, output, d_qkv, s)
             : BackwardWide(layout, task, qkv, kept, output, d_qkv, s);
}

void TreeAttention::BackwardWide(const TokenLayout& layout, const Task& task, const float* qkv,
                                 const Kept& kept, const OutputGradient& output, float* d_qkv,
                                 Scratch& s) {
  const auto length = static_cast<int64_t>(s.path_tokens.size());
  TransposeRows(s.values.data(), length, s.ldl, s.values_t);
  const int64_t size = config_.head_dim * s.ldl;
  std::fill_n(s.d_keys_t.Reserve(size), size, 0.0f);
  std::fill_n(s.d_values_t.Reserve(size), size, 0.0f);
  const auto num_tokens = static_cast<int64_t>(layout.ids.size());
  for (const QueryBlock& block : Blocks(layout.segments[static_cast<size_t>(task.segment)])) {
    const AttentionRows rows = Scores(task, block, qkv, kept, num_tokens, s);
    BackwardBlock(task, block, qkv, rows, output, d_qkv, s);
  }
  float* sums = KeyValueGradients(layout, task);
  AddColumns(s.d_keys_t, sums, s);
  AddColumns(s.d_values_t, sums + config_.head_dim, s);
}

NarrowAttention TreeAttention::Narrow(const TokenLayout& layout, const Task& task, const float* qkv,
                                      const Kept& kept, const Scratch& s) const {
  const TokenLayout::Segment& own = layout.segments[static_cast<size_t>(task.segment)];
  const int64_t query = task.head * static_cast<int64_t>(layout.ids.size()) + own.first_token;
  return {.rows = own.num_tokens,
          .first_position = own.first_position,
          .window = task.window,
          .width = config_.head_dim,
          .queries = qkv + own.first_token * qkv_width_ + task.head * config_.head_dim,
          .ldq = qkv_width_,
          .keys = s.keys.data(),
          .values = s.values.data(),
          .scale = scale_,
          .max = kept.max.data() + query,
          .factor = kept.factor.data() + query};
}

void TreeAttention::BackwardNarrow(const TokenLayout& layout, const Task& task, const float* qkv,
                                   const Kept& kept, const OutputGradient& output, float* d_qkv,
                                   Scratch& s) {
  const int64_t width = config_.head_dim;
  const auto length = static_cast<int64_t>(s.path_tokens.size());
  float* sums = KeyValueGradients(layout, task);
  // A path whose tokens follow each other is added to where it lies.
  const bool in_place = width == ld_ && s.path_tokens.back() - s.path_tokens.front() == length - 1;
  float* own = sums + s.path_tokens.front() * 2 * width;
  if (!in_place) {
    own = s.d_keys_values.Reserve(length * 2 * ld_);
    std::fill_n(own, length * 2 * ld_, 0.0f);
  }
  const int64_t first = layout.segments[static_cast<size_t>(task.segment)].first_token;
  Kernels().narrow_attention_gradient(
      Narrow(layout, task, qkv, kept, s),
      {.d_out = output.d_mixed + first * mixed_width_ + task.head * width,
       .ldo = mixed_width_,
       .delta = output.delta + first * config_.num_heads + task.head,
       .ld_delta = config_.num_heads,
       .d_queries = d_qkv + first * qkv_width_ + task.head * width,
       .d_keys_values = own});
  if (!in_place) AddRows(own, 2 * ld_, 2 * width, sums, s);
}

// Keys and values serve all query heads of their group.
void TreeAttention::SumOverGroups(int64_t num_tokens, float* d_qkv) const {
  const int64_t width = config_.head_dim, num_kv_heads = config_.num_kv_heads;
  const int64_t stride = num_tokens * 2 * width;
  const int64_t group = config_.num_heads / num_kv_heads;
  at::parallel_for(0, num_tokens, 16, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      for (int64_t i = 0; i < num_kv_heads; ++i) {
        const float* parts = d_keys_values_.data() + i * group * stride + m * 2 * width;
        float* d_key = d_qkv + m * qkv_width_ + mixed_width_ + i * width;
        float* d_value = d_key + num_kv_heads * width;
        if (is_narrow_) {
          SumPairs(parts, stride, group, width, d_key, d_value);
        } else {
          SumRows(parts, stride, group, width, d_key);
          SumRows(parts + width, stride, group, width, d_value);
        }
      }
    }
  });
}

void TreeAttention::Backward(int64_t layer, const TokenLayout& layout, const float* qkv,
                             const Kept& kept, const OutputGradient& output, float* d_qkv) {
  std::vector<Scratch>& scratch = ThreadScratch();
  const auto num_tokens = static_cast<int64_t>(layout.ids.size());
  const int64_t size = num_tokens * 2 * mixed_width_;
  std::fill_n(d_keys_values_.Reserve(size), size, 0.0f);
  const auto num_trees = static_cast<int64_t>(layout.tree_begin.size()) - 1;
  const int64_t window = LayerWindow(config_, layer);
  // One task runs all segments of a tree, in order: they add to the gradients of shared keys.
  ShareOut(num_trees * config_.num_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto tree = static_cast<size_t>(i % num_trees);
      for (int64_t k = layout.tree_begin[tree]; k < layout.tree_begin[tree + 1]; ++k) {
        BackwardTask(layout, {i / num_trees, k, window}, qkv, kept, output, d_qkv,
                     scratch[static_cast<size_t>(at::get_thread_num())]);
      }
    }
  });
  SumOverGroups(num_tokens, d_qkv);
}

}  // namespace evolora
