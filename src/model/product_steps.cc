#include "product_steps.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "ATen/Parallel.h"

namespace evolora {
namespace {

constexpr int64_t kMinRowsPerTile = 48;

void AppendSlice(const Slice& slice, int64_t unit, int64_t most, Steps& steps) {
  const int64_t depth = RoundUpTo(unit, slice.depth.count);
  if (steps.empty() || steps.back().depth + depth > most) steps.emplace_back();
  steps.back().slices.push_back(slice);
  steps.back().depth += depth;
}

}  // namespace

Tile Tiling::At(int64_t i) const {
  const int64_t panel = by_rows ? i % num_panels : i / num_cuts;
  const int64_t first_row = (by_rows ? i / num_panels : i % num_cuts) * rows_per_tile;
  return {first_row, std::min(rows_per_tile, rows - first_row), panel,
          std::min(kPanelColumns, columns - panel * kPanelColumns)};
}

Tiling MakeTiling(int64_t rows, int64_t columns, bool by_rows) {
  const int64_t threads = at::get_num_threads();
  const int64_t num_panels = (columns + kPanelColumns - 1) / kPanelColumns;
  const int64_t most = std::max<int64_t>(1, rows / kMinRowsPerTile);
  int64_t cuts = std::min(most, (4 * threads + num_panels - 1) / num_panels);
  while (cuts < std::min(most, 2 * threads) && num_panels * cuts % threads != 0) ++cuts;
  const int64_t rows_per_tile = (rows + cuts - 1) / cuts;
  const int64_t num_cuts = (rows + rows_per_tile - 1) / rows_per_tile;
  return {rows, columns, num_panels, rows_per_tile, num_cuts, by_rows};
}

int64_t RowsOf(const Product& product, int64_t rows) {
  return IsOfAllRows(product) ? rows : std::min(product.num_rows, rows - product.first_row);
}

DepthRange Within(const DepthRange& depth, const DepthRange& used, int64_t unit) {
  const int64_t begin = std::max(depth.begin, used.begin / unit * unit);
  return {begin, std::min(depth.begin + depth.count, used.begin + used.count) - begin};
}

void AppendProduct(const Product& product, int64_t unit, int64_t most, Steps& steps) {
  const int64_t num_slices = (product.depth + most - 1) / most;
  if (num_slices == 0) return;
  const int64_t depth = RoundUpTo(unit, (product.depth + num_slices - 1) / num_slices);
  for (int64_t k = 0; k < product.depth; k += depth) {
    AppendSlice({&product, {k, std::min(depth, product.depth - k)}}, unit, most, steps);
  }
}

absl::InlinedVector<Band, 1> MakeBands(absl::Span<const Product> products, int64_t rows,
                                       int64_t unit) {
  std::vector<int64_t> cuts = {0, rows};
  for (const Product& product : products) {
    if (IsOfAllRows(product)) continue;
    cuts.push_back(std::min(rows, product.first_row));
    cuts.push_back(std::min(rows, product.first_row + product.num_rows));
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  absl::InlinedVector<Band, 1> bands;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    Band band = {cuts[i], cuts[i + 1], {}};
    for (const Product& product : products) {
      const bool covers = product.first_row <= band.first_row &&
                          band.end_row <= product.first_row + product.num_rows;
      if (!IsOfAllRows(product) && covers) AppendProduct(product, unit, kOwnDepthBlock, band.own);
    }
    bands.push_back(std::move(band));
  }
  return bands;
}

}  // namespace evolora
