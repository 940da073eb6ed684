#pragma once

#include <cstdint>

#include "evolora/device/kernels.h"
#include "kernel_math.h"

// Dropout, magnitudes and sums of rows as operations on rows (row_ops.h); all have Run alone.
namespace evolora {

template <class T, int kPack>
struct MaskFeaturesOp {
  const T* x;
  const uint64_t* row_keys;
  uint64_t module_key;
  uint64_t threshold;
  float kept;
  int64_t rows;
  int64_t width;
  bool add;
  T* y;

  EVOLORA_HOST_DEVICE void Run(int64_t row, int thread, int threads) const {
    const uint64_t stream = DropoutStream(module_key, row_keys[row]);
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      const Pack<T, kPack> in = Load<T, kPack>(x + row * width + c);
      Pack<T, kPack> out = in;
      if (add) out = Load<T, kPack>(y + row * width + c);
      uint64_t pair = 0;
      for (int i = 0; i < kPack; ++i) {
        const int64_t feature = c + i;
        if (kPack == 1 || i % 2 == 0) pair = DropoutPair(stream, feature / 2);
        const uint64_t bits = feature % 2 == 0 ? pair & 0xffffffffu : pair >> 32;
        const float own = bits < threshold ? 0.0f : ToFloat(in.values[i]) * kept;
        out.values[i] = FromFloat<T>(add ? ToFloat(out.values[i]) + own : own);
      }
      Store<T, kPack>(out, y + row * width + c);
    }
  }
};

template <class T, int kPack>
struct ScaleColumnsOp {
  const T* z;
  const float* factors;
  int64_t rows;
  int64_t width;
  bool add;
  T* y;

  EVOLORA_HOST_DEVICE void Run(int64_t row, int thread, int threads) const {
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      const Pack<T, kPack> in = Load<T, kPack>(z + row * width + c);
      Pack<T, kPack> out = in;
      if (add) out = Load<T, kPack>(y + row * width + c);
      for (int i = 0; i < kPack; ++i) {
        const float own = ToFloat(in.values[i]) * factors[c + i];
        out.values[i] = FromFloat<T>(add ? ToFloat(out.values[i]) + own : own);
      }
      Store<T, kPack>(out, y + row * width + c);
    }
  }
};

// A row of the grid is a run of kColumnRows rows of the matrices.
template <class T, int kPack>
struct ScaleColumnsBackwardOp {
  const T* dy;
  const float* factors;
  int64_t num_rows;  // of the matrices
  int64_t rows;
  int64_t width;
  T* z;
  float* partials;

  EVOLORA_HOST_DEVICE void Run(int64_t run, int thread, int threads) const {
    const int64_t begin = run * kColumnRows;
    const int64_t end = begin + kColumnRows < num_rows ? begin + kColumnRows : num_rows;
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      float sums[kPack] = {};
      for (int64_t m = begin; m < end; ++m) {
        const Pack<T, kPack> d = Load<T, kPack>(dy + m * width + c);
        Pack<T, kPack> own = Load<T, kPack>(z + m * width + c);
        for (int i = 0; i < kPack; ++i) {
          sums[i] += ToFloat(d.values[i]) * ToFloat(own.values[i]);
          own.values[i] = FromFloat<T>(ToFloat(d.values[i]) * factors[c + i]);
        }
        Store<T, kPack>(own, z + m * width + c);
      }
      for (int i = 0; i < kPack; ++i) partials[run * width + c + i] = sums[i];
    }
  }
};

template <class T, int kPack>
struct SumRowsOp {
  const T* x;
  const int32_t* first;
  const int32_t* places;
  int64_t rows;
  int64_t width;
  int64_t stride;
  T* y;

  EVOLORA_HOST_DEVICE void Run(int64_t row, int thread, int threads) const {
    const int32_t begin = first[row], end = first[row + 1];
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      float sums[kPack] = {};
      for (int32_t i = begin; i < end; ++i) {
        const Pack<T, kPack> in = Load<T, kPack>(x + int64_t{places[i]} * width + c);
        for (int k = 0; k < kPack; ++k) sums[k] += ToFloat(in.values[k]);
      }
      Pack<T, kPack> out;
      for (int k = 0; k < kPack; ++k) out.values[k] = FromFloat<T>(sums[k]);
      Store<T, kPack>(out, y + row * stride + c);
    }
  }
};

}  // namespace evolora
