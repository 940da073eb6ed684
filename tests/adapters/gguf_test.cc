#include "evolora/adapters/gguf.h"

#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

absl::Span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

template <typename T>
std::string Le(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
std::string Str(const std::string& text) { return Le(uint64_t{text.size()}) + text; }

// A file put together by hand, so that each part can be wrong.
struct Raw {
  uint32_t version = 3;
  uint64_t num_tensors = 0;
  uint64_t num_pairs = 0;
  std::string pairs, infos, data;
  std::string magic = "GGUF";
  uint64_t alignment = 32;

  void Pair(const std::string& key, uint32_t type, const std::string& value) {
    ++num_pairs;
    pairs += Str(key) + Le(type) + value;
  }
  void Tensor(const std::string& name, std::vector<uint64_t> axes, uint32_t type, uint64_t offset) {
    ++num_tensors;
    infos += Str(name) + Le(static_cast<uint32_t>(axes.size()));
    for (uint64_t axis : axes) infos += Le(axis);
    infos += Le(type) + Le(offset);
  }
  std::string File() const {
    std::string file = magic + Le(version) + Le(num_tensors) + Le(num_pairs) + pairs + infos;
    if (!data.empty()) file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data;
  }
};

std::vector<std::pair<std::string, GgufValue>> EveryType() {
  const auto scalar = [](GgufValueType type, auto value) {
    GgufValue v;
    v.type = type;
    v.value = value;
    return v;
  };
  const int32_t ints[] = {-3, 0, 7};
  const float floats[] = {0.5f, -1e-30f};
  return {{"u8", scalar(GgufValueType::kU8, uint64_t{255})},
          {"i8", scalar(GgufValueType::kI8, int64_t{-128})},
          {"u16", scalar(GgufValueType::kU16, uint64_t{65535})},
          {"i16", scalar(GgufValueType::kI16, int64_t{-32768})},
          {"u32", GgufValue::U32(4294967295u)},
          {"i32", scalar(GgufValueType::kI32, int64_t{-5})},
          {"f32", GgufValue::F32(0.1f)},
          {"bool", GgufValue::Bool(true)},
          {"string", GgufValue::String(std::string("a\0b", 3))},
          {"u64", scalar(GgufValueType::kU64, std::numeric_limits<uint64_t>::max())},
          {"i64", scalar(GgufValueType::kI64, int64_t{-1})},
          {"f64", scalar(GgufValueType::kF64, 0.1)},
          {"strings", GgufValue::StringArray({"x", "", "yz"})},
          {"ints", GgufValue::I32Array(ints)},
          {"floats", GgufValue::F32Array(floats)},
          {"none", GgufValue::StringArray({})}};
}

TEST(Gguf, EveryValueTypeSurvivesTheWayThereAndBack) {
  ASSERT_OK_AND_ASSIGN(const std::string bytes, SerializeGguf(EveryType(), {}));
  ASSERT_OK_AND_ASSIGN(const GgufFile file, GgufFile::Parse(Bytes(bytes)));
  const auto expected = EveryType();
  ASSERT_EQ(file.values().size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE(expected[i].first);
    EXPECT_EQ(file.values()[i].first, expected[i].first);
    EXPECT_EQ(file.values()[i].second.type, expected[i].second.type);
    EXPECT_TRUE(file.values()[i].second.value == expected[i].second.value);
  }
}

TEST(Gguf, GettersConvertWithoutLossOrNameTheKey) {
  ASSERT_OK_AND_ASSIGN(const std::string bytes, SerializeGguf(EveryType(), {}));
  ASSERT_OK_AND_ASSIGN(const GgufFile file, GgufFile::Parse(Bytes(bytes)));
  EXPECT_EQ(file.GetU32("u8").value(), 255u);
  EXPECT_EQ(file.GetU32("u32").value(), 4294967295u);
  EXPECT_EQ(file.GetU64("u64").value(), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(file.GetF32("f32").value(), 0.1f);
  EXPECT_TRUE(file.GetBool("bool").value());
  EXPECT_EQ(file.GetString("string").value(), std::string("a\0b", 3));
  EXPECT_EQ(file.GetStringArray("strings").value(), (std::vector<std::string>{"x", "", "yz"}));
  EXPECT_EQ(file.GetI32Array("ints").value(), (std::vector<int32_t>{-3, 0, 7}));
  EXPECT_EQ(file.GetF32Array("floats").value(), (std::vector<float>{0.5f, -1e-30f}));
  EXPECT_TRUE(file.GetStringArray("none").value().empty());
  EXPECT_TRUE(file.Has("u8"));
  EXPECT_FALSE(file.Has("u"));

  EXPECT_THAT(file.GetU32("missing"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("key 'missing' is missing")));
  EXPECT_THAT(file.GetU32("u64"), StatusIs(kInvalid, HasSubstr("key 'u64' is u64")));
  EXPECT_THAT(file.GetU32("i32"), StatusIs(kInvalid, HasSubstr("[0, 4294967295]")));
  EXPECT_THAT(file.GetU32("bool"), StatusIs(kInvalid, HasSubstr("is bool")));
  EXPECT_THAT(file.GetF32("f64"), StatusIs(kInvalid, HasSubstr("is f64, not f32")));
  EXPECT_THAT(file.GetBool("u8"), StatusIs(kInvalid, HasSubstr("is u8, not bool")));
  EXPECT_THAT(file.GetString("strings"), StatusIs(kInvalid, HasSubstr("is array of string")));
  EXPECT_THAT(file.GetStringArray("ints"), StatusIs(kInvalid, HasSubstr("is array of i32")));
  EXPECT_THAT(file.GetF32Array("ints"), StatusIs(kInvalid, HasSubstr("not array of f32")));
  EXPECT_THAT(file.GetI32Array("floats"), StatusIs(kInvalid, HasSubstr("array of integers")));
}

TEST(Gguf, TensorsSurviveTheWayThereAndBack) {
  const std::string f32(24, 'a'), f16(10, 'b'), q4(36, 'c');
  const GgufTensor tensors[] = {{"m", GgmlType::kF32, {3, 2}, Bytes(f32)},
                                {"v", GgmlType::kF16, {5}, Bytes(f16)},
                                {"q", GgmlType::kQ4_0, {1, 1, 64}, Bytes(q4)}};
  ASSERT_OK_AND_ASSIGN(const std::string bytes, SerializeGguf(EveryType(), tensors));
  EXPECT_EQ(bytes.size() % 32, 0u);
  TempDir dir;
  ASSERT_TRUE(PosixFileSystem().WriteFileAtomic(dir.Join("x.gguf"), bytes).ok());
  ASSERT_OK_AND_ASSIGN(const GgufFile file, GgufFile::Open(PosixFileSystem(), dir.Join("x.gguf")));
  ASSERT_EQ(file.tensors().size(), 3u);
  for (const GgufTensor& tensor : tensors) {
    const GgufTensor* read = file.FindTensor(tensor.name);
    ASSERT_NE(read, nullptr);
    EXPECT_EQ(read->shape, tensor.shape);
    EXPECT_EQ(read->type, tensor.type);
    EXPECT_EQ(read->bytes, tensor.bytes);
  }
  EXPECT_EQ(file.FindTensor("n"), nullptr);
}

TEST(Gguf, VersionTwoAndOtherAlignmentsAreRead) {
  Raw raw;
  raw.version = 2;
  raw.Pair("general.alignment", 4, Le(uint32_t{8}));
  raw.Tensor("a", {3}, 24, 0);
  raw.Tensor("b", {1}, 24, 8);
  raw.alignment = 8;
  raw.data = std::string("abc\0\0\0\0\0d", 9);  // padding after the last tensor may be left out
  const std::string bytes = raw.File();
  ASSERT_OK_AND_ASSIGN(const GgufFile file, GgufFile::Parse(Bytes(bytes)));
  EXPECT_EQ(file.FindTensor("b")->bytes[0], 'd');
}

TEST(Gguf, ATensorOfAnUnsupportedTypeCanBeListed) {
  Raw raw;
  raw.Tensor("a", {256}, 10, 0);  // Q2_K
  raw.data = std::string(84, 'x');
  const std::string bytes = raw.File();
  ASSERT_OK_AND_ASSIGN(const GgufFile file, GgufFile::Parse(Bytes(bytes)));
  EXPECT_EQ(GgmlTypeName(file.tensors()[0].type), "Q2_K");
}

TEST(Gguf, EachBrokenRuleIsRefusedByName) {
  struct Row {
    const char* rule;
    absl::StatusCode code;
    const char* message;
    std::function<void(Raw&)> breaks;
  };
  const Row rows[] = {
      {"magic", kInvalid, "offset 0", [](Raw& r) { r.magic = "GGML"; }},
      {"version 1", kUnimplemented, "version 1", [](Raw& r) { r.version = 1; }},
      {"version 4", kUnimplemented, "version 4", [](Raw& r) { r.version = 4; }},
      {"byte order", kUnimplemented, "big-endian", [](Raw& r) { r.version = 3u << 24; }},
      {"tensor count", kDataLoss, "18446744073709551615 tensors",
       [](Raw& r) { r.num_tensors = ~uint64_t{0}; }},
      {"key count", kDataLoss, "keys in", [](Raw& r) { r.num_pairs = uint64_t{1} << 40; }},
      {"key length", kDataLoss, "key 0 needs",
       [](Raw& r) { r.num_pairs = 1, r.pairs = Le(~uint64_t{0}) + std::string(64, 'x'); }},
      {"empty key", kInvalid, "0 bytes, not 1 to", [](Raw& r) { r.Pair("", 4, Le(1)); }},
      {"long key", kInvalid, "65536 bytes",
       [](Raw& r) { r.Pair(std::string(65536, 'k'), 4, Le(1)); }},
      {"NUL in key", kInvalid, "'a' goes on after a NUL",
       [](Raw& r) { r.Pair(std::string("a\0b", 3), 4, Le(1)); }},
      {"duplicate key", kInvalid, "duplicate key 'k'",
       [](Raw& r) { r.Pair("k", 4, Le(1)), r.Pair("k", 4, Le(1)); }},
      {"value type", kUnimplemented, "key 'k': values of type 13",
       [](Raw& r) { r.Pair("k", 13, Le(1)); }},
      {"bool", kInvalid, "key 'k': bool is 2", [](Raw& r) { r.Pair("k", 7, "\2"); }},
      {"string length", kDataLoss, "key 'k' needs 9223372036854775808",
       [](Raw& r) { r.Pair("k", 8, Le(uint64_t{1} << 63)); }},
      {"array count", kDataLoss, "4611686018427387904 elements",
       [](Raw& r) { r.Pair("k", 9, Le(4) + Le(uint64_t{1} << 62)); }},
      {"array of strings count", kDataLoss, "1099511627776 elements",
       [](Raw& r) { r.Pair("k", 9, Le(8) + Le(uint64_t{1} << 40)); }},
      {"nested array", kUnimplemented, "values of array",
       [](Raw& r) { r.Pair("k", 9, Le(9) + Le(uint64_t{1}) + Le(4) + Le(uint64_t{0})); }},
      {"element type", kUnimplemented, "values of type 99",
       [](Raw& r) { r.Pair("k", 9, Le(99) + Le(uint64_t{0})); }},
      {"alignment 0", kInvalid, "general.alignment",
       [](Raw& r) { r.Pair("general.alignment", 4, Le(0)); }},
      {"alignment 24", kInvalid, "general.alignment",
       [](Raw& r) { r.Pair("general.alignment", 4, Le(24)); }},
      {"alignment 2^31", kInvalid, "general.alignment",
       [](Raw& r) { r.Pair("general.alignment", 4, Le(1u << 31)); }},
      {"alignment type", kInvalid, "general.alignment",
       [](Raw& r) { r.Pair("general.alignment", 10, Le(uint64_t{32})); }},
      {"name of 64", kInvalid, "64 bytes, not 1 to 63",
       [](Raw& r) { r.Tensor(std::string(64, 'n'), {1}, 24, 0); }},
      {"NUL in name", kInvalid, "'a' goes on after a NUL",
       [](Raw& r) { r.Tensor(std::string("a\0b", 3), {1}, 24, 0); }},
      {"duplicate tensor", kInvalid, "duplicate tensor 'a'",
       [](Raw& r) { r.Tensor("a", {1}, 24, 0), r.Tensor("a", {1}, 24, 32); }},
      {"no axes", kInvalid, "'a': 0 axes", [](Raw& r) { r.Tensor("a", {}, 24, 0); }},
      {"five axes", kInvalid, "'a': 5 axes",
       [](Raw& r) {
         r.Tensor("a", {1, 1, 1, 1, 1}, 24, 0);
       }},
      {"axis 0", kInvalid, "shape [0]", [](Raw& r) { r.Tensor("a", {0}, 24, 0); }},
      {"negative axis", kInvalid, "shape [-1]",
       [](Raw& r) { r.Tensor("a", {~uint64_t{0}}, 24, 0); }},
      {"element overflow", kInvalid, "overflows",
       [](Raw& r) {
         r.Tensor("a", {uint64_t{1} << 40, uint64_t{1} << 40}, 24, 0);
       }},
      {"byte overflow", kInvalid, "overflows",
       [](Raw& r) { r.Tensor("a", {uint64_t{1} << 62}, 27, 0); }},
      {"partial block", kInvalid, "rows of 33 are no whole blocks of Q4_0",
       [](Raw& r) {
         r.Tensor("a", {33, 32}, 2, 0);
       }},
      {"tensor type", kUnimplemented, "'a': unknown GGML tensor type 4",
       [](Raw& r) { r.Tensor("a", {1}, 4, 0); }},
      {"first offset", kInvalid, "'a': offset 32 of the data, not 0",
       [](Raw& r) { r.Tensor("a", {1}, 24, 32); }},
      {"second offset", kInvalid, "'b': offset 0 of the data, not 32",
       [](Raw& r) { r.Tensor("a", {1}, 24, 0), r.Tensor("b", {1}, 24, 0), r.data.resize(64); }},
      {"offset off by one", kInvalid, "'b': offset 33 of the data, not 32",
       [](Raw& r) { r.Tensor("a", {1}, 24, 0), r.Tensor("b", {1}, 24, 33), r.data.resize(96); }},
      {"data missing", kDataLoss, "'a': 8 bytes at 0 of the data, which has 0",
       [](Raw& r) { r.Tensor("a", {2}, 0, 0); }},
      {"data short", kDataLoss, "'a': 8 bytes at 0 of the data, which has 7",
       [](Raw& r) { r.Tensor("a", {2}, 0, 0), r.data.resize(7); }},
      {"data long", kDataLoss, "1 bytes after the last tensor",
       [](Raw& r) { r.Tensor("a", {2}, 0, 0), r.data.resize(33); }},
      {"data without tensors", kDataLoss, "bytes after the last tensor",
       [](Raw& r) { r.data.resize(40); }},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.rule);
    Raw raw;
    row.breaks(raw);
    const std::string bytes = raw.File();
    EXPECT_THAT(GgufFile::Parse(Bytes(bytes)), StatusIs(row.code, HasSubstr(row.message)));
  }
}

TEST(Gguf, TruncationAtEveryByteIsRefused) {
  const std::string data(32, 'a');
  const GgufTensor tensors[] = {{"m", GgmlType::kF32, {4, 2}, Bytes(data)}};
  ASSERT_OK_AND_ASSIGN(const std::string whole, SerializeGguf(EveryType(), tensors));
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string torn = whole.substr(0, size);
    EXPECT_FALSE(GgufFile::Parse(Bytes(torn)).ok()) << size;
  }
}

TEST(Gguf, WriterRefusesWhatItsReaderWould) {
  using Pairs = std::vector<std::pair<std::string, GgufValue>>;
  GgufValue mislabelled = GgufValue::U32(1);
  mislabelled.type = GgufValueType::kString;
  for (const Pairs& pairs :
       {Pairs{{"k", GgufValue::U32(1)}, {"k", GgufValue::U32(1)}}, Pairs{{"", GgufValue::U32(1)}},
        Pairs{{"k", mislabelled}}, Pairs{{"general.alignment", GgufValue::U32(64)}}}) {
    EXPECT_THAT(SerializeGguf(pairs, {}), StatusIs(kInvalid, ::testing::_));
  }
  const std::string data(8, 'x');
  const GgufTensor good = {"t", GgmlType::kF32, {2}, Bytes(data)};
  GgufTensor long_name = good, wrong_size = good;
  long_name.name = std::string(64, 'n');
  wrong_size.shape = {3};
  for (const std::vector<GgufTensor>& tensors :
       {std::vector<GgufTensor>{good, good}, {long_name}, {wrong_size}}) {
    EXPECT_THAT(SerializeGguf({}, tensors), StatusIs(kInvalid, ::testing::_));
  }
}

}  // namespace
}  // namespace evolora
