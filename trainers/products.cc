#include "products.h"

#include <algorithm>
#include <vector>

#include "ATen/Parallel.h"
#include "absl/container/inlined_vector.h"

namespace evolora {
namespace {

// Most of the depth that is worked on at once. A panel of it has 192 KiB, in the second-level
// cache; the left side of a longer one (the gradient of logits) is read once, not once for each
// panel.
constexpr int64_t kDepthBlock = 1536;
static_assert(kDepthBlock % kCompactBlock == 0);
// Most of the depth of products with rows of their own that joins a step over all rows.
constexpr int64_t kOwnDepthBlock = 512;
static_assert(kOwnDepthBlock % kCompactBlock == 0);
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

// A part of a product's depth.
struct Slice {
  const Product* product;
  DepthRange depth;
};

// Slices whose products are added before the sum is stored.
struct Step {
  absl::InlinedVector<Slice, 4> slices;
  int64_t depth = 0;
};
using Steps = absl::InlinedVector<Step, 2>;

void AppendSlice(const Slice& slice, int64_t most, Steps& steps) {
  if (steps.empty() || steps.back().depth + slice.depth.count > most) steps.emplace_back();
  steps.back().slices.push_back(slice);
  steps.back().depth += slice.depth.count;
}

// Cuts the product into even slices no deeper than `most`.
void AppendProduct(const Product& product, int64_t most, Steps& steps) {
  const int64_t num_slices = (product.depth + most - 1) / most;
  if (num_slices == 0) return;
  int64_t depth = (product.depth + num_slices - 1) / num_slices;
  if (product.weight != nullptr) {  // whole blocks of it
    depth = (depth + kCompactBlock - 1) / kCompactBlock * kCompactBlock;
  }
  for (int64_t k = 0; k < product.depth; k += depth) {
    AppendSlice({&product, {k, std::min(depth, product.depth - k)}}, most, steps);
  }
}

bool IsOfAllRows(const Product& product) { return product.num_rows == Product::kAllRows; }

// Neighbouring rows with the same products. The first of their own steps joins the last step over
// all rows, the others follow it.
struct Band {
  int64_t first_row;
  int64_t end_row;
  Steps own;
};

absl::InlinedVector<Band, 1> MakeBands(absl::Span<const Product> products, int64_t rows) {
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
      if (!IsOfAllRows(product) && covers) AppendProduct(product, kOwnDepthBlock, band.own);
    }
    bands.push_back(std::move(band));
  }
  return bands;
}

// Copies `depth` rows of `columns` values into a panel, zeros behind them.
void CopyPanel(const float* from, int64_t ldr, int64_t depth, int64_t columns, float* panel) {
  for (int64_t k = 0; k < depth; ++k) {
    float* row = panel + k * kPanelColumns;
    std::fill(std::copy_n(from + k * ldr, columns, row), row + kPanelColumns, 0.0f);
  }
}

// The columns of a panel that a weight's rows give, zeros behind the last.
void TransposeRows(const Slice& slice, const Tile& tile, float* panel) {
  const int64_t first = tile.panel * kPanelColumns, end = first + tile.columns;
  int64_t begin = 0;  // of the part
  for (const Product::Rows& part : slice.product->weight_rows) {
    const int64_t from = std::max(first, begin), to = std::min(end, begin + part.count);
    if (from < to) {
      const float* rows = part.data + (from - begin) * slice.product->depth + slice.depth.begin;
      Kernels().transpose(rows, slice.product->depth, to - from, slice.depth.count, 1,
                          panel + (from - first), kPanelColumns);
    }
    begin += part.count;
  }
  for (int64_t k = 0; tile.columns < kPanelColumns && k < slice.depth.count; ++k) {
    float* row = panel + k * kPanelColumns;
    std::fill(row + tile.columns, row + kPanelColumns, 0.0f);
  }
}

