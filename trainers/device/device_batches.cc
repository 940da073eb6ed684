#include "device/device_batches.h"

#include <algorithm>
#include <utility>

namespace evolora {
namespace {

// The layouts of `indices`, whole groups of rows that stay together.
void LayOut(absl::Span<const TrainingRow> rows, absl::Span<const int64_t> indices,
            int64_t max_copies, bool share_prefixes, int64_t group_size,
            std::vector<TokenLayout>& layouts) {
  TokenLayout layout = LayOutTokens(rows, indices, share_prefixes);
  const auto groups = static_cast<int64_t>(indices.size()) / group_size;
  const auto labels = share_prefixes ? static_cast<int64_t>(layout.labels.size()) : 0;
  if (std::max(SharedKeys(layout), labels) <= max_copies || groups == 1) {
    layouts.push_back(std::move(layout));
    return;
  }
  const auto half = static_cast<size_t>(groups / 2 * group_size);
  LayOut(rows, indices.first(half), max_copies, share_prefixes, group_size, layouts);
  LayOut(rows, indices.subspan(half), max_copies, share_prefixes, group_size, layouts);
}

}  // namespace

int64_t SharedKeys(const TokenLayout& layout) {
  int64_t keys = 0;
  bool shared = false;
  for (const TokenLayout::Segment& segment : layout.segments) {
    keys += segment.first_position + segment.num_tokens;
    shared = shared || segment.parent >= 0;
  }
  return shared ? keys : 0;
}

std::vector<TokenLayout> DeviceMicroBatches(absl::Span<const TrainingRow> rows,
                                            absl::Span<const int64_t> step_rows,
                                            const DeviceBatchLimits& limits, bool share_prefixes,
                                            int64_t group_size) {
  std::vector<TokenLayout> layouts;
  for (const std::vector<int64_t>& indices :
       PackedMicroBatches(rows, step_rows, limits.tokens, share_prefixes, group_size)) {
    LayOut(rows, indices, limits.copies(), share_prefixes, group_size, layouts);
  }
  return layouts;
}

}  // namespace evolora
