// Products of split rows over panels in few bits, by tiles: a part of kernel_body.h, inside its
// unnamed namespace.

#if defined(EVOLORA_TILES)

// The values of one block of a panel as a panel of pairs of bf16 numbers, [16, 32, 2], which are
// exact. kScaled: a product of the block counts `scale` times; kLows: and the sum of x as often as
// a value of 0 is worth.
struct Bf16Tiles {
  static constexpr bool kScaled = false, kLows = false;
  static void Write(const FewBitsPanel& panel, int64_t block, uint16_t* pairs) {
    const auto* rows = reinterpret_cast<const uint16_t*>(panel.values);
    JoinPairs(rows + block * kCompactBlock * kPanelColumns, kPanelColumns, kCompactBlock, pairs);
  }
};

struct Int8Tiles {
  static constexpr bool kScaled = true, kLows = false;
  static void Write(const FewBitsPanel& panel, int64_t block, uint16_t* pairs) {
    const auto* row =
        reinterpret_cast<const int8_t*>(panel.values) + block * kCompactBlock * kPanelColumns;
    for (int64_t k = 0; k < kTilePairs; ++k, row += 2 * kPanelColumns) {
      __builtin_prefetch(row + kRowsFetched * kPanelColumns);
      for (int64_t j = 0; j < kPanelColumns; j += kLanes) {
        const auto even = (Words)WidenBytes(row + j);
        const auto odd = (Words)WidenBytes(row + kPanelColumns + j);
        *reinterpret_cast<Words*>(pairs + k * kPanelWords + 2 * j) = even >> 16 | odd;
      }
    }
  }
};

// 4 bits, less 8: what is left of the sum of x is small where a weight's sign is any.
struct Q4Tiles {
  static constexpr bool kScaled = true, kLows = true;
  static constexpr float kShift = 8;
  static void Write(const FewBitsPanel& panel, int64_t block, uint16_t* pairs) {
    const uint8_t* row = panel.values + block * kCompactBlock * kLanes;
    for (int64_t k = 0; k < kTilePairs; ++k, row += 2 * kLanes, pairs += kPanelWords) {
      __builtin_prefetch(row + kRowsFetched * kLanes);
      WritePair(row, pairs);
    }
  }
#if defined(__AVX512VBMI__)
  // Of words whose bytes both have an index in their lower halves: of the low byte the entry, of
  // the high byte that 16 places behind.
  static __m512i LookUp(__m512i words, const uint8_t* table) {
    constexpr int kAndOr = 0xea;  // (a & b) | c
    const __m512i places =
        _mm512_ternarylogic_epi64(words, _mm512_set1_epi8(15), _mm512_set1_epi16(0x1000), kAndOr);
    return _mm512_permutexvar_epi8(places, _mm512_loadu_si512(table));
  }
#endif
  // Of two rows.
  static void WritePair(const uint8_t* row, uint16_t* pairs) {
#if defined(__AVX512VBMI__)
    // The bytes of a pair are 16 apart; each twice, for both bytes of a word.
    static constexpr uint8_t kTwice[64] = {
        0,  0,  16, 16, 1,  1,  17, 17, 2,  2,  18, 18, 3,  3,  19, 19, 4,  4,  20, 20, 5,  5,
        21, 21, 6,  6,  22, 22, 7,  7,  23, 23, 8,  8,  24, 24, 9,  9,  25, 25, 10, 10, 26, 26,
        11, 11, 27, 27, 12, 12, 28, 28, 13, 13, 29, 29, 14, 14, 30, 30, 15, 15, 31, 31};
    // The low bytes of the bf16 numbers -8 to 7, then the high ones.
    static constexpr uint8_t kValues[64] = {0x00, 0xe0, 0xc0, 0xa0, 0x80, 0x40, 0x00, 0x80,
                                            0x00, 0x80, 0x00, 0x40, 0x80, 0xa0, 0xc0, 0xe0,
                                            0xc1, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xbf,
                                            0x00, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40};
    const __m256i rows = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
    const __m512i bytes =
        _mm512_permutexvar_epi8(_mm512_loadu_si512(kTwice), _mm512_castsi256_si512(rows));
    _mm512_storeu_si512(pairs, LookUp(bytes, kValues));
    _mm512_storeu_si512(pairs + kPanelColumns, LookUp(_mm512_srli_epi16(bytes, 4), kValues));
#else
    for (int j = 0; j < kLanes; ++j) {
      for (int i = 0; i < 2; ++i) {
        const uint8_t both = row[i * kLanes + j];
        pairs[2 * j + i] =
            static_cast<uint16_t>(RoundedBits(static_cast<float>(both & 15) - kShift));
        pairs[kPanelColumns + 2 * j + i] =
            static_cast<uint16_t>(RoundedBits(static_cast<float>(both >> 4) - kShift));
      }
    }
#endif
  }
};

