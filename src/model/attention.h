#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "evolora/model/kernels.h"
#include "evolora/model/llama_config.h"
#include "kv_cache.h"

namespace evolora {

// New tokens of one row: consecutive positions, whose keys and values are in `cache` already.
struct AttentionRow {
  int64_t first_token = 0;  // row of q and of out
  int64_t num_tokens = 0;
  int64_t first_position = 0;  // position of first_token
  const KvCache* cache = nullptr;
};

// Causal attention of a step's tokens, each over its own row's cache. Results of a token depend on
// its query, its position and its row's cache only, bit for bit.
class Attention {
 public:
  Attention(const LlamaConfig& config, absl::Span<const AttentionRow> rows);

  // q: [tokens, num_heads * head_dim] with row stride ldq, after RoPE. out: the same shape, stride
  // ldo. Uses all threads.
  void Run(int64_t layer, const float* q, int64_t ldq, float* out, int64_t ldo) const;

 private:
  // A block of queries that share keys: some tokens of one row times the heads of one kv head.
  struct Task {
    int64_t kv_head;
    int64_t first_token;
    int64_t num_tokens;
    int64_t first_position;
    const KvCache* cache;
  };
  // The keys one task reads (columns of its scores) and its buffers.
  struct Work {
    int64_t window;       // 0: full attention
    int64_t first_panel;  // oldest key panel any of the queries sees
    int64_t num_panels;
    std::vector<float> queries, scores, mixed;
    std::vector<GemmTerm> terms;

    int64_t first_key() const;  // column 0 of the scores
    int64_t stride() const;     // columns of the scores
  };
  void RunTask(const Task& task, int64_t layer, const float* q, int64_t ldq, float* out,
               int64_t ldo, Work& work) const;
  const float* Values(const Task& task, int64_t layer, const Work& work, int64_t panel,
                      int64_t i) const;
  void ScoreKeys(const Task& task, int64_t layer, Work& work) const;
  void WeighKeys(const Task& task, Work& work) const;
  void MixValues(const Task& task, int64_t layer, Work& work) const;

  const LlamaConfig& config_;
  int64_t group_;  // query heads of one kv head
  std::vector<Task> tasks_;
};

}  // namespace evolora
