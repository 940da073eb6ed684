// Products of fp32 factors by digits of 8 bits: a part of kernel_body.h, inside its unnamed
// namespace.

// Sums of products of digits, by how small these are: of the greatest digits, of products 2^-8,
// 2^-16 and 2^-24 of them.
constexpr int kDigitSums = 4;
constexpr int64_t kDigitRows = 16;
constexpr int64_t kDigitSum = kDigitRows * kHalf;  // values of one of them

inline Lanes FloatsOf(const int32_t* values) {
  return __builtin_convertvector(*reinterpret_cast<const Integers*>(values), Lanes);
}

// The product of one chunk of up to 16 rows with half a panel.
struct DigitProduct {
  int64_t rows;
  int64_t columns;
  const float* x_scales;  // of the first row
  int64_t ld_scales;
  const float* scales;  // of the columns
  float* y;
  int64_t ldy;
  GemmStore store;
  bool is_first;  // of those of y
};

// sums: [kDigitSums][16][16].
template <bool kWhole, bool kAdd>
inline void StoreDigitRows(const DigitProduct& product, const int32_t* sums) {
  constexpr float kNext = 1.0f / 256;
  const Lanes scales = LoadLanes(product.scales);
  float* y = product.y;
  const float* x_scale = product.x_scales;
  for (int64_t m = 0; m < product.rows; ++m, sums += kHalf) {
    Lanes value = FloatsOf(sums + (kDigitSums - 1) * kDigitSum);
    for (int s = kDigitSums - 2; s >= 0; --s) {
      value = value * kNext + FloatsOf(sums + s * kDigitSum);
    }
    value *= scales * *x_scale;
    const int64_t columns = kWhole ? kLanes : product.columns;
    if constexpr (kAdd) value += LoadAny(y, columns);
    StoreAny(y, columns, value);
    y += product.ldy;
    x_scale += product.ld_scales;
  }
}
inline void StoreDigitProduct(const DigitProduct& product, const int32_t* sums) {
  const bool adds = product.store == GemmStore::kAdd;
  if (product.columns == kLanes) {
    adds ? StoreDigitRows<true, true>(product, sums) : StoreDigitRows<true, false>(product, sums);
  } else {
    adds ? StoreDigitRows<false, true>(product, sums) : StoreDigitRows<false, false>(product, sums);
  }
}

// Calls body(x, ldx, half, steps, product) for 16 rows and half a panel at a time, chunk by chunk,
// so that a chunk of a panel stays in the first-level cache for all rows.
template <typename Body>
inline void ForDigitTiles(const Int8x3GemmArgs& args, const Body& body) {
  GemmStore store = args.store;
  for (int64_t t = 0; t < args.num_terms; ++t) {
    const Int8x3Term& term = args.terms[t];
    const int8_t *x = term.x, *panel = term.panel;
    const float *x_scales = term.x_scales, *scales = term.panel_scales;
    for (int64_t k = 0; k < term.depth; k += kDigitChunk) {
      const int64_t steps = StepsOf(ChunkAt(k, term.depth));
      for (int64_t m = 0; m < args.rows; m += kDigitRows) {
        for (int64_t j = 0; j < args.columns; j += kHalf) {
          const DigitProduct product = {
              .rows = args.rows - m < kDigitRows ? args.rows - m : kDigitRows,
              .columns = args.columns - j < kHalf ? args.columns - j : kHalf,
              .x_scales = x_scales + m * term.ld_scales,
              .ld_scales = term.ld_scales,
              .scales = scales + j,
              .y = args.y + m * args.ldy + j,
              .ldy = args.ldy,
              .store = store,
              .is_first = t == 0 && k == 0};
          body(x + m * term.ldx, term.ldx, panel + j * steps * kStepBytes, steps, product);
        }
      }
      store = GemmStore::kAdd;
      x += steps * kStepBytes;
      panel += steps * 2 * kHalfStepBytes;
      x_scales += 1;
      scales += kPanelColumns;
    }
  }
}

#if defined(EVOLORA_TILES)

constexpr bool kPrefersInt8x3 = true;

