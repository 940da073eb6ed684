#include "evolora/adapters/dequantize.h"

#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::SourcePath;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

absl::Span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Rows of tests/golden/dequant.txt, made by tools/golden/dequant_golden.py with the package gguf.
TEST(Dequantize, EqualsTheReferencePackageBitForBit) {
  const std::map<std::string, GgmlType> types = {
      {"F32", GgmlType::kF32},   {"F16", GgmlType::kF16},   {"BF16", GgmlType::kBF16},
      {"Q8_0", GgmlType::kQ8_0}, {"Q4_0", GgmlType::kQ4_0}, {"Q4_1", GgmlType::kQ4_1},
      {"Q4_K", GgmlType::kQ4_K}, {"Q6_K", GgmlType::kQ6_K}, {"Q5_0", GgmlType::kQ5_0},
      {"Q5_1", GgmlType::kQ5_1}, {"Q5_K", GgmlType::kQ5_K}};
  std::ifstream file(SourcePath("tests/golden/dequant.txt"));
  std::string name, input_hex, output_hex;
  int64_t count = 0;
  size_t rows = 0;
  for (; file >> name >> count >> input_hex >> output_hex; ++rows) {
    SCOPED_TRACE(name);
    const std::string input = absl::HexStringToBytes(input_hex);
    std::vector<float> values(count);
    ASSERT_THAT(DequantizeToFloat(types.at(name), Bytes(input), count, values.data()),
                testing::IsOk());
    std::string bits;
    for (float value : values) {
      const uint32_t u = std::bit_cast<uint32_t>(value);
      for (int shift = 24; shift >= 0; shift -= 8) bits.push_back(static_cast<char>(u >> shift));
    }
    EXPECT_EQ(absl::BytesToHexString(bits), output_hex);
  }
  EXPECT_EQ(rows, types.size());
}

TEST(Dequantize, ReadsSafetensorsTypes) {
  const double doubles[] = {1.0, -0.1, 1e-320, 1e300};
  float out[4];
  ASSERT_TRUE(DequantizeToFloat(
                  DType::kF64, {reinterpret_cast<const uint8_t*>(doubles), sizeof(doubles)}, 4, out)
                  .ok());
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -0.1f);
  EXPECT_EQ(out[2], 0.0f);
  EXPECT_TRUE(std::isinf(out[3]));
  const std::string ints(16, '\0');
  EXPECT_THAT(DequantizeToFloat(DType::kI32, Bytes(ints), 4, out),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("I32")));
}

TEST(Dequantize, WrongSizesAndTypesAreRefused) {
  float out[256];
  const std::string bytes(144, '\0');
  const auto refuse = [&](GgmlType type, size_t size, int64_t n, absl::StatusCode code,
                          const char* message) {
    EXPECT_THAT(DequantizeToFloat(type, Bytes(bytes).first(size), n, out),
                StatusIs(code, HasSubstr(message)));
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  refuse(GgmlType::kQ4_0, 18, 31, invalid, "31 elements are no multiple of the block of 32");
  refuse(GgmlType::kQ4_0, 17, 32, invalid, "17 bytes for 32 elements");
  refuse(GgmlType::kQ4_0, 36, 32, invalid, "36 bytes for 32 elements");
  refuse(GgmlType::kQ4_K, 143, 256, invalid, "143 bytes");
  refuse(GgmlType::kF32, 4, -1, invalid, "-1 elements");
  refuse(GgmlType::kF32, 4, (int64_t{1} << 62) + 1, invalid, "4 bytes");
  refuse(static_cast<GgmlType>(10), 84, 256, absl::StatusCode::kUnimplemented, "Q2_K");
  refuse(static_cast<GgmlType>(999), 22, 32, absl::StatusCode::kUnimplemented, "type 999");
  EXPECT_TRUE(DequantizeToFloat(GgmlType::kQ6_K, {}, 0, out).ok());
}

TEST(Half, EveryHalfSurvivesTheWayThereAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if ((bits & 0x7fffu) > 0x7c00u) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_GT(FloatToHalf(value) & 0x7fffu, 0x7c00u) << bits;
      continue;
    }
    EXPECT_EQ(FloatToHalf(value), half) << bits;
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const double magnitude = exponent == 0    ? std::ldexp(mantissa, -24)
                             : exponent == 31 ? std::numeric_limits<double>::infinity()
                                              : std::ldexp(1024 + mantissa, exponent - 25);
    EXPECT_EQ(value, (bits & 0x8000u) ? -magnitude : magnitude) << bits;
  }
}

TEST(Half, RoundsToNearestAndTiesToEven) {
  // Between two neighbouring halves: below, at and above the middle.
  for (uint32_t bits = 0; bits < 0x7bffu; ++bits) {
    const uint16_t low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
    const float middle = (HalfToFloat(low) + HalfToFloat(high)) / 2;  // exact in fp32
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), low) << bits;
    ASSERT_EQ(FloatToHalf(middle), bits % 2 == 0 ? low : high) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 1e9f)), high) << bits;
    ASSERT_EQ(FloatToHalf(-middle), (bits % 2 == 0 ? low : high) | 0x8000u) << bits;
  }
  EXPECT_EQ(FloatToHalf(std::nextafter(65520.0f, 0.0f)), 0x7bffu);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00u);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xfc00u);
  EXPECT_EQ(FloatToHalf(1e-30f), 0u);
}

TEST(BFloat16, RoundsToNearestAndTiesToEven) {
  for (uint32_t bits = 0; bits < 0x7f80u; ++bits) {
    const uint16_t low = static_cast<uint16_t>(bits);
    const uint32_t middle = (bits << 16) | 0x8000u;
    ASSERT_EQ(FloatToBFloat16(BFloat16ToFloat(low)), low);
    ASSERT_EQ(FloatToBFloat16(std::bit_cast<float>(middle - 1)), low);
    ASSERT_EQ(FloatToBFloat16(std::bit_cast<float>(middle)), bits + (bits & 1u));
    ASSERT_EQ(FloatToBFloat16(std::bit_cast<float>(middle + 1)), bits + 1);
  }
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(std::nanf("1")))));
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isinf(BFloat16ToFloat(FloatToBFloat16(INFINITY))));
}

}  // namespace
}  // namespace evolora
