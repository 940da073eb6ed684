#include "device/kernel_case_builder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace evolora::testing {
namespace {

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// bf16 by the definition: of the two neighbours the nearer one, of two as near the even one.
uint16_t NearestBFloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const auto low = static_cast<uint16_t>(bits >> 16);
  const double below = FromBits(uint32_t{low} << 16), above = FromBits((uint32_t{low} + 1) << 16);
  const double to_below = std::abs(x - below), to_above = std::abs(above - x);
  if (to_below == to_above) return static_cast<uint16_t>(low + low % 2);
  return to_below < to_above ? low : static_cast<uint16_t>(low + 1);
}

template <class T>
void Append(std::vector<unsigned char>& bytes, T value) {
  const auto* data = reinterpret_cast<const unsigned char*>(&value);
  bytes.insert(bytes.end(), data, data + sizeof value);
}

}  // namespace

KernelBuffer MakeBuffer(std::string name, Kind kind, const Values& values) {
  KernelBuffer buffer{.name = std::move(name), .kind = kind};
  for (const double value : values) {
    switch (kind) {
      case Kind::kFloat32:
        Append(buffer.bytes, static_cast<float>(value));
        break;
      case Kind::kBFloat16:
        Append(buffer.bytes, NearestBFloat16(static_cast<float>(value)));
        break;
      case Kind::kFloat64:
        Append(buffer.bytes, value);
        break;
      case Kind::kInt32:
        Append(buffer.bytes, static_cast<int32_t>(value));
        break;
      case Kind::kByte:
        Append(buffer.bytes, static_cast<uint8_t>(value));
        break;
      case Kind::kUInt64:
        Append(buffer.bytes, static_cast<uint64_t>(value));
        break;
    }
  }
  return buffer;
}

Values KernelBuffer::Values() const {
  std::vector<double> values;
  const auto read = [&](auto zero, auto convert) {
    for (size_t i = 0; i + sizeof zero <= bytes.size(); i += sizeof zero) {
      std::memcpy(&zero, bytes.data() + i, sizeof zero);
      values.push_back(static_cast<double>(convert(zero)));
    }
  };
  const auto same = [](auto x) { return x; };
  switch (kind) {
    case Kind::kFloat32:
      read(float{}, same);
      break;
    case Kind::kBFloat16:
      read(uint16_t{}, [](uint16_t bits) { return FromBits(uint32_t{bits} << 16); });
      break;
    case Kind::kFloat64:
      read(double{}, same);
      break;
    case Kind::kInt32:
      read(int32_t{}, same);
      break;
    case Kind::kByte:
      read(uint8_t{}, same);
      break;
    case Kind::kUInt64:
      read(uint64_t{}, same);
      break;
  }
  return values;
}

std::string DifferenceToExpected(const KernelCase& kernel_case,
                                 const std::vector<KernelBuffer>& after) {
  for (size_t b = 0; b < after.size(); ++b) {
    const Values& expected = kernel_case.buffers[b].expected;
    if (expected.empty()) continue;
    double largest = 0;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    const Values values = after[b].Values();
    const bool is_bf16 = after[b].kind == Kind::kBFloat16;
    for (size_t i = 0; i < values.size(); ++i) {
      // bf16: the rounding of the element and of what it was made of; sums of fp32 err relative
      // to the row.
      const double allowed = is_bf16 ? std::abs(expected[i]) / 128 + largest / 256 : 2e-5 * largest;
      if (std::abs(values[i] - expected[i]) <= allowed) continue;
      return absl::StrCat(kernel_case.name, ": ", after[b].name, "[", i, "] = ", values[i],
                          " instead of ", expected[i]);
    }
  }
  return "";
}

}  // namespace evolora::testing
