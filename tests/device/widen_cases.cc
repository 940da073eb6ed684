#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "device/kernel_case_builder.h"

namespace evolora::testing {
namespace {

// A finite fp16 by its definition.
double HalfValue(int64_t bits) {
  const int64_t exponent = bits / 1024 % 32, digits = bits % 1024;
  const double size = exponent == 0 ? std::ldexp(static_cast<double>(digits), -24)
                                    : std::ldexp(1024.0 + static_cast<double>(digits),
                                                 static_cast<int>(exponent) - 25);
  return bits >= 32768 ? -size : size;
}

// Appends the bytes of one random block and returns its weights.
class BlockMaker {
 public:
  BlockMaker(Builder& builder, BlockStorage storage) : builder_(builder), storage_(storage) {}

  Values Append(Values& bytes) {
    if (storage_ == BlockStorage::kBFloat16) return AppendBFloat16(bytes);
    return storage_ == BlockStorage::kInt8 ? AppendInt8(bytes) : AppendQ4(bytes);
  }

 private:
  Values AppendBFloat16(Values& bytes) {
    Values weights;
    for (int64_t i = 0; i < kBlockWeights; ++i) {
      // Signs, exponents around 1, and digits.
      const auto word =
          static_cast<uint32_t>(builder_.Below(2) * 32768 + 16000 + builder_.Below(512));
      const uint32_t bits = word * 65536;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      weights.push_back(static_cast<double>(value));
      AppendWord(word, bytes);
    }
    return weights;
  }

  Values AppendInt8(Values& bytes) {
    const float scale = static_cast<float>(1 + builder_.Below(1000)) / 7000;
    uint8_t own[sizeof scale];
    std::memcpy(own, &scale, sizeof scale);
    bytes.insert(bytes.end(), own, own + sizeof scale);
    Values weights;
    for (int64_t i = 0; i < kBlockWeights; ++i) {
      const int64_t value = builder_.Below(255) - 127;
      bytes.push_back(static_cast<double>(value < 0 ? value + 256 : value));
      weights.push_back(static_cast<double>(value) * static_cast<double>(scale));
    }
    return weights;
  }

  // The scale now and then below fp16's normal numbers, the low one negative.
  Values AppendQ4(Values& bytes) {
    const int64_t scale =
        builder_.Below(4) == 0 ? builder_.Below(1024) : 8000 + builder_.Below(999);
    const int64_t low = 32768 + 11000 + builder_.Below(2000);
    AppendWord(static_cast<uint32_t>(scale), bytes);
    AppendWord(static_cast<uint32_t>(low), bytes);
    Values weights(kBlockWeights);
    for (int64_t i = 0; i < kBlockWeights / 2; ++i) {
      const int64_t first = builder_.Below(16), second = builder_.Below(16);
      bytes.push_back(static_cast<double>(first + 16 * second));
      weights[static_cast<size_t>(i)] =
          HalfValue(low) + static_cast<double>(first) * HalfValue(scale);
      weights[static_cast<size_t>(i + kBlockWeights / 2)] =
          HalfValue(low) + static_cast<double>(second) * HalfValue(scale);
    }
    return weights;
  }

  static void AppendWord(uint32_t word, Values& bytes) {
    bytes.push_back(word % 256);
    bytes.push_back(word / 256);
  }

  Builder& builder_;
  const BlockStorage storage_;
};

}  // namespace

KernelCase WidenRowsCase(ElementType type, BlockStorage storage, int64_t rows, int64_t width,
                         bool by_id) {
  Builder b(absl::StrCat("widen_rows ", static_cast<int>(storage), ", ", rows, " x ", width,
                         by_id ? ", by id" : ""),
            type, 14);
  const int64_t all = rows + 2;
  Values bytes, weights;
  BlockMaker maker(b, storage);
  for (int64_t row = 0; row < all; ++row) {
    Values own;
    while (static_cast<int64_t>(own.size()) < width) {
      const Values block = maker.Append(bytes);
      own.insert(own.end(), block.begin(), block.end());
    }
    weights.insert(weights.end(), own.begin(), own.begin() + width);
  }
  b.Given("blocks", Kind::kByte, bytes);
  Values ids, expected;
  for (int64_t m = 0; m < rows; ++m) {
    const int64_t id = by_id ? b.Below(all) : m;
    ids.push_back(static_cast<double>(id));
    expected.insert(expected.end(), Row(weights, id, width), Row(weights, id, width) + width);
  }
  b.Given("ids", Kind::kInt32, ids);
  b.Output("y", b.element(), expected);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.widen_rows({.type = type,
                         .storage = storage,
                         .blocks = d[0],
                         .ids = by_id ? static_cast<const int32_t*>(d[1]) : nullptr,
                         .rows = rows,
                         .width = width,
                         .y = d[2]},
                        stream);
  });
}

}  // namespace evolora::testing
