#include "products.h"

#include <algorithm>

#include "ATen/Parallel.h"

namespace evolora {
namespace {

// Most of the depth that is worked on at once. A panel of it has 192 KiB, in the second-level
// cache; the left side of a longer one (the gradient of logits) is read once, not once for each
// panel.
constexpr int64_t kDepthBlock = 1536;
static_assert(kDepthBlock % kCompactBlock == 0);
// Up to so many rows a panel is read so few times that copying it costs more than it saves.
constexpr int64_t kRowsWithoutCopy = 24;
constexpr int64_t kMinRowsPerTile = 48;
constexpr int64_t kVector = 16;

// One panel of y for some rows.
struct Tile {
  int64_t first_row;
  int64_t rows;
  int64_t panel;
  int64_t columns;
};

// The tiles of a result y [rows, columns].
struct Tiling {
  int64_t rows;
  int64_t columns;
  int64_t num_panels;
  int64_t rows_per_tile;
  int64_t num_cuts;

  int64_t size() const { return num_panels * num_cuts; }
  Tile At(int64_t i) const {
    const int64_t panel = i / num_cuts;
    const int64_t first_row = i % num_cuts * rows_per_tile;
    return {first_row, std::min(rows_per_tile, rows - first_row), panel,
            std::min(kPanelColumns, columns - panel * kPanelColumns)};
  }
};

// All rows in one tile, unless there are too few panels to keep the threads equally busy.
Tiling MakeTiling(int64_t rows, int64_t columns) {
  const int64_t threads = at::get_num_threads();
  const int64_t num_panels = (columns + kPanelColumns - 1) / kPanelColumns;
  const int64_t most = std::max<int64_t>(1, rows / kMinRowsPerTile);
  int64_t cuts = std::min(most, (4 * threads + num_panels - 1) / num_panels);
  while (cuts < std::min(most, 2 * threads) && num_panels * cuts % threads != 0) ++cuts;
  const int64_t rows_per_tile = (rows + cuts - 1) / cuts;
  return {rows, columns, num_panels, rows_per_tile, (rows + rows_per_tile - 1) / rows_per_tile};
}

// Copies `depth` rows of `columns` values into a panel, zeros behind them.
void CopyPanel(const float* from, int64_t ldr, int64_t depth, int64_t columns, float* panel) {
  for (int64_t k = 0; k < depth; ++k) {
    float* row = panel + k * kPanelColumns;
    std::fill(std::copy_n(from + k * ldr, columns, row), row + kPanelColumns, 0.0f);
  }
}

// Adds one product's part of the depth to the tiles [begin, end).
class DepthStep {
 public:
  DepthStep(const Product& product, const Tiling& tiling, float* y, int64_t ldy)
      : product_(product), tiling_(tiling), y_(y), ldy_(ldy) {}

  void Run(int64_t begin, int64_t end, const DepthRange& depth, GemmStore store) const {
    alignas(64) float scratch[kDepthBlock * kPanelColumns];
    int64_t widened = -1;  // the panel of the weight that is in `scratch`
    for (int64_t i = begin; i < end; ++i) {
      const Tile tile = Cut(tiling_.At(i));
      if (tile.rows <= 0) continue;
      if (product_.weight != nullptr && tile.panel != widened) {
        Widen(tile, depth, scratch);
        widened = tile.panel;
      }
      GemmArgs args = ArgsOf(tile, depth, scratch);
      if (args.depth <= 0) continue;
      args.store = store;
      Kernels().gemm(args);
    }
  }

 private:
  void Widen(const Tile& tile, const DepthRange& depth, float* scratch) const {
    const int64_t first = tile.panel * kPanelColumns;
    if (product_.weight_transposed) {
      product_.weight->WidenTransposed(depth.begin, depth.count, first, scratch);
    } else {
      product_.weight->WidenPanel(depth.begin, depth.count, first, scratch);
    }
  }

