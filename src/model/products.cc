#include "evolora/model/products.h"

#include <algorithm>

#include "ATen/Parallel.h"
#include "absl/container/inlined_vector.h"
#include "digit_side.h"
#include "evolora/model/buffer.h"
#include "evolora/model/share_out.h"
#include "pair_side.h"
#include "product_steps.h"
#include "right_side.h"

namespace evolora {
namespace {

struct Result {
  float* y;
  int64_t ldy;
};

// One step of the sums of tiles. Side: RightSide, PairSide or DigitSide, which say what is
// multiplied.
template <typename Side>
class TileStep {
 public:
  // `bands`: with the own products that join this step.
  TileStep(const Step& step, absl::Span<const Band> bands, const typename Side::Lefts& lefts,
           const Result& result)
      : step_(step), bands_(bands), lefts_(lefts), result_(result) {}

  // Tiles [begin, end): several panels at once, so that the left side is read once for them.
  void Run(const Tiling& tiling, int64_t begin, int64_t end, GemmStore store) {
    thread_local Buffer memory;
    Value* room = reinterpret_cast<Value*>(memory.Reserve(kRoomFloats));
    for (int64_t i = begin; i < end;) {
      i = TakePanels(tiling, i, end, room);
      for (const Band& band : bands_) RunBand(band, store);
    }
  }

 private:
  using Value = typename Side::Value;
  using Sides = absl::InlinedVector<Side, 4>;
  // Room of one panel: of the step's products, then of own ones.
  static_assert(Side::kDepthBlock % Side::kUnit == 0 && kOwnDepthBlock % Side::kUnit == 0);
  static constexpr int64_t kOwnRoom = Side::RoomOf(Side::kDepthBlock);
  static constexpr int64_t kPanelRoom = kOwnRoom + Side::RoomOf(kOwnDepthBlock);
  static constexpr int64_t kRoomFloats =
      Side::kPanelsAtOnce * kPanelRoom * int64_t{sizeof(Value)} / int64_t{sizeof(float)};
  static_assert(kOwnRoom * sizeof(Value) % 64 == 0 && kPanelRoom * sizeof(Value) % 64 == 0);

  struct Panel {
    Tile tile;
    Value* room;
    Sides sides;  // of the step's slices
    Sides own;    // of those of a band
  };

  static Sides SidesOf(absl::Span<const Slice> slices, const Tile& tile, Value* room) {
    Sides sides;
    for (const Slice& slice : slices) {
      sides.emplace_back(slice, tile, room);
      room += Side::RoomOf(slice.depth.count);
    }
    return sides;
  }

  // The tiles of one panel that follow tile i, as one; i becomes the next panel's first.
  static Tile JoinedTile(const Tiling& tiling, int64_t end, int64_t& i) {
    Tile tile = tiling.At(i++);
    for (; i < end && tiling.At(i).panel == tile.panel; ++i) tile.rows += tiling.At(i).rows;
    return tile;
  }

  // Makes panels_ of the tiles from `i` on that have the same rows; returns the next tile.
  int64_t TakePanels(const Tiling& tiling, int64_t i, int64_t end, Value* room) {
    panels_.clear();
    while (i < end && static_cast<int64_t>(panels_.size()) < Side::kPanelsAtOnce) {
      int64_t next = i;
      const Tile tile = JoinedTile(tiling, end, next);
      if (!panels_.empty() &&
          (panels_[0].tile.first_row != tile.first_row || panels_[0].tile.rows != tile.rows)) {
        break;
      }
      panels_.push_back({tile, room, SidesOf(step_.slices, tile, room), {}});
      room += kPanelRoom;
      i = next;
    }
    return i;
  }

  void RunBand(const Band& band, GemmStore store) {
    const Tile& tile = panels_[0].tile;
    const int64_t begin = std::max(tile.first_row, band.first_row);
    const int64_t end = std::min(tile.first_row + tile.rows, band.end_row);
    if (begin >= end) return;
    const absl::Span<const Slice> joined =
        band.own.empty() ? absl::Span<const Slice>() : band.own[0].slices;
    RunRows(begin, end, step_.slices, joined, store);
    for (size_t i = 1; i < band.own.size(); ++i) {
      RunRows(begin, end, {}, band.own[i].slices, GemmStore::kAdd);
    }
  }

  // `slices`: the step's, or none.
  void RunRows(int64_t begin, int64_t end, absl::Span<const Slice> slices,
               absl::Span<const Slice> own, GemmStore store) {
    for (Panel& panel : panels_) panel.own = SidesOf(own, panel.tile, panel.room + kOwnRoom);
    for (int64_t row = begin; row < end; row += Side::kRowsAtOnce) {
      const int64_t rows = std::min(Side::kRowsAtOnce, end - row);
      for (Panel& panel : panels_) {
        terms_.clear();
        AppendTerms(slices, panel.sides, row, rows);
        AppendTerms(own, panel.own, row, rows);
        Store(panel.tile, row, rows, store);
      }
    }
  }

