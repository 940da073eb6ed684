// N tokens, H query heads, K key heads, E head width, L positions of a path, B queries of a block.
#include "tree_attention.h"

#include <algorithm>
#include <cmath>

#include "ATen/Parallel.h"
#include "evolora/model/kernels.h"

namespace evolora {
namespace {

constexpr int64_t kVector = 16;
// The score of what a query does not see: its exponential is exactly zero, and remains so whatever
// it is multiplied with.
constexpr float kHidden = -1e30f;
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

void CopyRows(const float* from, int64_t ld_from, int64_t rows, int64_t width, float* to,
              int64_t ld_to) {
  for (int64_t i = 0; i < rows; ++i) std::copy_n(from + i * ld_from, width, to + i * ld_to);
}

}  // namespace

TreeAttention::TreeAttention(const LlamaConfig& config)
    : config_(config),
      ld_(RoundUp(config.head_dim, kVector)),
      qkv_width_((config.num_heads + 2 * config.num_kv_heads) * config.head_dim),
      mixed_width_(config.num_heads * config.head_dim),
      scale_(static_cast<float>(1 / std::sqrt(static_cast<double>(config.head_dim)))) {}

std::vector<TreeAttention::Scratch>& TreeAttention::ThreadScratch() {
  const auto threads = static_cast<size_t>(at::get_num_threads());
  if (scratch_.size() < threads) scratch_.resize(threads);
  return scratch_;
}

// Keys and values of the segment's path, also transposed.
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
  std::fill(keys + length * ld_, keys + padded * ld_, 0.0f);
  std::fill(values + length * ld_, values + padded * ld_, 0.0f);
  for (int64_t t = 0; t < length; ++t) {
    const float* key =
        qkv + s.path_tokens[static_cast<size_t>(t)] * qkv_width_ + mixed_width_ + kv_head * width;
    std::copy_n(key, width, keys + t * ld_);
    std::copy_n(key + config_.num_kv_heads * width, width, values + t * ld_);
  }
  TransposeRows(keys, length, s.ldl, s.keys_t);
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

std::vector<TreeAttention::QueryBlock> TreeAttention::Blocks(
    const TokenLayout::Segment& segment) const {
  std::vector<QueryBlock> blocks;
  for (int64_t t = 0; t < segment.num_tokens; t += kQueriesPerBlock) {
    blocks.push_back({segment.first_token + t, std::min(kQueriesPerBlock, segment.num_tokens - t),
                      segment.first_position + t});
  }
  return blocks;
}

// probs [B, L] of a block's queries; zero where a query does not look, up to the last whole vector
// of the block's positions.
void TreeAttention::Probabilities(const Task& task, const QueryBlock& block, const float* qkv,
                                  Scratch& s) const {
  const int64_t width = config_.head_dim;
  float* queries = s.queries.Reserve(kQueriesPerBlock * ld_);
  CopyRows(qkv + block.first_token * qkv_width_ + task.head * width, qkv_width_, block.count, width,
           queries, ld_);
  const int64_t length = RoundUp(block.first_position + block.count, kVector);
  float* probs = s.probs.Reserve(kQueriesPerBlock * s.ldl);
  Multiply({queries, ld_}, {s.keys_t.data(), s.ldl}, block.count, width, length, GemmStore::kSet,
           probs, s.ldl);
  for (int64_t i = 0; i < block.count; ++i) {
    const int64_t position = block.first_position + i;
    const int64_t low = task.window > 0 ? std::max<int64_t>(0, position - task.window + 1) : 0;
    float* row = probs + i * s.ldl;
    const int64_t end = low + RoundUp(position + 1 - low, kVector);
    std::fill_n(row, low, 0.0f);
    std::fill(row + position + 1, row + std::max(end, length), kHidden);
    Kernels().softmax(row + low, end - low, scale_);
    if (end < length) std::fill(row + end, row + length, 0.0f);
  }
}

void TreeAttention::ForwardTask(const TokenLayout& layout, const Task& task, const float* qkv,
                                float* mixed, Scratch& s) const {
  GatherPath(layout, task, qkv, s);
  for (const QueryBlock& block : Blocks(layout.segments[static_cast<size_t>(task.segment)])) {
    Probabilities(task, block, qkv, s);
    Multiply({s.probs.data(), s.ldl}, {s.values.data(), ld_}, block.count,
             RoundUp(block.first_position + block.count, kVector), config_.head_dim,
             GemmStore::kSet,
             mixed + block.first_token * mixed_width_ + task.head * config_.head_dim, mixed_width_);
  }
}

void TreeAttention::Forward(int64_t layer, const TokenLayout& layout, const float* qkv,
                            float* mixed) {
  std::vector<Scratch>& scratch = ThreadScratch();
  const auto num_segments = static_cast<int64_t>(layout.segments.size());
  const int64_t window = LayerWindow(config_, layer);
  at::parallel_for(0, num_segments * config_.num_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Task task = {i / num_segments, i % num_segments, window};
      ForwardTask(layout, task, qkv, mixed, scratch[static_cast<size_t>(at::get_thread_num())]);
    }
  });
}

