#include "exact_blocks.h"

#include <cstring>
#include <vector>

#include "evolora/adapters/dequantize.h"
#include "evolora/model/kernels.h"

namespace evolora {
namespace {

// The file's blocks (dequantize.h).
struct FileQ4_0 {
  uint16_t scale;
  uint8_t values[16];
};
struct FileQ4_1 {
  uint16_t scale, low;
  uint8_t values[16];
};
struct FileQ8_0 {
  uint16_t scale;
  int8_t values[32];
};

bool IsFiniteHalf(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

bool Convert(const FileQ4_0& from, Q4Weights& to) {
  const float low = -8 * HalfToFloat(from.scale);
  to.scale = from.scale;
  to.low = FloatToHalf(low);
  std::memcpy(to.values, from.values, sizeof to.values);
  return IsFiniteHalf(from.scale) && HalfToFloat(to.low) == low;
}

bool Convert(const FileQ4_1& from, Q4Weights& to) {
  static_assert(sizeof from == sizeof to);
  std::memcpy(&to, &from, sizeof to);
  return IsFiniteHalf(from.scale) && IsFiniteHalf(from.low);
}

bool Convert(const FileQ8_0& from, Int8Weights& to) {
  to.scale = HalfToFloat(from.scale);
  std::memcpy(to.values, from.values, sizeof to.values);
  return IsFiniteHalf(from.scale);
}

bool Convert(const Bf16Weights& from, Bf16Weights& to) {
  bool is_finite = true;
  for (int64_t i = 0; i < kCompactBlock; ++i) {
    to.values[i] = from.values[i];
    is_finite = is_finite && (from.values[i] & 0x7f80) != 0x7f80;
  }
  return is_finite;
}

template <typename From, typename To>
ExactBlocks BlocksOf(WeightStorage storage, absl::Span<const int64_t> shape,
                     absl::Span<const uint8_t> bytes) {
  if (shape.size() != 2 || shape[1] % kCompactBlock != 0) return {};
  const size_t count = bytes.size() / sizeof(From);
  const absl::StatusOr<int64_t> values = CountElements(shape);
  if (!values.ok() || bytes.size() % sizeof(From) != 0 ||
      static_cast<int64_t>(count) != *values / kCompactBlock) {
    return {};
  }
  return {storage, [bytes, count](uint8_t* blocks) {
            bool exact = true;
            for (size_t i = 0; i < count; ++i) {
              From from;
              To to;
              std::memcpy(&from, bytes.data() + i * sizeof from, sizeof from);
              exact = Convert(from, to) && exact;
              std::memcpy(blocks + i * sizeof to, &to, sizeof to);
            }
            return exact;
          }};
}

ExactBlocks Bf16BlocksOf(absl::Span<const int64_t> shape, absl::Span<const uint8_t> bytes) {
  return BlocksOf<Bf16Weights, Bf16Weights>(WeightStorage::kBf16, shape, bytes);
}

}  // namespace

ExactBlocks ExactBlocksOf(const GgufTensor& tensor) {
  switch (tensor.type) {
    case GgmlType::kQ4_0:
      return BlocksOf<FileQ4_0, Q4Weights>(WeightStorage::kQ4, tensor.shape, tensor.bytes);
    case GgmlType::kQ4_1:
      return BlocksOf<FileQ4_1, Q4Weights>(WeightStorage::kQ4, tensor.shape, tensor.bytes);
    case GgmlType::kQ8_0:
      return BlocksOf<FileQ8_0, Int8Weights>(WeightStorage::kInt8, tensor.shape, tensor.bytes);
    case GgmlType::kBF16:
      return Bf16BlocksOf(tensor.shape, tensor.bytes);
    default:
      return {};
  }
}

ExactBlocks ExactBlocksOf(const TensorView& tensor) {
  return tensor.dtype == DType::kBF16 ? Bf16BlocksOf(tensor.shape, tensor.bytes) : ExactBlocks();
}

}  // namespace evolora