  GemmArgs ArgsOf(const Tile& tile, const DepthRange& depth, float* scratch) const {
    if (product_.weight == nullptr) {
      return product_.ldr == 0 ? FromPanels(tile, depth) : FromRows(tile, depth, scratch);
    }
    GemmArgs args = Args(tile, depth);
    args.panel = scratch;
    return args;
  }

  // The rows of the tile that the product has.
  Tile Cut(Tile tile) const {
    const int64_t end =
        std::min(tile.first_row + tile.rows, product_.first_row + product_.num_rows);
    tile.first_row = std::max(tile.first_row, product_.first_row);
    tile.rows = end - tile.first_row;
    return tile;
  }

  GemmArgs Args(const Tile& tile, const DepthRange& depth) const {
    const int64_t row = tile.first_row - product_.first_row;
    const float* left = product_.left + (product_.transposed ? row + depth.begin * product_.ldl
                                                             : row * product_.ldl + depth.begin);
    return {.x = left,
            .ldx = product_.ldl,
            .rows = tile.rows,
            .depth = depth.count,
            .y = y_ + tile.first_row * ldy_ + tile.panel * kPanelColumns,
            .ldy = ldy_,
            .columns = tile.columns,
            .transposed = product_.transposed};
  }

  GemmArgs FromPanels(const Tile& tile, DepthRange depth) const {
    if (product_.ranges != nullptr) {
      const DepthRange& used = product_.ranges[tile.panel];
      const int64_t end = std::min(depth.begin + depth.count, used.begin + used.count);
      depth.begin = std::max(depth.begin, used.begin);
      depth.count = end - depth.begin;
    }
    GemmArgs args = Args(tile, depth);
    args.panel = product_.right + (tile.panel * product_.depth + depth.begin) * kPanelColumns;
    return args;
  }

  GemmArgs FromRows(const Tile& tile, const DepthRange& depth, float* scratch) const {
    GemmArgs args = Args(tile, depth);
    args.panel = product_.right + depth.begin * product_.ldr + tile.panel * kPanelColumns;
    args.ldp = product_.ldr;
    if (tile.columns % kVector != 0) {
      CopyPanel(args.panel, product_.ldr, depth.count, tile.columns, scratch);
      args.panel = scratch;
      args.ldp = kPanelColumns;
    } else if (tile.columns == kPanelColumns && tile.rows > kRowsWithoutCopy) {
      args.copy = scratch;
    }
    return args;
  }

  const Product& product_;
  const Tiling& tiling_;
  float* y_;
  int64_t ldy_;
};

}  // namespace

void SumOfProducts(absl::Span<const Product> products, int64_t rows, int64_t columns, float* y,
                   int64_t ldy, GemmStore store) {
  if (rows == 0 || columns == 0) return;
  const Tiling tiling = MakeTiling(rows, columns);
  int64_t depth = 0;
  for (const Product& product : products) depth += product.depth;
  // Below about 64k multiply-adds a task costs less than waking a thread.
  const int64_t work = std::max<int64_t>(1, tiling.rows_per_tile * depth * kPanelColumns);
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / work);
  at::parallel_for(0, tiling.size(), grain, [&](int64_t begin, int64_t end) {
    for (const Product& product : products) {
      const DepthStep step(product, tiling, y, ldy);
      const int64_t num_blocks = (product.depth + kDepthBlock - 1) / kDepthBlock;
      int64_t block = (product.depth + num_blocks - 1) / num_blocks;
      if (product.weight != nullptr) {  // whole blocks of it
        block = (block + kCompactBlock - 1) / kCompactBlock * kCompactBlock;
      }
      for (int64_t k = 0; k < product.depth; k += block) {
        const bool first = &product == &products.front() && k == 0;
        step.Run(begin, end, {k, std::min(block, product.depth - k)},
                 first ? store : GemmStore::kAdd);
      }
    }
  });
}

}  // namespace evolora
