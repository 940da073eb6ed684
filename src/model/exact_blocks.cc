#include "exact_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "evolora/adapters/dequantize.h"

namespace evolora {
namespace {

// The file's blocks, as dequantize.cc describes them. kBlocks: of 32 values each.
struct FileQ4_0 {
  static constexpr int kBlocks = 1;
  uint16_t scale;
  uint8_t values[16];
};
struct FileQ4_1 {
  static constexpr int kBlocks = 1;
  uint16_t scale, low;
  uint8_t values[16];
};
struct FileQ5_0 {
  static constexpr int kBlocks = 1;
  uint16_t scale;
  uint16_t high_bits[2];
  uint8_t values[16];
};
struct FileQ5_1 {
  static constexpr int kBlocks = 1;
  uint16_t scale, low;
  uint16_t high_bits[2];
  uint8_t values[16];
};
struct FileQ8_0 {
  static constexpr int kBlocks = 1;
  uint16_t scale;
  int8_t values[32];
};
struct FileQ4_K {
  static constexpr int kBlocks = 8;
  uint16_t scale, low;
  uint8_t scales[12];  // and lows, of 6 bits each
  uint8_t values[128];
};
struct FileQ5_K {
  static constexpr int kBlocks = 8;
  uint16_t scale, low;
  uint8_t scales[12];
  uint8_t high_bits[32];
  uint8_t values[128];
};
struct FileQ6_K {
  static constexpr int kBlocks = 8;
  uint8_t low_bits[128], high_bits[64];
  int8_t scales[16];
  uint16_t scale;
};

// Each block as one of the form that holds them all. Products of scales are exact in fp32.
void SetAll(float scale, float low, Int8LowWeights& to) {
  to.scale[0] = to.scale[1] = scale;
  to.low[0] = to.low[1] = low;
}

void TakeNibbles(const uint8_t* from, Int8LowWeights& to) {
  for (int64_t i = 0; i < kCompactBlock / 2; ++i) {
    to.values[i] = static_cast<int8_t>(from[i] & 15);
    to.values[i + kCompactBlock / 2] = static_cast<int8_t>(from[i] >> 4);
  }
}

void Read(const FileQ4_0& from, Int8LowWeights* to) {
  const float scale = HalfToFloat(from.scale);
  SetAll(scale, -8 * scale, *to);
  TakeNibbles(from.values, *to);
}

void Read(const FileQ4_1& from, Int8LowWeights* to) {
  SetAll(HalfToFloat(from.scale), HalfToFloat(from.low), *to);
  TakeNibbles(from.values, *to);
}

void AddFifthBits(const uint16_t* bits, Int8LowWeights& to) {
  for (int64_t i = 0; i < kCompactBlock; ++i) {
    to.values[i] = static_cast<int8_t>(to.values[i] | ((bits[i / 16] >> (i % 16)) & 1) << 4);
  }
}

void Read(const FileQ5_0& from, Int8LowWeights* to) {
  const float scale = HalfToFloat(from.scale);
  SetAll(scale, -16 * scale, *to);
  TakeNibbles(from.values, *to);
  AddFifthBits(from.high_bits, *to);
}

void Read(const FileQ5_1& from, Int8LowWeights* to) {
  SetAll(HalfToFloat(from.scale), HalfToFloat(from.low), *to);
  TakeNibbles(from.values, *to);
  AddFifthBits(from.high_bits, *to);
}

void Read(const FileQ8_0& from, Int8LowWeights* to) {
  SetAll(HalfToFloat(from.scale), 0, *to);
  std::memcpy(to->values, from.values, sizeof to->values);
}

// What Q4_K and Q5_K have in common.
void ReadGroups(const auto& from, Int8LowWeights* to) {
  const float scale = HalfToFloat(from.scale), low = HalfToFloat(from.low);
  for (int b = 0; b < from.kBlocks; ++b) {
    const KGroup own = KGroupOf(from.scales, b);
    SetAll(scale * static_cast<float>(own.scale), -(low * static_cast<float>(own.minimum)), to[b]);
    const uint8_t* values = from.values + 32 * (b / 2);
    for (int64_t i = 0; i < kCompactBlock; ++i) {
      to[b].values[i] = static_cast<int8_t>((values[i] >> (4 * (b % 2))) & 15);
    }
  }
}

void Read(const FileQ4_K& from, Int8LowWeights* to) { ReadGroups(from, to); }

void Read(const FileQ5_K& from, Int8LowWeights* to) {
  ReadGroups(from, to);
  for (int b = 0; b < FileQ5_K::kBlocks; ++b) {
    for (int64_t i = 0; i < kCompactBlock; ++i) {
      to[b].values[i] = static_cast<int8_t>(to[b].values[i] | ((from.high_bits[i] >> b) & 1) << 4);
    }
  }
}

void Read(const FileQ6_K& from, Int8LowWeights* to) {
  const float scale = HalfToFloat(from.scale);
  for (int b = 0; b < FileQ6_K::kBlocks; ++b) {
    for (int half = 0; half < 2; ++half) {
      to[b].scale[half] = scale * static_cast<float>(from.scales[2 * b + half]);
      to[b].low[half] = 0;
    }
    const uint8_t* low = from.low_bits + 64 * (b / 4) + 32 * (b % 2);
    const uint8_t* high = from.high_bits + 32 * (b / 4);
    for (int64_t i = 0; i < kCompactBlock; ++i) {
      const int value = ((low[i] >> (4 * (b / 2 % 2))) & 15) | ((high[i] >> (2 * (b % 4))) & 3)
                                                                   << 4;
      to[b].values[i] = static_cast<int8_t>(value - 32);
    }
  }
}

bool IsFinite(const Int8LowWeights& block) {
  return std::isfinite(block.scale[0]) && std::isfinite(block.scale[1]) &&
         std::isfinite(block.low[0]) && std::isfinite(block.low[1]);
}

// False: the block has not this form.
bool Write(const Int8LowWeights& from, Int8LowWeights& to) {
  to = from;
  return IsFinite(from);
}

void PutNibbles(const Int8LowWeights& from, uint8_t* to) {
  for (int64_t i = 0; i < kCompactBlock / 2; ++i) {
    to[i] = static_cast<uint8_t>(from.values[i] | from.values[i + kCompactBlock / 2] << 4);
  }
}

bool Write(const Int8LowWeights& from, Q4FloatWeights& to) {
  to.scale = from.scale[0];
  to.low = from.low[0];
  PutNibbles(from, to.values);
  return IsFinite(from);
}

bool Write(const Int8LowWeights& from, Q4Weights& to) {
  to.scale = FloatToHalf(from.scale[0]);
  to.low = FloatToHalf(from.low[0]);
  PutNibbles(from, to.values);
  return IsFinite(from) && HalfToFloat(to.scale) == from.scale[0] &&
         HalfToFloat(to.low) == from.low[0];
}

bool Write(const Int8LowWeights& from, Int8Weights& to) {
  to.scale = from.scale[0];
  std::memcpy(to.values, from.values, sizeof to.values);
  return IsFinite(from);
}

template <typename From, typename To>
bool Convert(absl::Span<const uint8_t> bytes, uint8_t* blocks) {
  bool exact = true;
  for (size_t i = 0; i < bytes.size(); i += sizeof(From)) {
    From from;
    std::memcpy(&from, bytes.data() + i, sizeof from);
    Int8LowWeights wide[From::kBlocks];
    Read(from, wide);
    for (const Int8LowWeights& block : wide) {
      To to;
      exact = Write(block, to) && exact;
      std::memcpy(blocks, &to, sizeof to);
      blocks += sizeof to;
    }
  }
  return exact;
}

template <typename From>
bool ConvertTo(BlockForm form, absl::Span<const uint8_t> bytes, uint8_t* blocks) {
  switch (form) {
    case BlockForm::kQ4:
      return Convert<From, Q4Weights>(bytes, blocks);
    case BlockForm::kQ4Float:
      return Convert<From, Q4FloatWeights>(bytes, blocks);
    case BlockForm::kInt8:
      return Convert<From, Int8Weights>(bytes, blocks);
    default:
      return Convert<From, Int8LowWeights>(bytes, blocks);
  }
}

// Whether these bytes are blocks of `block_bytes`, whole ones in a row, of `block_size` values.
bool HasBlocks(absl::Span<const int64_t> shape, absl::Span<const uint8_t> bytes, size_t block_bytes,
               int64_t block_size) {
  if (shape.size() != 2 || shape[1] % std::max(block_size, kCompactBlock) != 0) return false;
  const absl::StatusOr<int64_t> values = CountElements(shape);
  return values.ok() && bytes.size() == static_cast<size_t>(*values / block_size) * block_bytes;
}

template <typename From>
ExactBlocks BlocksOf(const GgufTensor& tensor, std::vector<BlockForm> forms) {
  if (!HasBlocks(tensor.shape, tensor.bytes, sizeof(From), From::kBlocks * kCompactBlock)) {
    return {};
  }
  return {std::move(forms), [bytes = tensor.bytes](BlockForm form, uint8_t* blocks) {
            return ConvertTo<From>(form, bytes, blocks);
          }};
}

// Numbers of 16 bits, whose exponents are all ones when they are not finite.
ExactBlocks HalvesOf(BlockForm form, uint16_t exponent, absl::Span<const int64_t> shape,
                     absl::Span<const uint8_t> bytes) {
  if (!HasBlocks(shape, bytes, sizeof(uint16_t), 1)) return {};
  return {{form}, [exponent, bytes](BlockForm, uint8_t* blocks) {
            std::memcpy(blocks, bytes.data(), bytes.size());
            bool is_finite = true;
            for (size_t i = 0; i < bytes.size(); i += sizeof(uint16_t)) {
              uint16_t value;
              std::memcpy(&value, bytes.data() + i, sizeof value);
              is_finite = is_finite && (value & exponent) != exponent;
            }
            return is_finite;
          }};
}

ExactBlocks Bf16BlocksOf(absl::Span<const int64_t> shape, absl::Span<const uint8_t> bytes) {
  return HalvesOf(BlockForm::kBf16, 0x7f80, shape, bytes);
}

ExactBlocks F16BlocksOf(absl::Span<const int64_t> shape, absl::Span<const uint8_t> bytes) {
  return HalvesOf(BlockForm::kF16, 0x7c00, shape, bytes);
}

}  // namespace

ExactBlocks ExactBlocksOf(const GgufTensor& tensor) {
  using enum BlockForm;
  switch (tensor.type) {
    case GgmlType::kQ4_0:
      return BlocksOf<FileQ4_0>(tensor, {kQ4, kQ4Float, kInt8Low});
    case GgmlType::kQ4_1:
      return BlocksOf<FileQ4_1>(tensor, {kQ4, kQ4Float, kInt8Low});
    case GgmlType::kQ8_0:
      return BlocksOf<FileQ8_0>(tensor, {kInt8, kInt8Low});
    case GgmlType::kQ4_K:
      return BlocksOf<FileQ4_K>(tensor, {kQ4Float, kInt8Low});
    case GgmlType::kQ5_0:
      return BlocksOf<FileQ5_0>(tensor, {kInt8Low});
    case GgmlType::kQ5_1:
      return BlocksOf<FileQ5_1>(tensor, {kInt8Low});
    case GgmlType::kQ5_K:
      return BlocksOf<FileQ5_K>(tensor, {kInt8Low});
    case GgmlType::kQ6_K:
      return BlocksOf<FileQ6_K>(tensor, {kInt8Low});
    case GgmlType::kF16:
      return F16BlocksOf(tensor.shape, tensor.bytes);
    case GgmlType::kBF16:
      return Bf16BlocksOf(tensor.shape, tensor.bytes);
    default:
      return {};
  }
}

ExactBlocks ExactBlocksOf(const TensorView& tensor) {
  if (tensor.dtype == DType::kBF16) return Bf16BlocksOf(tensor.shape, tensor.bytes);
  if (tensor.dtype == DType::kF16) return F16BlocksOf(tensor.shape, tensor.bytes);
  return {};
}

std::optional<BlockForm> CommonForm(absl::Span<const ExactBlocks* const> tensors) {
  for (const BlockForm form : tensors[0]->forms) {
    const bool all = std::all_of(tensors.begin(), tensors.end(), [&](const ExactBlocks* tensor) {
      return std::find(tensor->forms.begin(), tensor->forms.end(), form) != tensor->forms.end();
    });
    if (all) return form;
  }
  return std::nullopt;
}

}  // namespace evolora
