#pragma once

#include <cstdint>
#include <vector>

#include "evolora/model/buffer.h"
#include "evolora/model/kernels.h"
#include "evolora/model/llama_config.h"
#include "token_layout.h"

namespace evolora {

// Causal attention over a token layout, and its gradient. q, k and v stand side by side in a row of
// `qkv` [N, (H + 2 K) E], after RoPE; H / K query heads share a key head. The weights are computed
// again for the gradient, from what the forward pass keeps of each softmax. Uses all threads;
// results depend neither on their number nor on other trees. Not thread-safe (buffers).
class TreeAttention {
 public:
  // Of each query's softmax (AttentionRows, NarrowAttention): [H, N] each.
  struct Kept {
    Buffer max, factor;
  };

  // `config` outlives the object.
  explicit TreeAttention(const LlamaConfig& config);

  // mixed [N, H E].
  void Forward(int64_t layer, const TokenLayout& layout, const float* qkv, Kept& kept,
               float* mixed);
  // delta [rows, H]: the sum of mixed * d_mixed over each head's values. Zero for rows whose
  // d_mixed is.
  void Delta(const float* mixed, const float* d_mixed, int64_t rows, float* delta) const;
  // d_qkv [N, (H + 2 K) E] from d_mixed [N, H E] and delta [N, H].
  struct OutputGradient {
    const float* d_mixed;
    const float* delta;
  };
  void Backward(int64_t layer, const TokenLayout& layout, const float* qkv, const Kept& kept,
                const OutputGradient& output, float* d_qkv);

 private:
  // One head of one segment: its queries, and the keys and values of its whole path, by position.
  struct Task {
    int64_t head;
    int64_t segment;
    int64_t window;  // 0 = none
  };
  // What one thread works with. L positions of the path, B queries of a block; rows of E values
  // have stride ld_, rows of L values stride ldl. Narrow heads use the first two lines alone.
  struct Scratch {
    Buffer keys, values;               // [L, ld]
    Buffer d_keys_values;              // [L, 2 ld] of pairs
    Buffer keys_t, values_t;           // [E, ldl]
    Buffer weights, d_weights;         // [B, ldl]
    Buffer d_keys_t, d_values_t;       // [E, ldl]
    std::vector<int64_t> path_tokens;  // [L]
    int64_t ldl = 0;
  };
  // Queries of one block: segment tokens [begin, begin + count).
  struct QueryBlock {
    int64_t first_token;
    int64_t count;
    int64_t first_position;
  };
  void GatherPath(const TokenLayout& layout, const Task& task, const float* qkv,
                  Scratch& scratch) const;
  void TransposeRows(const float* rows, int64_t length, int64_t ldl, Buffer& columns) const;
  static std::vector<QueryBlock> Blocks(const TokenLayout::Segment& segment);
  // Of the task's head, with stride qkv_width_.
  const float* Queries(const Task& task, const QueryBlock& block, const float* qkv) const;
  AttentionRows Scores(const Task& task, const QueryBlock& block, const float* qkv,
                       const Kept& kept, int64_t num_tokens, Scratch& scratch) const;
  void ForwardTask(const TokenLayout& layout, const Task& task, const float* qkv, Kept& kept,
                   float* mixed, Scratch& scratch) const;
  void BackwardTask(const TokenLayout& layout, const Task& task, const float* qkv, const Kept& kept,
                    const OutputGradient& output, float* d_qkv, Scratch& scratch);
  void BackwardBlock(const Task& task, const QueryBlock& block, const float* qkv,
                     const AttentionRows& rows, const OutputGradient& output, float* d_qkv,
                     Scratch& scratch) const;
  // The same for narrow heads, all queries of the segment at once.
  NarrowAttention Narrow(const TokenLayout& layout, const Task& task, const float* qkv,
                         const Kept& kept, const Scratch& scratch) const;
  void BackwardNarrow(const TokenLayout& layout, const Task& task, const float* qkv,
                      const Kept& kept, const OutputGradient& output, float* d_qkv,
                      Scratch& scratch);
  void BackwardWide(const TokenLayout& layout, const Task& task, const float* qkv, const Kept& kept,
                    const OutputGradient& output, float* d_qkv, Scratch& scratch);
  void AddColumns(const Buffer& columns, float* sums, Scratch& scratch) const;
  void AddRows(const float* rows, int64_t ld, int64_t count, float* sums,
               const Scratch& scratch) const;
  float* KeyValueGradients(const TokenLayout& layout, const Task& task);
  void SumOverGroups(int64_t num_tokens, float* d_qkv) const;
  std::vector<Scratch>& ThreadScratch();

  const LlamaConfig& config_;
  bool is_narrow_;  // heads fit into NarrowAttention
  int64_t ld_;      // head_dim rounded up to whole vectors, or kNarrowHead
  int64_t qkv_width_;
  int64_t mixed_width_;
  float scale_;
  // [H, N, 2 E]: by query head, so that heads can run at the same time. Of narrow heads pairs (of a
  // key and of its value), of others the keys' E values and then the values'.
  Buffer d_keys_values_;
  std::vector<Scratch> scratch_;
};

}  // namespace evolora
