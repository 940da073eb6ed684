// Products of bf16 factors by tiles of 16 rows of 64 bytes, as AMX multiplies them. Included by
// kernel_body.h of the table for CPUs with AMX, and by a test that emulates the tiles; internal
// linkage and no standard function, as there.
//
// Tiles is a class that has 8 of them from construction to destruction:
//   Zero<t>()                    all values of tile t are 0
//   Load<t>(from, stride)        16 rows of 64 bytes, `stride` bytes apart
//   Dot<sum, left, right>()      sum += left right: sum fp32 [16, 16], left bf16 [16 rows, 16
//                                pairs], right bf16 [16 pairs, 16 columns, 2]
//   DotBytes<sum, left, right>() the same of int32 and int8: left [16 rows, 64], right [16, 16
//                                columns, 4]
//   Store<t>(to, stride)         what Load read

#include <cstdint>

#include "evolora/model/kernels.h"

namespace evolora {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTilePairs = 16;
constexpr int64_t kTileWords = 2 * kTilePairs;  // bf16 numbers of a row
constexpr int64_t kPanelWords = 2 * kPanelColumns;

// What does not fill tiles, with zeros behind it.
struct TileRoom {
  alignas(64) uint16_t left[2 * kTileRows * kTileWords];
  alignas(64) uint16_t right[kTilePairs * kPanelWords];
  alignas(64) float sums[2 * kTileRows * kPanelColumns];
};

inline void PadLeft(const uint16_t* x, int64_t ldx, int64_t rows, int64_t words, uint16_t* room) {
  __builtin_memset(room, 0, sizeof TileRoom::left);
  for (int64_t m = 0; m < rows; ++m) {
    __builtin_memcpy(room + m * kTileWords, x + m * ldx,
                     static_cast<uint64_t>(words) * sizeof *room);
  }
}

inline void PadRight(const uint16_t* panel, int64_t pairs, uint16_t* room) {
  const uint64_t bytes = static_cast<uint64_t>(pairs * kPanelWords) * sizeof *room;
  __builtin_memcpy(room, panel, bytes);
  __builtin_memset(room + pairs * kPanelWords, 0, sizeof TileRoom::right - bytes);
}

template <typename Tiles>
inline void LoadRight(Tiles& tiles, const uint16_t* panel) {
  constexpr int64_t kStride = kPanelWords * static_cast<int64_t>(sizeof(uint16_t));
  tiles.template Load<6>(panel, kStride);
  tiles.template Load<7>(panel + kPanelWords / 2, kStride);
}

// Tiles 0 to 3 are the sums, two for each tile of rows; 4 and 5 the left side, 6 and 7 the right.
template <int kRowTiles, typename Tiles>
inline void DotTiles(Tiles& tiles, const uint16_t* x, int64_t ldx, const uint16_t* panel) {
  const int64_t stride = ldx * static_cast<int64_t>(sizeof *x);
  LoadRight(tiles, panel);
  tiles.template Load<4>(x, stride);
  if constexpr (kRowTiles == 2) tiles.template Load<5>(x + kTileRows * ldx, stride);
  tiles.template Dot<0, 4, 6>();
  tiles.template Dot<1, 4, 7>();
  if constexpr (kRowTiles == 2) {
    tiles.template Dot<2, 5, 6>();
    tiles.template Dot<3, 5, 7>();
  }
}

template <int kRowTiles, typename Tiles>
inline void AddTileTerm(Tiles& tiles, const PairTerm& term, int64_t first_row, int64_t rows,
                        TileRoom& room) {
  const uint16_t* x = term.x + first_row * term.ldx;
  const uint16_t* panel = term.panel;
  for (int64_t k = 0; k < term.pairs; k += kTilePairs) {
    const int64_t left = term.pairs - k;
    const int64_t pairs = left < kTilePairs ? left : kTilePairs;
    if (pairs == kTilePairs && rows == kRowTiles * kTileRows) {
      DotTiles<kRowTiles>(tiles, x, term.ldx, panel);
    } else {
      PadLeft(x, term.ldx, rows, 2 * pairs, room.left);
      if (pairs < kTilePairs) PadRight(panel, pairs, room.right);
      DotTiles<kRowTiles>(tiles, room.left, kTileWords, pairs < kTilePairs ? room.right : panel);
    }
    x += kTileWords;
    panel += kTilePairs * kPanelWords;
  }
}

template <typename Args>
inline void StoreTileSums(const Args& args, int64_t first_row, int64_t rows, const float* sums) {
  for (int64_t m = 0; m < rows; ++m) {
    float* y = args.y + (first_row + m) * args.ldy;
    const float* row = sums + m * kPanelColumns;
    if (args.store == GemmStore::kAdd) {
      for (int64_t j = 0; j < args.columns; ++j) y[j] += row[j];
    } else {
      for (int64_t j = 0; j < args.columns; ++j) y[j] = row[j];
    }
  }
}

template <int kRowTiles, typename Tiles>
inline void ZeroSums(Tiles& tiles) {
  tiles.template Zero<0>();
  tiles.template Zero<1>();
  if constexpr (kRowTiles == 2) {
    tiles.template Zero<2>();
    tiles.template Zero<3>();
  }
}

template <int kRowTiles, typename Tiles>
inline void StoreTiles(Tiles& tiles, float* y, int64_t ldy) {
  const int64_t stride = ldy * static_cast<int64_t>(sizeof(float));
  tiles.template Store<0>(y, stride);
  tiles.template Store<1>(y + kPanelColumns / 2, stride);
  if constexpr (kRowTiles == 2) {
    float* lower = y + kTileRows * ldy;
    tiles.template Store<2>(lower, stride);
    tiles.template Store<3>(lower + kPanelColumns / 2, stride);
  }
}

// `rows` <= 16 kRowTiles.
template <int kRowTiles, typename Tiles>
inline void TileBlock(Tiles& tiles, const PairGemmArgs& args, int64_t first_row, int64_t rows,
                      TileRoom& room) {
  // What the last stores would wait for.
  for (int64_t m = first_row; m < first_row + rows; ++m) {
    __builtin_prefetch(args.y + m * args.ldy, 1);
    __builtin_prefetch(args.y + m * args.ldy + kPanelColumns / 2, 1);
  }
  ZeroSums<kRowTiles>(tiles);
  for (int64_t t = 0; t < args.num_terms; ++t) {
    AddTileTerm<kRowTiles>(tiles, args.terms[t], first_row, rows, room);
  }
  if (args.store == GemmStore::kSet && rows == kRowTiles * kTileRows &&
      args.columns == kPanelColumns) {
    return StoreTiles<kRowTiles>(tiles, args.y + first_row * args.ldy, args.ldy);
  }
  StoreTiles<kRowTiles>(tiles, room.sums, kPanelColumns);
  StoreTileSums(args, first_row, rows, room.sums);
}

// gemm_pairs of a KernelTable.
template <typename Tiles>
void GemmPairsByTiles(const PairGemmArgs& args) {
  Tiles tiles;
  TileRoom room;
  for (int64_t row = 0; row < args.rows; row += 2 * kTileRows) {
    const int64_t left = args.rows - row;
    if (left > kTileRows) {
      TileBlock<2>(tiles, args, row, left < 2 * kTileRows ? left : 2 * kTileRows, room);
    } else {
      TileBlock<1>(tiles, args, row, left, room);
    }
  }
}

}  // namespace
}  // namespace evolora