// The weight's rows behind those of a tile, when they are as many and lie in one piece; else null.
const float* NextRows(const Slice& slice, const Tile& tile) {
  if (slice.depth.count != slice.product->depth) return nullptr;
  int64_t row = (tile.panel + 1) * kPanelColumns;
  for (const Product::Rows& part : slice.product->weight_rows) {
    if (row < part.count) {
      const bool whole = row + kPanelColumns <= part.count;
      return whole ? part.data + row * slice.product->depth : nullptr;
    }
    row -= part.count;
  }
  return nullptr;
}

void WidenWeight(const Slice& slice, const Tile& tile, float* panel) {
  const int64_t first = tile.panel * kPanelColumns;
  const CompactMatrix& weight = *slice.product->weight;
  if (slice.product->weight_transposed) {
    weight.WidenTransposed(slice.depth.begin, slice.depth.count, first, panel);
  } else {
    weight.WidenPanel(slice.depth.begin, slice.depth.count, first, panel);
  }
}

// Where the right side of a slice is, for one panel of y.
class RightSide {
 public:
  // `room`: [depth of the slice, 32], for a copy. `rows`: of y, that are going to be computed.
  RightSide(const Slice& slice, const Tile& tile, float* room) : depth_(slice.depth) {
    const Product& product = *slice.product;
    const bool is_rows = !product.weight_rows.empty();
    if (is_rows || product.weight != nullptr) {
      is_rows ? TransposeRows(slice, tile, room) : WidenWeight(slice, tile, room);
      panel_ = room;
      next_ = NextRows(slice, tile);
    } else if (product.ldr == 0) {
      UsePanels(product, tile.panel);
    } else {
      UseMatrix(product, tile, room);
    }
  }

  bool empty() const { return depth_.count <= 0; }

  // The product's rows [first_row, first_row + rows) of y. From its second use on it may be a copy
  // that the first one makes.
  GemmTerm Term(const Product& product, int64_t first_row, int64_t rows) {
    const int64_t row = first_row - product.first_row;
    const float* left = product.left + (product.transposed ? row + depth_.begin * product.ldl
                                                           : row * product.ldl + depth_.begin);
    GemmTerm term = {.x = left,
                     .ldx = product.ldl,
                     .panel = panel_,
                     .depth = depth_.count,
                     .ldp = ldp_,
                     .transposed = product.transposed,
                     .next = next_};
    if (copy_ != nullptr && rows > kRowsWithoutCopy) {
      term.copy = copy_;
      panel_ = copy_;
      ldp_ = kPanelColumns;
      copy_ = nullptr;
    }
    return term;
  }

 private:
  void UsePanels(const Product& product, int64_t panel) {
    if (product.ranges != nullptr) {
      const DepthRange& used = product.ranges[panel];
      const int64_t end = std::min(depth_.begin + depth_.count, used.begin + used.count);
      depth_.begin = std::max(depth_.begin, used.begin);
      depth_.count = end - depth_.begin;
    }
    panel_ = product.right + (panel * product.depth + depth_.begin) * kPanelColumns;
  }

  void UseMatrix(const Product& product, const Tile& tile, float* room) {
    panel_ = product.right + depth_.begin * product.ldr + tile.panel * kPanelColumns;
    ldp_ = product.ldr;
    if (tile.columns % kVector != 0) {
      CopyPanel(panel_, product.ldr, depth_.count, tile.columns, room);
      panel_ = room;
      ldp_ = kPanelColumns;
    } else if (tile.columns == kPanelColumns) {
      copy_ = room;
    }
  }

  DepthRange depth_;
  const float* panel_ = nullptr;
  int64_t ldp_ = kPanelColumns;
  float* copy_ = nullptr;  // not yet made
  const float* next_ = nullptr;
};

struct Result {
  float* y;
  int64_t ldy;
};

// One step of the sums of tiles.
class TileStep {
 public:
  // `own`: of the bands, too.
  TileStep(const Step& step, absl::Span<const Band> bands, bool own, const Result& result)
      : step_(step), bands_(bands), own_(own), result_(result) {}

