#include "attention.h"

#include <algorithm>
#include <cmath>

#include "ATen/Parallel.h"
#include "kernels.h"

namespace evolora {
namespace {

// Queries of one block: enough to reuse a key panel, few enough for the scores to stay in cache.
constexpr int64_t kQueriesPerBlock = 48;

}  // namespace

Attention::Attention(const LlamaConfig& config, absl::Span<const AttentionRow> rows)
    : config_(config), group_(config.num_heads / config.num_kv_heads) {
  const int64_t block = std::max<int64_t>(1, kQueriesPerBlock / group_);
  for (const AttentionRow& row : rows) {
    for (int64_t start = 0; start < row.num_tokens; start += block) {
      for (int64_t kv_head = 0; kv_head < config.num_kv_heads; ++kv_head) {
        tasks_.push_back({.kv_head = kv_head,
                          .first_token = row.first_token + start,
                          .num_tokens = std::min(block, row.num_tokens - start),
                          .first_position = row.first_position + start,
                          .cache = row.cache});
      }
    }
  }
}

void Attention::Run(int64_t layer, const float* q, int64_t ldq, float* out, int64_t ldo) const {
  at::parallel_for(0, static_cast<int64_t>(tasks_.size()), 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t i = begin; i < end; ++i) {
      RunTask(tasks_[static_cast<size_t>(i)], layer, q, ldq, out, ldo, scratch);
    }
  });
}

void Attention::RunTask(const Task& task, int64_t layer, const float* q, int64_t ldq, float* out,
                        int64_t ldo, Scratch& scratch) const {
  const KernelTable& kernels = Kernels();
  const int64_t width = config_.head_dim;
  const int64_t window = LayerWindow(config_, layer);
  const int64_t last_key = task.first_position + task.num_tokens - 1;
  const int64_t oldest = window > 0 ? std::max<int64_t>(0, task.first_position - window + 1) : 0;
  const int64_t first_panel = oldest / kPanelColumns;
  const int64_t num_panels = last_key / kPanelColumns + 1 - first_panel;
  const int64_t first_key = first_panel * kPanelColumns;  // column 0 of the scores
  const int64_t stride = num_panels * kPanelColumns;
  const int64_t num_queries = task.num_tokens * group_;
  scratch.queries.resize(static_cast<size_t>(num_queries * width));
  scratch.mixed.resize(static_cast<size_t>(num_queries * width));
  scratch.scores.resize(static_cast<size_t>(num_queries * stride));

  for (int64_t t = 0; t < task.num_tokens; ++t) {
    const float* heads = q + (task.first_token + t) * ldq + task.kv_head * group_ * width;
    std::copy_n(heads, group_ * width, scratch.queries.data() + t * group_ * width);
  }
  for (int64_t panel = 0; panel < num_panels; ++panel) {
    kernels.gemm({.x = scratch.queries.data(),
                  .ldx = width,
                  .rows = num_queries,
                  .panel = task.cache->KeyPanel(layer, task.kv_head, first_panel + panel),
                  .depth = width,
                  .y = scratch.scores.data() + panel * kPanelColumns,
                  .ldy = stride,
                  .columns = kPanelColumns});
  }
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(width)));
  for (int64_t i = 0; i < num_queries; ++i) {
    const int64_t position = task.first_position + i / group_;
    const int64_t low = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
    float* row = scratch.scores.data() + i * stride;
    std::fill_n(row, low - first_key > 0 ? low - first_key : 0, 0.0f);
    kernels.softmax(row + (low - first_key), position + 1 - low, scale);
    std::fill(row + (position + 1 - first_key), row + stride, 0.0f);
  }
  for (int64_t panel = 0; panel * kPanelColumns < width; ++panel) {
    kernels.gemm(
        {.x = scratch.scores.data(),
         .ldx = stride,
         .rows = num_queries,
         .panel = task.cache->ValuePanel(layer, task.kv_head, panel) + first_key * kPanelColumns,
         .depth = last_key + 1 - first_key,
         .y = scratch.mixed.data() + panel * kPanelColumns,
         .ldy = width,
         .columns = std::min(kPanelColumns, width - panel * kPanelColumns)});
  }
  for (int64_t t = 0; t < task.num_tokens; ++t) {
    std::copy_n(scratch.mixed.data() + t * group_ * width, group_ * width,
                out + (task.first_token + t) * ldo + task.kv_head * group_ * width);
  }
}

}  // namespace evolora
