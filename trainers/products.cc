#include "products.h"

#include <algorithm>

#include "ATen/Parallel.h"
#include "absl/container/inlined_vector.h"
#include "pair_side.h"
#include "product_steps.h"
#include "right_side.h"

namespace evolora {
namespace {

struct Result {
  float* y;
  int64_t ldy;
};

// One step of the sums of tiles. Side: RightSide or PairSide, which say what is multiplied.
template <typename Side>
class TileStep {
 public:
  // `own`: of the bands, too.
  TileStep(const Step& step, absl::Span<const Band> bands, bool own,
           const typename Side::Lefts& lefts, const Result& result)
      : step_(step), bands_(bands), own_(own), lefts_(lefts), result_(result) {}

  void Run(const Tiling& tiling, int64_t begin, int64_t end, GemmStore store) {
    alignas(64) Value room[(kDepthBlock + kOwnDepthBlock) * kPanelColumns];
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
  using Value = typename Side::Value;

  void RunBands(const Tile& tile, GemmStore store, Value* room) {
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

  void RunRows(absl::Span<const Slice> own, const Tile& tile, GemmStore store, Value* room) {
    terms_.clear();
    Value* next = room;
    for (size_t i = 0; i < step_.slices.size(); ++i) {
      const Slice& slice = step_.slices[i];
      if (sides_.size() <= i) sides_.emplace_back(slice, tile, next);
      next += Side::RoomOf(slice.depth.count);
      if (sides_[i].empty()) continue;
      terms_.push_back(sides_[i].TermOf(lefts_, *slice.product, tile.first_row, tile.rows));
    }
    AppendOwn(own, tile, room + kDepthBlock * kPanelColumns);
    Store(tile, store);
  }

  void AppendOwn(absl::Span<const Slice> slices, const Tile& tile, Value* room) {
    for (const Slice& slice : slices) {
      Side side(slice, tile, room);
      room += Side::RoomOf(slice.depth.count);
      if (!side.empty())
        terms_.push_back(side.TermOf(lefts_, *slice.product, tile.first_row, tile.rows));
    }
  }

  void Store(const Tile& tile, GemmStore store) const {
    if (terms_.empty()) return;
    Side::Gemm({.terms = terms_.data(),
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
  const typename Side::Lefts& lefts_;
  Result result_;
  absl::InlinedVector<Side, 4> sides_;  // of the step's slices, for the present panel
  absl::InlinedVector<typename Side::Term, 8> terms_;
};

template <typename Side>
void Sum(absl::Span<const Product> products, int64_t rows, int64_t columns, const Result& result,
         GemmStore store) {
  const typename Side::Lefts lefts(products, rows);
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
      TileStep<Side>(step, bands, last, lefts, result)
          .Run(tiling, begin, end, first ? store : GemmStore::kAdd);
    }
  });
}

}  // namespace

void SumOfProducts(absl::Span<const Product> products, int64_t rows, int64_t columns, float* y,
                   int64_t ldy, GemmStore store, Factors factors) {
  if (rows == 0 || columns == 0) return;
  if (factors == Factors::kBf16) return Sum<PairSide>(products, rows, columns, {y, ldy}, store);
  Sum<RightSide>(products, rows, columns, {y, ldy}, store);
}

}  // namespace evolora