// Tiles 0 to 3 are the sums, 4 to 6 the digits of x, 7 those of the panel.
template <typename Tiles>
inline void DotDigits(Tiles& tiles, const int8_t* x, int64_t ldx, const int8_t* half,
                      int64_t steps) {
  tiles.template Zero<0>();
  tiles.template Zero<1>();
  tiles.template Zero<2>();
  tiles.template Zero<3>();
  for (int64_t i = 0; i < steps; ++i, x += kStepBytes, half += kHalfStepBytes) {
    constexpr int64_t kStride = 4 * kHalf;
    tiles.template Load<7>(half, kStride);
    tiles.template Load<4>(x, ldx);
    tiles.template Load<5>(x + kDigitStep, ldx);
    tiles.template Load<6>(x + 2 * kDigitStep, ldx);
    tiles.template DotBytes<2, 6, 7>();
    tiles.template DotBytes<1, 5, 7>();
    tiles.template DotBytes<0, 4, 7>();
    tiles.template Load<7>(half + kDigitTileBytes, kStride);
    tiles.template DotBytes<3, 6, 7>();
    tiles.template DotBytes<2, 5, 7>();
    tiles.template DotBytes<1, 4, 7>();
    tiles.template Load<7>(half + 2 * kDigitTileBytes, kStride);
    tiles.template DotBytes<3, 5, 7>();
    tiles.template DotBytes<2, 4, 7>();
  }
}

template <typename Tiles>
inline void StoreDigitSums(Tiles& tiles, int32_t* sums) {
  constexpr int64_t kStride = kHalf * static_cast<int64_t>(sizeof *sums);
  tiles.template Store<0>(sums, kStride);
  tiles.template Store<1>(sums + kDigitSum, kStride);
  tiles.template Store<2>(sums + 2 * kDigitSum, kStride);
  tiles.template Store<3>(sums + 3 * kDigitSum, kStride);
}

// The result lies in no near cache: its rows are fetched while the first chunk is multiplied.
inline void FetchResult(const DigitProduct& product) {
  for (int64_t m = 0; m < product.rows; ++m) __builtin_prefetch(product.y + m * product.ldy, 1);
}

// While tiles are multiplied, the sums before, which lie in memory by then, are added.
void GemmInt8x3(const Int8x3GemmArgs& args) {
  EVOLORA_TILES tiles;
  alignas(64) int32_t sums[2][kDigitSums * kDigitSum];
  DigitProduct before = {};
  int64_t count = 0;
  ForDigitTiles(args, [&](const int8_t* x, int64_t ldx, const int8_t* half, int64_t steps,
                          const DigitProduct& product) {
    if (product.is_first) FetchResult(product);
    DotDigits(tiles, x, ldx, half, steps);
    if (count > 0) StoreDigitProduct(before, sums[count % 2]);
    StoreDigitSums(tiles, sums[++count % 2]);
    before = product;
  });
  if (count > 0) StoreDigitProduct(before, sums[count % 2]);
}

#else

constexpr bool kPrefersInt8x3 = false;

// Of one row and half a panel.
inline void SumDigits(const int8_t* x, const int8_t* half, int64_t steps, int32_t* sums) {
  for (int64_t k = 0; k < steps * kDigitStep; ++k) {
    const int64_t step = k / kDigitStep, place = k % kDigitStep;
    const int8_t* left = x + step * kStepBytes + place;
    const int8_t* right = half + step * kHalfStepBytes + place / 4 * (4 * kHalf) + place % 4;
    for (int a = 0; a < kDigits; ++a) {
      for (int b = 0; b < kDigits && a + b < kDigitSums; ++b) {
        for (int64_t j = 0; j < kHalf; ++j) {
          sums[(a + b) * kDigitSum + j] +=
              left[a * kDigitStep] * right[b * kDigitTileBytes + 4 * j];
        }
      }
    }
  }
}

// Slow, for tests.
void GemmInt8x3(const Int8x3GemmArgs& args) {
  ForDigitTiles(args, [](const int8_t* x, int64_t ldx, const int8_t* half, int64_t steps,
                         const DigitProduct& product) {
    int32_t sums[kDigitSums * kDigitSum] = {};
    for (int64_t m = 0; m < product.rows; ++m) {
      SumDigits(x + m * ldx, half, steps, sums + m * kHalf);
    }
    StoreDigitProduct(product, sums);
  });
}

#endif
