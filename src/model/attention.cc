#include "attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "ATen/Parallel.h"
#include "evolora/model/kernels.h"

namespace evolora {
namespace {

// Queries of one block: enough to reuse a key panel, few enough for the scores to stay in cache.
constexpr int64_t kQueriesPerBlock = 48;

}  // namespace

Attention::Attention(const LlamaConfig& config, absl::Span<const AttentionRow> rows)
    : config_(config), group_(config.num_heads / config.num_kv_heads) {
  const int64_t block = std::max<int64_t>(1, kQueriesPerBlock / group_);
  // Rows that share keys stand side by side: what one has read is near when the next one reads it.
  for (int64_t kv_head = 0; kv_head < config.num_kv_heads; ++kv_head) {
    for (const AttentionRow& row : rows) {
      for (int64_t start = 0; start < row.num_tokens; start += block) {
        tasks_.push_back({.kv_head = kv_head,
                          .first_token = row.first_token + start,
                          .num_tokens = std::min(block, row.num_tokens - start),
                          .first_position = row.first_position + start,
                          .cache = row.cache});
      }
    }
  }
}

// A block late in a row sees many keys, an early one few: each thread takes the next task when it
// is free, from the end.
void Attention::Run(int64_t layer, const float* q, int64_t ldq, float* out, int64_t ldo) const {
  const auto count = static_cast<int64_t>(tasks_.size());
  std::atomic<int64_t> left{count};
  const int64_t workers = std::min<int64_t>(count, at::get_num_threads());
  at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    Work work;
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t i = --left; i >= 0; i = --left) {
        RunTask(tasks_[static_cast<size_t>(i)], layer, q, ldq, out, ldo, work);
      }
    }
  });
}

int64_t Attention::Work::first_key() const { return first_panel * kPanelColumns; }
int64_t Attention::Work::stride() const { return num_panels * kPanelColumns; }

void Attention::RunTask(const Task& task, int64_t layer, const float* q, int64_t ldq, float* out,
                        int64_t ldo, Work& work) const {
  const int64_t group_width = group_ * config_.head_dim;
  const int64_t num_queries = task.num_tokens * group_;
  const int64_t last_key = task.first_position + task.num_tokens - 1;
  work.window = LayerWindow(config_, layer);
  const int64_t oldest =
      work.window > 0 ? std::max<int64_t>(0, task.first_position - work.window + 1) : 0;
  work.first_panel = oldest / kPanelColumns;
  work.num_panels = last_key / kPanelColumns + 1 - work.first_panel;
  work.queries.resize(static_cast<size_t>(num_queries * config_.head_dim));
  work.mixed.resize(work.queries.size());
  work.scores.resize(static_cast<size_t>(num_queries * work.stride()));
  for (int64_t t = 0; t < task.num_tokens; ++t) {
    std::copy_n(q + (task.first_token + t) * ldq + task.kv_head * group_width, group_width,
                work.queries.data() + t * group_width);
  }
  ScoreKeys(task, layer, work);
  WeighKeys(task, work);
  MixValues(task, layer, work);
  for (int64_t t = 0; t < task.num_tokens; ++t) {
    std::copy_n(work.mixed.data() + t * group_width, group_width,
                out + (task.first_token + t) * ldo + task.kv_head * group_width);
  }
}

// scores = queries K^T, unscaled, for whole panels of keys.
void Attention::ScoreKeys(const Task& task, int64_t layer, Work& work) const {
  const auto keys = [&](int64_t panel) {
    return task.cache->KeyPanel(layer, task.kv_head, work.first_panel + panel);
  };
  for (int64_t panel = 0; panel < work.num_panels; ++panel) {
    const bool is_last = panel + 1 == work.num_panels;
    const GemmTerm term = {.x = work.queries.data(),
                           .ldx = config_.head_dim,
                           .panel = keys(panel),
                           .depth = config_.head_dim,
                           .next = is_last ? Values(task, layer, work, 0, 0) : keys(panel + 1)};
    Kernels().gemm({.terms = &term,
                    .rows = task.num_tokens * group_,
                    .y = work.scores.data() + panel * kPanelColumns,
                    .ldy = work.stride(),
                    .columns = kPanelColumns});
  }
}

// Softmax over the keys each query sees, 0 for the others.
void Attention::WeighKeys(const Task& task, Work& work) const {
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(config_.head_dim)));
  for (int64_t i = 0; i < task.num_tokens * group_; ++i) {
    const int64_t position = task.first_position + i / group_;
    const int64_t oldest = work.window > 0 ? std::max<int64_t>(0, position - work.window + 1) : 0;
    float* row = work.scores.data() + i * work.stride();
    float* begin = row + (oldest - work.first_key());
    float* end = row + (position + 1 - work.first_key());
    std::fill(row, begin, 0.0f);
    Kernels().softmax(begin, end - begin, scale);
    std::fill(end, row + work.stride(), 0.0f);
  }
}

// Of elements 32 * panel .. of the values of the i-th block that the task reads.
const float* Attention::Values(const Task& task, int64_t layer, const Work& work, int64_t panel,
                               int64_t i) const {
  return task.cache->ValuePanel(layer, task.kv_head, panel, work.first_panel + i);
}

// mixed = weights V, over the keys up to the newest of the block.
void Attention::MixValues(const Task& task, int64_t layer, Work& work) const {
  const int64_t width = config_.head_dim;
  const int64_t num_keys = task.first_position + task.num_tokens - work.first_key();
  work.terms.resize(static_cast<size_t>(work.num_panels));
  for (int64_t panel = 0; panel * kPanelColumns < width; ++panel) {
    for (int64_t i = 0; i < work.num_panels; ++i) {
      const bool is_last = i + 1 == work.num_panels;
      work.terms[static_cast<size_t>(i)] = {
          .x = work.scores.data() + i * kPanelColumns,
          .ldx = work.stride(),
          .panel = Values(task, layer, work, panel, i),
          .depth = std::min(kPanelColumns, num_keys - i * kPanelColumns),
          .next = is_last ? nullptr : Values(task, layer, work, panel, i + 1)};
    }
    Kernels().gemm({.terms = work.terms.data(),
                    .num_terms = work.num_panels,
                    .rows = task.num_tokens * group_,
                    .y = work.mixed.data() + panel * kPanelColumns,
                    .ldy = width,
                    .columns = std::min(kPanelColumns, width - panel * kPanelColumns)});
  }
}

}  // namespace evolora