  void Run(const Tiling& tiling, int64_t begin, int64_t end, GemmStore store) {
    alignas(64) float room[(kDepthBlock + kOwnDepthBlock) * kPanelColumns];
    int64_t panel = -1;
    for (int64_t i = begin; i < end; ++i) {
      const Tile tile = tiling.At(i);
      if (tile.panel != panel) sides_.clear();
      panel = tile.panel;
      if (own_) {
        RunBands(tile, store, room);
      } else {
        RunRows({}, tile, store, room);
      }
    }
  }

 private:
  void RunBands(const Tile& tile, GemmStore store, float* room) {
    for (const Band& band : bands_) {
      Tile cut = tile;
      cut.first_row = std::max(tile.first_row, band.first_row);
      cut.rows = std::min(tile.first_row + tile.rows, band.end_row) - cut.first_row;
      if (cut.rows <= 0) continue;
      const auto joined = absl::MakeConstSpan(band.own).subspan(0, 1);
      RunRows(joined.empty() ? absl::Span<const Slice>() : joined[0].slices, cut, store, room);
      for (size_t i = 1; i < band.own.size(); ++i) {
        terms_.clear();
        AppendOwn(band.own[i].slices, cut, room + kDepthBlock * kPanelColumns);
        Store(cut, GemmStore::kAdd);
      }
    }
  }

  void RunRows(absl::Span<const Slice> own, const Tile& tile, GemmStore store, float* room) {
    terms_.clear();
    float* next = room;
    for (size_t i = 0; i < step_.slices.size(); ++i) {
      const Slice& slice = step_.slices[i];
      if (sides_.size() <= i) sides_.emplace_back(slice, tile, next);
      next += slice.depth.count * kPanelColumns;
      if (sides_[i].empty()) continue;
      terms_.push_back(sides_[i].Term(*slice.product, tile.first_row, tile.rows));
    }
    AppendOwn(own, tile, room + kDepthBlock * kPanelColumns);
    Store(tile, store);
  }

  void AppendOwn(absl::Span<const Slice> slices, const Tile& tile, float* room) {
    for (const Slice& slice : slices) {
      RightSide side(slice, tile, room);
      room += slice.depth.count * kPanelColumns;
      if (!side.empty()) terms_.push_back(side.Term(*slice.product, tile.first_row, tile.rows));
    }
  }

  void Store(const Tile& tile, GemmStore store) const {
    if (terms_.empty()) return;
    Kernels().gemm({.terms = terms_.data(),
                    .num_terms = static_cast<int64_t>(terms_.size()),
                    .rows = tile.rows,
                    .y = result_.y + tile.first_row * result_.ldy + tile.panel * kPanelColumns,
                    .ldy = result_.ldy,
                    .columns = tile.columns,
                    .store = store});
  }

  const Step& step_;
  absl::Span<const Band> bands_;
  bool own_;
  Result result_;
  absl::InlinedVector<RightSide, 4> sides_;  // of the step's slices, for the present panel
  absl::InlinedVector<GemmTerm, 8> terms_;
};

}  // namespace

void SumOfProducts(absl::Span<const Product> products, int64_t rows, int64_t columns, float* y,
                   int64_t ldy, GemmStore store) {
  if (rows == 0 || columns == 0) return;
  const Tiling tiling = MakeTiling(rows, columns);
  const absl::InlinedVector<Band, 1> bands = MakeBands(products, rows);
  Steps steps;
  int64_t depth = 0;
  for (const Product& product : products) {
    depth += product.depth;
    if (IsOfAllRows(product)) AppendProduct(product, kDepthBlock, steps);
  }
  // Below about 64k multiply-adds a task costs less than waking a thread.
  const int64_t work = std::max<int64_t>(1, tiling.rows_per_tile * depth * kPanelColumns);
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / work);
  at::parallel_for(0, tiling.size(), grain, [&](int64_t begin, int64_t end) {
    for (const Step& step : steps) {
      const bool first = &step == &steps.front(), last = &step == &steps.back();
      TileStep(step, bands, last, {y, ldy})
          .Run(tiling, begin, end, first ? store : GemmStore::kAdd);
    }
  });
}

}  // namespace evolora