// A product takes groups of so many panels and tiles of rows at once: a block of x, whose parts do
// not fit into the first-level cache as a whole, is loaded once for all panels, and a block of a
// panel is written once for all rows.
constexpr int kGroupPanels = 4;
constexpr int kGroupTiles = 4;

struct SplitRoom {
  alignas(64) uint16_t right[kGroupPanels][kTilePairs * kPanelWords];
  alignas(64) float products[2][kTileRows * kPanelColumns];
  alignas(64) float sums[kGroupTiles * kGroupPanels][kTileRows * kPanelColumns];
};

// One tile of rows of one panel of a group, in one block.
struct SplitStep {
  const FewBitsPanel* panel;
  int64_t block;
  int64_t rows;           // <= 16
  const float* products;  // [16, 32]
  const float* x_sums;    // the block's of the first row
  int64_t num_blocks;     // between those of neighbouring rows
  float* sums;            // [16, 32]
};

template <typename Block>
inline void AddProducts(const SplitStep& step) {
  if (step.rows == 0) return;
  Lanes scales[2] = {}, lows[2] = {};
  if constexpr (Block::kScaled) {
    LoadScales(step.panel->scales + step.block * kPanelColumns, scales[0], scales[1]);
  }
  if constexpr (Block::kLows) {
    LoadScales(step.panel->lows + step.block * kPanelColumns, lows[0], lows[1]);
    for (int v = 0; v < 2; ++v) lows[v] += scales[v] * Block::kShift;
  }
  for (int64_t m = 0; m < step.rows; ++m) {
    for (int v = 0; v < 2; ++v) {
      const int64_t place = m * kPanelColumns + v * kLanes;
      const Lanes products = LoadLanes(step.products + place);
      Lanes sum = LoadLanes(step.sums + place);
      sum += Block::kScaled ? scales[v] * products : products;
      if constexpr (Block::kLows) sum += lows[v] * step.x_sums[m * step.num_blocks];
      StoreLanes(step.sums + place, sum);
    }
  }
}

// Tiles 0 and 1 are the sums, 2 to 4 the parts of x, 6 and 7 the panel's.
template <typename Tiles>
inline void LoadParts(Tiles& tiles, const SplitRows& x, const uint16_t* parts) {
  const int64_t stride = x.ld * static_cast<int64_t>(sizeof(uint16_t));
  tiles.template Load<2>(parts, stride);
  tiles.template Load<3>(parts + x.part, stride);
  tiles.template Load<4>(parts + 2 * x.part, stride);
}

// The smallest parts first.
template <typename Tiles>
inline void DotParts(Tiles& tiles, const uint16_t* right) {
  ZeroSums<1>(tiles);
  LoadRight(tiles, right);
  tiles.template Dot<0, 4, 6>();
  tiles.template Dot<1, 4, 7>();
  tiles.template Dot<0, 3, 6>();
  tiles.template Dot<1, 3, 7>();
  tiles.template Dot<0, 2, 6>();
  tiles.template Dot<1, 2, 7>();
}

