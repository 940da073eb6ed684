#pragma once

#include <cstdint>

#include "evolora/device/kernels.h"
#include "kernel_math.h"

// Weights in few bits (BlockStorage) as an operation on rows (row_ops.h) that has Run alone.
namespace evolora {

// A finite fp16 value.
EVOLORA_HOST_DEVICE inline float HalfToFloat(uint16_t half) {
  const uint32_t exponent = (half >> 10) & 31u, digits = half & 1023u;
  float value;
  if (exponent == 0) {
    value = static_cast<float>(digits) * (1.0f / 16777216.0f);
  } else {
    const uint32_t bits = (exponent + 112u) << 23 | digits << 13;
    memcpy(&value, &bits, sizeof value);
  }
  return (half & 0x8000u) != 0 ? -value : value;
}

// kCount neighbours of a block, read in accesses of 4 bytes where they are that many; `first` is a
// multiple of kCount. Blocks lie on boundaries of 4 bytes.
template <int kCount>
EVOLORA_HOST_DEVICE inline void LoadBytes(const uint8_t* data, uint8_t* bytes) {
  constexpr int kAccess = kCount % 4 == 0 ? 4 : 1;
  for (int i = 0; i < kCount; i += kAccess) {
    const Pack<uint8_t, kAccess> pack = Load<uint8_t, kAccess>(data + i);
    for (int k = 0; k < kAccess; ++k) bytes[i + k] = pack.values[k];
  }
}
EVOLORA_HOST_DEVICE inline uint16_t LoadWord(const uint8_t* data) {
  return *reinterpret_cast<const uint16_t*>(data);
}

struct BFloat16Block {
  static constexpr int64_t kBytes = 64;
  template <int kCount>
  static EVOLORA_HOST_DEVICE void Widen(const uint8_t* block, int first, float* values) {
    for (int i = 0; i < kCount; ++i) {
      values[i] = ToFloat(BFloat16{LoadWord(block + 2 * (first + i))});
    }
  }
};

struct Int8Block {
  static constexpr int64_t kBytes = 36;
  template <int kCount>
  static EVOLORA_HOST_DEVICE void Widen(const uint8_t* block, int first, float* values) {
    const float scale = *reinterpret_cast<const float*>(block);
    uint8_t bytes[kCount];
    LoadBytes<kCount>(block + 4 + first, bytes);
    for (int i = 0; i < kCount; ++i) {
      values[i] = static_cast<float>(static_cast<int8_t>(bytes[i])) * scale;
    }
  }
};

// value * scale has no more digits than fp32: fused or not, the sum is rounded once.
struct Q4Block {
  static constexpr int64_t kBytes = 20;
  template <int kCount>
  static EVOLORA_HOST_DEVICE void Widen(const uint8_t* block, int first, float* values) {
    const float scale = HalfToFloat(LoadWord(block)), low = HalfToFloat(LoadWord(block + 2));
    uint8_t bytes[kCount];
    LoadBytes<kCount>(block + 4 + first % 16, bytes);
    for (int i = 0; i < kCount; ++i) {
      const int value = first < 16 ? bytes[i] & 15 : bytes[i] >> 4;
      values[i] = static_cast<float>(value) * scale + low;
    }
  }
};

template <class T, class Block, int kPack>
struct WidenRowsOp {
  const uint8_t* blocks;
  const int32_t* ids;
  int64_t rows;
  int64_t width;
  T* y;

  EVOLORA_HOST_DEVICE void Run(int64_t row, int thread, int threads) const {
    const int64_t from = ids == nullptr ? row : int64_t{ids[row]};
    const uint8_t* own =
        blocks + from * ((width + kBlockWeights - 1) / kBlockWeights) * Block::kBytes;
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      float values[kPack];
      Block::template Widen<kPack>(own + c / kBlockWeights * Block::kBytes,
                                   static_cast<int>(c % kBlockWeights), values);
      Pack<T, kPack> out;
      for (int i = 0; i < kPack; ++i) out.values[i] = FromFloat<T>(values[i]);
      Store<T, kPack>(out, y + row * width + c);
    }
  }
};

}  // namespace evolora
