#include "evolora/adapters/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

template <typename T>
T Load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

float LoadHalf(const uint8_t* p) { return HalfToFloat(Load<uint16_t>(p)); }

// Block layouts, all fields little-endian and without padding; q4[i] holds element i in its low and
// element i + half in its high nibble.
//   Q8_0 (32): d:f16 q:i8[32]          Q4_0 (32): d:f16 q4[16]     Q4_1 (32): d:f16 m:f16 q4[16]
//   Q5_0, Q5_1 (32): likewise, with the elements' fifth bits as a u32 before q4
//   Q4_K (256): d:f16 dmin:f16 scales[12] q4[128]    8 groups of 32, 6-bit scale and minimum each
//   Q5_K (256): d:f16 dmin:f16 scales[12] high[32] q4[128]     bit g of high[i]: of element i of
//                                                              group g, the fifth
//   Q6_K (256): low[128] high[64] scales:i8[16] d:f16                   16 groups of 16

void BlockQ8_0(const uint8_t* block, float* __restrict out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

void BlockQ4_0(const uint8_t* block, float* __restrict out) {
  const float d = LoadHalf(block);
  const uint8_t* q = block + 2;
  for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>((q[i] & 15) - 8);
  for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>((q[i] >> 4) - 8);
}

void BlockQ4_1(const uint8_t* block, float* __restrict out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  const uint8_t* q = block + 4;
  for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>(q[i] & 15) + m;
  for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>(q[i] >> 4) + m;
}

// Element i of 32 in 5 bits.
int FiveBits(const uint8_t* q4, uint32_t high, int i) {
  const int low = i < 16 ? q4[i] & 15 : q4[i - 16] >> 4;
  return low | static_cast<int>((high >> i) & 1) << 4;
}

void BlockQ5_0(const uint8_t* block, float* __restrict out) {
  const float d = LoadHalf(block);
  const auto high = Load<uint32_t>(block + 2);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(FiveBits(block + 6, high, i) - 16);
}

void BlockQ5_1(const uint8_t* block, float* __restrict out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  const auto high = Load<uint32_t>(block + 4);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(FiveBits(block + 8, high, i)) + m;
}

void BlockQ5_K(const uint8_t* block, float* __restrict out) {
  const float d = LoadHalf(block);
  const float dmin = LoadHalf(block + 2);
  const uint8_t* high = block + 16;
  for (int j = 0; j < 8; ++j) {
    const KGroup group = KGroupOf(block + 4, j);
    const float group_d = d * static_cast<float>(group.scale);
    const float group_m = dmin * static_cast<float>(group.minimum);
    const uint8_t* q = block + 48 + 32 * (j / 2);
    for (int i = 0; i < 32; ++i) {
      const int value = ((q[i] >> (4 * (j % 2))) & 15) | ((high[i] >> j) & 1) << 4;
      out[32 * j + i] = group_d * static_cast<float>(value) - group_m;
    }
  }
}

void BlockQ4_K(const uint8_t* block, float* __restrict out) {
  const float d = LoadHalf(block);
  const float dmin = LoadHalf(block + 2);
  for (int j = 0; j < 8; ++j) {
    const KGroup group = KGroupOf(block + 4, j);
    const float group_d = d * static_cast<float>(group.scale);
    const float group_m = dmin * static_cast<float>(group.minimum);
    const uint8_t* q = block + 16 + 32 * (j / 2);
    const int shift = 4 * (j % 2);
    float* __restrict y = out + 32 * j;
    for (int i = 0; i < 32; ++i)
      y[i] = group_d * static_cast<float>((q[i] >> shift) & 15) - group_m;
  }
}

// Group g of 32 (two scales): low nibbles in low[64 * (g / 4) + 32 * (g % 2)], low or high half by
// (g / 2) % 2; two high bits in high[32 * (g / 4)] at bit 2 * (g % 4).
void BlockQ6_K(const uint8_t* block, float* __restrict out) {
  const uint8_t* scales = block + 192;
  const float d = LoadHalf(block + 208);
  for (int g = 0; g < 8; ++g) {
    const uint8_t* low = block + 64 * (g / 4) + 32 * (g % 2);
    const uint8_t* high = block + 128 + 32 * (g / 4);
    const int low_shift = 4 * ((g / 2) % 2);
    const int high_shift = 2 * (g % 4);
    for (int half = 0; half < 2; ++half) {
      const float group_d = d * static_cast<float>(static_cast<int8_t>(scales[2 * g + half]));
      float* __restrict y = out + 32 * g + 16 * half;
      for (int i = 0; i < 16; ++i) {
        const int k = 16 * half + i;
        const int q = ((low[k] >> low_shift) & 15) | (((high[k] >> high_shift) & 3) << 4);
        y[i] = group_d * static_cast<float>(q - 32);
      }
    }
  }
}

void BlockF16(const uint8_t* p, float* out) { *out = LoadHalf(p); }
void BlockBF16(const uint8_t* p, float* out) { *out = BFloat16ToFloat(Load<uint16_t>(p)); }
void BlockF64(const uint8_t* p, float* out) { *out = static_cast<float>(Load<double>(p)); }

template <void (*kBlock)(const uint8_t*, float*), int kElements, int kBytes>
void EachBlock(const uint8_t* in, int64_t num_elements, float* out) {
  for (int64_t i = 0; i < num_elements / kElements; ++i) {
    kBlock(in + i * kBytes, out + i * kElements);
  }
}

absl::Status CheckSize(absl::string_view type, GgmlBlock block, uint64_t num_bytes, int64_t n) {
  if (n < 0 || n % block.elements != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(type, ": ", n, " elements are no multiple of the block of ", block.elements));
  }
  const uint64_t blocks = static_cast<uint64_t>(n / block.elements);
  if (num_bytes % block.bytes != 0 || num_bytes / block.bytes != blocks) {
    return absl::InvalidArgumentError(absl::StrCat(type, ": ", num_bytes, " bytes for ", n,
                                                   " elements, block of ", block.bytes, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

// Of the first four groups in the low six bits of bytes j and 4 + j; of the others the low four
// bits in byte 4 + j, the high two on top of byte j - 4 and j.
KGroup KGroupOf(const uint8_t* s, int j) {
  if (j < 4) return {.scale = s[j] & 63, .minimum = s[4 + j] & 63};
  return {.scale = (s[4 + j] & 15) | ((s[j - 4] >> 6) << 4),
          .minimum = (s[4 + j] >> 4) | ((s[j] >> 6) << 4)};
}

absl::Status DequantizeToFloat(GgmlType type, absl::Span<const uint8_t> bytes, int64_t num_elements,
                               float* out) {
  ASSIGN_OR_RETURN(const GgmlBlock block, GgmlBlockOf(type));
  RETURN_IF_ERROR(CheckSize(GgmlTypeName(type), block, bytes.size(), num_elements));
  const uint8_t* in = bytes.data();
  switch (type) {
    case GgmlType::kF32:
      if (num_elements > 0) std::memcpy(out, in, bytes.size());
      return absl::OkStatus();
    case GgmlType::kF16:
      EachBlock<BlockF16, 1, 2>(in, num_elements, out);
      return absl::OkStatus();
    case GgmlType::kBF16:
      EachBlock<BlockBF16, 1, 2>(in, num_elements, out);
      return absl::OkStatus();
    case GgmlType::kQ8_0:
      EachBlock<BlockQ8_0, 32, 34>(in, num_elements, out);
      return absl::OkStatus();
    case GgmlType::kQ4_0:
      EachBlock<BlockQ4_0, 32, 18>(in, num_elements, out);
      return absl::OkStatus();
    case GgmlType::kQ4_1:
      EachBlock<BlockQ4_1, 32, 20>(in, num_elements, out);
      return absl::OkStatus();
    case GgmlType::kQ5_0:
      EachBlock<BlockQ5_0, 32, 22>(in, num_elements, out);
      return absl::OkStatus();
    case GgmlType::kQ5_1:
      EachBlock<BlockQ5_1, 32, 24>(in, num_elements, out);
      return absl::OkStatus();
    case GgmlType::kQ5_K:
      EachBlock<BlockQ5_K, 256, 176>(in, num_elements, out);
      return absl::OkStatus();
    case GgmlType::kQ4_K:
      EachBlock<BlockQ4_K, 256, 144>(in, num_elements, out);
      return absl::OkStatus();
    case GgmlType::kQ6_K:
      EachBlock<BlockQ6_K, 256, 210>(in, num_elements, out);
      return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat("tensors of type ", GgmlTypeName(type), " cannot be dequantized"));
}

absl::Status DequantizeToFloat(DType type, absl::Span<const uint8_t> bytes, int64_t num_elements,
                               float* out) {
  RETURN_IF_ERROR(CheckSize(DTypeName(type), {1, DTypeBytes(type)}, bytes.size(), num_elements));
  const uint8_t* in = bytes.data();
  switch (type) {
    case DType::kF32:
      return DequantizeToFloat(GgmlType::kF32, bytes, num_elements, out);
    case DType::kF16:
      EachBlock<BlockF16, 1, 2>(in, num_elements, out);
      return absl::OkStatus();
    case DType::kBF16:
      EachBlock<BlockBF16, 1, 2>(in, num_elements, out);
      return absl::OkStatus();
    case DType::kF64:
      EachBlock<BlockF64, 1, 8>(in, num_elements, out);
      return absl::OkStatus();
    default:
      break;
  }
  return absl::UnimplementedError(
      absl::StrCat("tensors of type ", DTypeName(type), " are not read as weights"));
}

// Branch-free, and without subnormal floats in between, so that flush-to-zero modes do not matter:
// a half's subnormal m * 2^-24 is (0.5 + m * 2^-24) - 0.5.
float HalfToFloat(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t normal = (magnitude << 13) + ((magnitude >= 0x7c00u) ? 0x70000000u : 0x38000000u);
  const float subnormal = std::bit_cast<float>(0x3f000000u | magnitude) - 0.5f;
  const uint32_t bits = magnitude >= 0x0400u ? normal : std::bit_cast<uint32_t>(subnormal);
  return std::bit_cast<float>(bits | (static_cast<uint32_t>(half & 0x8000u) << 16));
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // from 65520 on: infinity
  if (magnitude < 0x38800000u) {
    // Below the smallest normal half: adding 0.5 makes the float unit round to multiples of 2^-24.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3f000000u);
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return sign | static_cast<uint16_t>((magnitude - 0x38000000u + 0xfffu + odd) >> 13);
}

float BFloat16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace evolora