// Of a group: `panels` panels and `rows` rows from first_row on. While tiles are multiplied, the
// panel's next block is written and the products before, which lie in memory by then, are added.
template <typename Block, typename Tiles>
inline void SplitGroup(Tiles& tiles, const SplitGemmArgs& args, const FewBitsPanel* panels,
                       int64_t num_panels, int64_t first_row, int64_t rows, SplitRoom& room) {
  const SplitRows& x = args.x;
  const int64_t num_blocks = (x.depth + kCompactBlock - 1) / kCompactBlock;
  const uint16_t* parts = x.parts + first_row * x.ld;
  for (int64_t p = 0; p < num_panels; ++p) Block::Write(panels[p], 0, room.right[p]);
  const int64_t num_tiles = (rows + kTileRows - 1) / kTileRows;
  __builtin_memset(room.sums, 0, static_cast<uint64_t>(num_tiles * num_panels) * sizeof *room.sums);
  SplitStep before = {};
  int64_t count = 0;
  for (int64_t b = 0; b < num_blocks; ++b, parts += kCompactBlock) {
    for (int64_t row = 0; row < rows; row += kTileRows) {
      LoadParts(tiles, x, parts + row * x.ld);
      const bool is_last = row + kTileRows >= rows && b + 1 < num_blocks;
      for (int64_t p = 0; p < num_panels; ++p, ++count) {
        DotParts(tiles, room.right[p]);
        if (is_last) Block::Write(panels[p], b + 1, room.right[p]);
        AddProducts<Block>(before);
        float* products = room.products[count % 2];
        StoreTiles<1>(tiles, products, kPanelColumns);
        before = {.panel = panels + p,
                  .block = b,
                  .rows = rows - row < kTileRows ? rows - row : kTileRows,
                  .products = products,
                  .x_sums = x.sums + (first_row + row) * num_blocks + b,
                  .num_blocks = num_blocks,
                  .sums = room.sums[row / kTileRows * num_panels + p]};
      }
    }
  }
  AddProducts<Block>(before);
}

inline void StoreGroup(const SplitGemmArgs& args, int64_t first_column, int64_t num_panels,
                       int64_t first_row, int64_t rows, const SplitRoom& room) {
  for (int64_t p = 0; p < num_panels; ++p) {
    SplitGemmArgs part = args;
    part.y += first_column + p * kPanelColumns;
    const int64_t left = args.columns - first_column - p * kPanelColumns;
    part.columns = left < kPanelColumns ? left : kPanelColumns;
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t some = rows - row < kTileRows ? rows - row : kTileRows;
      StoreTileSums(part, first_row + row, some, room.sums[row / kTileRows * num_panels + p]);
    }
  }
}

template <typename Block>
void GemmSplit(const SplitGemmArgs& args, const FewBitsPanel* panels) {
  EVOLORA_TILES tiles;
  SplitRoom room;
  constexpr int64_t kGroupRows = kGroupTiles * kTileRows;
  for (int64_t row = 0; row < args.rows; row += kGroupRows) {
    const int64_t rows = args.rows - row < kGroupRows ? args.rows - row : kGroupRows;
    for (int64_t first = 0; first < args.columns; first += kGroupPanels * kPanelColumns) {
      const int64_t left = (args.columns - first + kPanelColumns - 1) / kPanelColumns;
      const int64_t num_panels = left < kGroupPanels ? left : kGroupPanels;
      SplitGroup<Block>(tiles, args, panels + first / kPanelColumns, num_panels, row, rows, room);
      StoreGroup(args, first, num_panels, row, rows, room);
    }
  }
}

#endif

// BlockKernels::gemm_split of a form.
template <typename Block>
constexpr void (*SplitGemmOf())(const SplitGemmArgs&, const FewBitsPanel*) {
#if defined(EVOLORA_TILES)
  if constexpr (__is_same(Block, Bf16Weights)) return GemmSplit<Bf16Tiles>;
  if constexpr (__is_same(Block, Int8Weights)) return GemmSplit<Int8Tiles>;
  if constexpr (__is_same(Block, Q4Weights)) return GemmSplit<Q4Tiles>;
  if constexpr (__is_same(Block, Q4FloatWeights)) return GemmSplit<Q4Tiles>;
#endif
  return nullptr;
}
