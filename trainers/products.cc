#include "products.h"

#include <algorithm>

#include "ATen/Parallel.h"

namespace evolora {
namespace {

// Rows of a panel that are copied at once: 64 KiB, half of which is in the first-level cache.
constexpr int64_t kDepthBlock = 512;
// Up to so many rows a panel is read so few times that copying it costs more than it saves.
constexpr int64_t kRowsWithoutCopy = 24;
constexpr int64_t kMinRowsPerTask = 48;

// One panel of y for some rows.
struct Tile {
  int64_t first_row;
  int64_t rows;
  int64_t panel;
  int64_t columns;
  float* y;  // of the whole result
  int64_t ldy;
};

GemmArgs Block(const Product& product, const Tile& tile, int64_t k, int64_t depth,
               GemmStore store) {
  const float* left = product.left + (product.transposed ? tile.first_row + k * product.ldl
                                                         : tile.first_row * product.ldl + k);
  return {.x = left,
          .ldx = product.ldl,
          .rows = tile.rows,
          .depth = depth,
          .y = tile.y + tile.first_row * tile.ldy + tile.panel * kPanelColumns,
          .ldy = tile.ldy,
          .columns = tile.columns,
          .store = store,
          .transposed = product.transposed};
}

GemmStore AddPanels(const KernelTable& kernels, const Product& product, const Tile& tile,
                    GemmStore store) {
  const DepthRange range =
      product.ranges != nullptr ? product.ranges[tile.panel] : DepthRange{0, product.depth};
  const float* panel = product.right + tile.panel * product.depth * kPanelColumns;
  for (int64_t k = range.begin; k < range.begin + range.count; k += kDepthBlock) {
    const int64_t depth = std::min(kDepthBlock, range.begin + range.count - k);
    GemmArgs args = Block(product, tile, k, depth, store);
    args.panel = panel + k * kPanelColumns;
    kernels.gemm(args);
    store = GemmStore::kAdd;
  }
  return store;
}

// Copies `depth` rows of `columns` values into a panel, zeros behind them.
void CopyPanel(const float* from, int64_t ldr, int64_t depth, int64_t columns, float* panel) {
  for (int64_t k = 0; k < depth; ++k) {
    float* row = panel + k * kPanelColumns;
    if (columns == kPanelColumns) {
      std::copy_n(from + k * ldr, kPanelColumns, row);
    } else {
      std::fill(std::copy_n(from + k * ldr, columns, row), row + kPanelColumns, 0.0f);
    }
  }
}

GemmStore AddRowMajor(const KernelTable& kernels, const Product& product, const Tile& tile,
                      GemmStore store) {
  alignas(64) float panel[kDepthBlock * kPanelColumns];
  const bool copy = tile.rows > kRowsWithoutCopy || tile.columns % 16 != 0;
  for (int64_t k = 0; k < product.depth; k += kDepthBlock) {
    const int64_t depth = std::min(kDepthBlock, product.depth - k);
    const float* right = product.right + k * product.ldr + tile.panel * kPanelColumns;
    GemmArgs args = Block(product, tile, k, depth, store);
    args.panel = right;
    args.ldp = product.ldr;
    if (copy) {
      CopyPanel(right, product.ldr, depth, tile.columns, panel);
      args.panel = panel;
      args.ldp = kPanelColumns;
    }
    kernels.gemm(args);
    store = GemmStore::kAdd;
  }
  return store;
}

// Rows of one task: all of them, unless there are too few panels to keep the threads busy.
int64_t RowsPerTask(int64_t rows, int64_t num_panels) {
  const int64_t wanted = 4 * at::get_num_threads();
  const int64_t cuts = (wanted + num_panels - 1) / num_panels;
  return std::min(rows, std::max(kMinRowsPerTask, (rows + cuts - 1) / cuts));
}

}  // namespace

void SumOfProducts(absl::Span<const Product> products, int64_t rows, int64_t columns, float* y,
                   int64_t ldy, GemmStore store) {
  if (rows == 0 || columns == 0) return;
  const KernelTable& kernels = Kernels();
  const int64_t num_panels = (columns + kPanelColumns - 1) / kPanelColumns;
  const int64_t rows_per_task = RowsPerTask(rows, num_panels);
  const int64_t num_cuts = (rows + rows_per_task - 1) / rows_per_task;
  int64_t depth = 0;
  for (const Product& product : products) depth += product.depth;
  // Below about 64k multiply-adds a task costs less than waking a thread.
  const int64_t work = std::max<int64_t>(1, rows_per_task * depth * kPanelColumns);
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / work);
  at::parallel_for(0, num_panels * num_cuts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t panel = task / num_cuts;
      const int64_t first_row = task % num_cuts * rows_per_task;
      const Tile tile = {.first_row = first_row,
                         .rows = std::min(rows_per_task, rows - first_row),
                         .panel = panel,
                         .columns = std::min(kPanelColumns, columns - panel * kPanelColumns),
                         .y = y,
                         .ldy = ldy};
      GemmStore tile_store = store;
      for (const Product& product : products) {
        tile_store = product.ldr == 0 ? AddPanels(kernels, product, tile, tile_store)
                                      : AddRowMajor(kernels, product, tile, tile_store);
      }
    }
  });
}

}  // namespace evolora