// d_queries into d_qkv; adds to the path's d_keys and d_values.
//   d_probs = d_mixed V^T, d_scores = probs * (d_probs - sum) * scale
//   dQ = d_scores K, dK += d_scores^T Q, dV += probs^T d_mixed
void TreeAttention::BackwardBlock(const Task& task, const QueryBlock& block, const float* d_mixed,
                                  float* d_qkv, Scratch& s) const {
  const int64_t width = config_.head_dim;
  const int64_t length = RoundUp(block.first_position + block.count, kVector);
  float* d_out = s.d_mixed.Reserve(kQueriesPerBlock * ld_);
  CopyRows(d_mixed + block.first_token * mixed_width_ + task.head * width, mixed_width_,
           block.count, width, d_out, ld_);
  float* d_probs = s.d_probs.Reserve(kQueriesPerBlock * s.ldl);
  Multiply({d_out, ld_}, {s.values_t.data(), s.ldl}, block.count, width, length, GemmStore::kSet,
           d_probs, s.ldl);
  const float* probs = s.probs.data();
  for (int64_t i = 0; i < block.count; ++i) {
    Kernels().softmax_backward(probs + i * s.ldl, d_probs + i * s.ldl, length, scale_);
  }
  Multiply({d_probs, s.ldl}, {s.keys.data(), ld_}, block.count, length, width, GemmStore::kSet,
           d_qkv + block.first_token * qkv_width_ + task.head * width, qkv_width_);
  Multiply({d_probs, s.ldl, true}, {s.queries.data(), ld_}, length, block.count, width,
           GemmStore::kAdd, s.d_keys.data(), ld_);
  Multiply({probs, s.ldl, true}, {d_out, ld_}, length, block.count, width, GemmStore::kAdd,
           s.d_values.data(), ld_);
}

void TreeAttention::BackwardTask(const TokenLayout& layout, const Task& task, const float* qkv,
                                 const float* d_mixed, float* d_qkv, Scratch& s) {
  GatherPath(layout, task, qkv, s);
  const int64_t width = config_.head_dim;
  const auto length = static_cast<int64_t>(s.path_tokens.size());
  TransposeRows(s.values.data(), length, s.ldl, s.values_t);
  const int64_t size = RoundUp(length, kVector) * ld_;
  std::fill_n(s.d_keys.Reserve(size), size, 0.0f);
  std::fill_n(s.d_values.Reserve(size), size, 0.0f);
  for (const QueryBlock& block : Blocks(layout.segments[static_cast<size_t>(task.segment)])) {
    Probabilities(task, block, qkv, s);
    BackwardBlock(task, block, d_mixed, d_qkv, s);
  }
  for (int64_t t = 0; t < length; ++t) {
    const int64_t offset = s.path_tokens[static_cast<size_t>(t)] * mixed_width_ + task.head * width;
    float* d_key = d_keys_.data() + offset;
    float* d_value = d_values_.data() + offset;
    for (int64_t e = 0; e < width; ++e) d_key[e] += s.d_keys.data()[t * ld_ + e];
    for (int64_t e = 0; e < width; ++e) d_value[e] += s.d_values.data()[t * ld_ + e];
  }
}

// Keys and values serve all query heads of their group.
void TreeAttention::SumOverGroups(int64_t num_tokens, float* d_qkv) const {
  const int64_t width = config_.head_dim;
  const int64_t group = config_.num_heads / config_.num_kv_heads;
  at::parallel_for(0, num_tokens, 16, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      for (int64_t i = 0; i < 2 * config_.num_kv_heads; ++i) {
        const bool is_key = i < config_.num_kv_heads;
        const int64_t first_head = (is_key ? i : i - config_.num_kv_heads) * group;
        const float* parts =
            (is_key ? d_keys_ : d_values_).data() + m * mixed_width_ + first_head * width;
        float* sum = d_qkv + m * qkv_width_ + mixed_width_ + i * width;
        std::copy_n(parts, width, sum);
        for (int64_t h = 1; h < group; ++h) {
          for (int64_t e = 0; e < width; ++e) sum[e] += parts[h * width + e];
        }
      }
    }
  });
}

void TreeAttention::Backward(int64_t layer, const TokenLayout& layout, const float* qkv,
                             const float* d_mixed, float* d_qkv) {
  std::vector<Scratch>& scratch = ThreadScratch();
  const auto num_tokens = static_cast<int64_t>(layout.ids.size());
  std::fill_n(d_keys_.Reserve(num_tokens * mixed_width_), num_tokens * mixed_width_, 0.0f);
  std::fill_n(d_values_.Reserve(num_tokens * mixed_width_), num_tokens * mixed_width_, 0.0f);
  const auto num_trees = static_cast<int64_t>(layout.tree_begin.size()) - 1;
  const int64_t window = LayerWindow(config_, layer);
  // One task runs all segments of a tree, in order: they add to the gradients of shared keys.
  at::parallel_for(0, num_trees * config_.num_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto tree = static_cast<size_t>(i % num_trees);
      for (int64_t k = layout.tree_begin[tree]; k < layout.tree_begin[tree + 1]; ++k) {
        BackwardTask(layout, {i / num_trees, k, window}, qkv, d_mixed, d_qkv,
                     scratch[static_cast<size_t>(at::get_thread_num())]);
      }
    }
  });
  SumOverGroups(num_tokens, d_qkv);
}

}  // namespace evolora