  void AppendTerms(absl::Span<const Slice> slices, Sides& sides, int64_t row, int64_t rows) {
    for (size_t i = 0; i < slices.size(); ++i) {
      if (!sides[i].empty()) {
        terms_.push_back(sides[i].TermOf(lefts_, *slices[i].product, row, rows));
      }
    }
  }

  void Store(const Tile& tile, int64_t row, int64_t rows, GemmStore store) const {
    if (terms_.empty()) return;
    Side::Gemm({.terms = terms_.data(),
                .num_terms = static_cast<int64_t>(terms_.size()),
                .rows = rows,
                .y = result_.y + row * result_.ldy + tile.panel * kPanelColumns,
                .ldy = result_.ldy,
                .columns = tile.columns,
                .store = store});
  }

  const Step& step_;
  absl::Span<const Band> bands_;
  const typename Side::Lefts& lefts_;
  Result result_;
  absl::InlinedVector<Panel, Side::kPanelsAtOnce> panels_;
  absl::InlinedVector<typename Side::Term, 8> terms_;
};

// A larger left side does not stay in the second-level cache of CPUs with AMX (2 MiB), beside the
// panels: where it is cut, a thread should work on some of its rows with one panel after another.
constexpr int64_t kMostLeftInCache = int64_t{3} << 19;

// Panels that a thread takes at a time, at least. Each time it reads the whole left side: a long
// one for as many panels as it works on at once. A shorter one it reads again for a few, so that
// threads which are not equally fast end together.
constexpr int64_t kLongLeft = 2 * kMostLeftInCache;
constexpr int64_t kFewPanels = 3;
template <typename Side>
int64_t LeastPanels(int64_t left_bytes) {
  return left_bytes > kLongLeft ? Side::kPanelsAtOnce : std::min(Side::kPanelsAtOnce, kFewPanels);
}

// Tiles that a thread takes at a time, at least: of so many panels, and as many as others do.
int64_t LeastTiles(const Tiling& tiling, int64_t depth, int64_t least_panels) {
  // Below about 64k multiply-adds a task costs less than waking a thread.
  const int64_t work = std::max<int64_t>(1, tiling.rows_per_tile * depth * kPanelColumns);
  const int64_t least = std::max<int64_t>(1, (int64_t{1} << 16) / work);
  if (tiling.num_cuts > 1) {  // few panels
    const int64_t groups = (tiling.num_panels + least_panels - 1) / least_panels;
    return tiling.by_rows ? std::max(least, (tiling.num_panels + groups - 1) / groups) : least;
  }
  const int64_t threads = at::get_num_threads();
  const int64_t at_once = threads * least_panels;
  const int64_t tasks = threads * ((tiling.num_panels + at_once - 1) / at_once);
  return std::max(least, (tiling.num_panels + tasks - 1) / tasks);
}

template <typename Side>
void Sum(absl::Span<const Product> products, int64_t rows, int64_t columns, const Result& result,
         GemmStore store) {
  const typename Side::Lefts lefts(products, rows);
  const absl::InlinedVector<Band, 1> bands = MakeBands(products, rows, Side::kUnit);
  const Band no_own = {0, rows, {}};
  Steps steps;
  int64_t depth = 0;
  for (const Product& product : products) {
    depth += product.depth;
    if (IsOfAllRows(product)) AppendProduct(product, Side::kUnit, Side::kDepthBlock, steps);
  }
  if (steps.empty()) steps.emplace_back();  // that the bands' own join
  const int64_t left_bytes = Side::Lefts::Bytes(rows, depth);
  const Tiling tiling = MakeTiling(rows, columns, left_bytes > kMostLeftInCache);
  const int64_t grain = LeastTiles(tiling, depth, LeastPanels<Side>(left_bytes));
  ShareOut(tiling.size(), grain, [&](int64_t begin, int64_t end) {
    for (const Step& step : steps) {
      const bool first = &step == &steps.front(), last = &step == &steps.back();
      TileStep<Side>(step, last ? absl::MakeConstSpan(bands) : absl::MakeConstSpan(&no_own, 1),
                     lefts, result)
          .Run(tiling, begin, end, first ? store : GemmStore::kAdd);
    }
  });
}

}  // namespace

void SumOfProducts(absl::Span<const Product> products, int64_t rows, int64_t columns, float* y,
                   int64_t ldy, GemmStore store, Factors factors) {
  if (products.empty() || rows == 0 || columns == 0) return;
  switch (factors) {
    case Factors::kFp32:
      return Sum<RightSide>(products, rows, columns, {y, ldy}, store);
    case Factors::kBf16:
      return Sum<PairSide>(products, rows, columns, {y, ldy}, store);
    case Factors::kInt8x3:
      return Sum<DigitSide>(products, rows, columns, {y, ldy}, store);
  }
}

int64_t LeftSideBytes(Factors factors, int64_t rows, int64_t depth) {
  switch (factors) {
    case Factors::kFp32:
      return RightSide::Lefts::Bytes(rows, depth);
    case Factors::kBf16:
      return PairSide::Lefts::Bytes(rows, depth);
    case Factors::kInt8x3:
      return DigitSide::Lefts::Bytes(rows, depth);
  }
  return 0;
}

}  // namespace evolora
