#include "evolora/adapters/safetensors.h"

#include <cstring>
#include <string>
#include <vector>

#include "evolora/adapters/dequantize.h"
#include "support/failing_file_system.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::FailingFileSystem;
using ::evolora::testing::SourcePath;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

absl::Span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string LittleEndian(uint64_t value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

// A file of this header and `data_bytes` of data.
std::string RawFile(const std::string& header, size_t data_bytes) {
  return LittleEndian(header.size()) + header + std::string(data_bytes, '\1');
}

std::string ReadAll(const std::string& path) {
  return PosixFileSystem().ReadFile(path, 1 << 20).value();
}

TEST(Safetensors, ReadsWhatTheOfficialWriterWrote) {
  ASSERT_OK_AND_ASSIGN(
      const SafetensorsFile file,
      SafetensorsFile::Open(PosixFileSystem(),
                            SourcePath("tests/fixtures/adapters/official.safetensors")));
  EXPECT_EQ(file.tensors().size(), 21u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const TensorView* empty = file.Find("empty");
  ASSERT_NE(empty, nullptr);
  EXPECT_EQ(empty->shape, (std::vector<int64_t>{0, 4}));
  EXPECT_TRUE(empty->bytes.empty());
  const char* floats[] = {"f64", "f32", "f16", "bf16"};
  for (int i = 0; i < 4; ++i) {
    SCOPED_TRACE(floats[i]);
    const TensorView* matrix = file.Find(std::string("b.") + floats[i]);
    ASSERT_NE(matrix, nullptr);
    EXPECT_EQ(matrix->shape, (std::vector<int64_t>{2, 3}));
    float values[6];
    ASSERT_TRUE(DequantizeToFloat(matrix->dtype, matrix->bytes, 6, values).ok());
    for (int k = 0; k < 6; ++k) EXPECT_EQ(values[k], k + i);
    const TensorView* scalar = file.Find(std::string("a.\"") + floats[i] + "\"\\");
    ASSERT_NE(scalar, nullptr);
    EXPECT_TRUE(scalar->shape.empty());
  }
  EXPECT_EQ(file.Find("b.bool")->dtype, DType::kBool);
  EXPECT_EQ(file.Find("b"), nullptr);
}

TEST(Safetensors, WritesTheBytesOfTheOfficialWriter) {
  const std::string path = SourcePath("tests/fixtures/adapters/official.safetensors");
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile file, SafetensorsFile::Open(PosixFileSystem(), path));
  ASSERT_OK_AND_ASSIGN(const std::string bytes,
                       SerializeSafetensors(file.tensors(), file.metadata()));
  EXPECT_EQ(bytes, ReadAll(path));
}

TEST(Safetensors, FileAndSerializedBytesAreTheSame) {
  const std::string data(24, 'x');
  const TensorView tensors[] = {{"b", DType::kF16, {2, 2}, Bytes(data).first(8)},
                                {"a", DType::kF32, {4}, Bytes(data).first(16)}};
  TempDir dir;
  ASSERT_TRUE(WriteSafetensors(PosixFileSystem(), dir.Join("x"), tensors, {{"k", "v"}}).ok());
  ASSERT_OK_AND_ASSIGN(const std::string bytes, SerializeSafetensors(tensors, {{"k", "v"}}));
  EXPECT_EQ(ReadAll(dir.Join("x")), bytes);
  EXPECT_EQ(bytes.size() % 8, 0u);
}

TEST(Safetensors, AcceptsEdgesOfTheFormat) {
  const std::string files[] = {
      RawFile("{}", 0),
      RawFile("{}      ", 0),
      RawFile(R"({"__metadata__":{}})", 0),
      RawFile(R"({"s":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1),
      RawFile(R"({"z":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0),
      RawFile(R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
              R"("a":{"shape":[1],"data_offsets":[0,1],"dtype":"BOOL"}})",
              3),
  };
  for (const std::string& file : files) {
    SCOPED_TRACE(file);
    EXPECT_THAT(SafetensorsFile::Parse(Bytes(file)).status(), testing::IsOk());
  }
}

TEST(Safetensors, EachBrokenRuleIsRefusedByName) {
  struct Row {
    const char* rule;
    std::string file;
    absl::StatusCode code;
    const char* message;
  };
  const std::string one = R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const auto entry = [](const std::string& body) { return "{\"t\":{" + body + "}}"; };
  const Row rows[] = {
      {"no length", std::string("\1\0\0", 3), kDataLoss, "3 bytes has no header length"},
      {"header limit", LittleEndian(100'000'001) + "{}", kInvalid, "limit 100000000"},
      {"header past end", LittleEndian(100) + "{}", kDataLoss, "header of 100 bytes"},
      {"length overflow", LittleEndian(~uint64_t{0}) + "{}", kInvalid, "limit"},
      {"empty header", LittleEndian(0), kInvalid, "does not start with '{'"},
      {"leading blank", RawFile(" {}", 0), kInvalid, "does not start with '{'"},
      {"newline padding", RawFile("{}\n", 0), kInvalid, "neither '}' nor blanks"},
      {"NUL padding", RawFile(std::string("{}\0", 3), 0), kInvalid, "neither '}' nor blanks"},
      {"two values", RawFile("{}{}", 0), kInvalid, "safetensors header"},
      {"not UTF-8", RawFile("{\"\xff\":0}", 0), kInvalid, "safetensors header"},
      {"duplicate tensor",
       RawFile(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
               R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
               1),
       kInvalid, "safetensors header"},
      {"duplicate key in an entry",
       RawFile(entry(R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])"), 1), kInvalid,
       "safetensors header"},
      {"duplicate metadata", RawFile(R"({"__metadata__":{"a":"1","a":"1"}})", 0), kInvalid,
       "safetensors header"},
      {"metadata number", RawFile(R"({"__metadata__":{"a":1}})", 0), kInvalid,
       "'a' is not a string"},
      {"metadata list", RawFile(R"({"__metadata__":[]})", 0), kInvalid, "not an object"},
      {"entry is an array", RawFile(R"({"t":["F32",[2],[0,8]]})", 8), kInvalid, "'t': the entry"},
      {"unknown key", RawFile(entry(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1)"), 1),
       kInvalid, "'t': unknown key 'x'"},
      {"missing key", RawFile(entry(R"("dtype":"U8","shape":[1])"), 0), kInvalid, "is missing"},
      {"dtype number", RawFile(entry(R"("dtype":1,"shape":[1],"data_offsets":[0,1])"), 1), kInvalid,
       "dtype is not a string"},
      {"dtype unknown", RawFile(entry(R"("dtype":"F33","shape":[1],"data_offsets":[0,1])"), 1),
       kInvalid, "'t': unknown element type 'F33'"},
      {"dtype not read", RawFile(entry(R"("dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1])"), 1),
       kUnimplemented, "'t': element type F8_E4M3"},
      {"negative axis", RawFile(entry(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])"), 1),
       kInvalid, "shape holds -1"},
      {"fractional axis", RawFile(entry(R"("dtype":"U8","shape":[1.0],"data_offsets":[0,1])"), 1),
       kInvalid, "shape holds 1.0"},
      {"product overflow",
       RawFile(entry(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0),
       kInvalid, "overflows"},
      {"product overflow behind zero",
       RawFile(entry(R"("dtype":"U8","shape":[4611686018427387905],"data_offsets":[0,0])"), 0),
       kInvalid, "not an integer in [0, 2^62]"},
      {"three offsets", RawFile(entry(R"("dtype":"U8","shape":[1],"data_offsets":[0,1,1])"), 1),
       kInvalid, "not two numbers"},
      {"begin after end", RawFile(entry(R"("dtype":"U8","shape":[1],"data_offsets":[1,0])"), 1),
       kInvalid, "offsets 1 > 0"},
      {"past the end", RawFile(one, 7), kDataLoss, "'t': ends at 8 of the data, which has 7"},
      {"size mismatch", RawFile(entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), 8),
       kInvalid, "do not hold F32[3]"},
      {"torn element", RawFile(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,9])"), 9),
       kInvalid, "do not hold F32[2]"},
      {"trailing data", RawFile(one, 9), kDataLoss, "end at 8 of the data, which has 9"},
      {"does not start at 0", RawFile(entry(R"("dtype":"U8","shape":[1],"data_offsets":[1,2])"), 2),
       kInvalid, "'t': begins at 1"},
      {"hole",
       RawFile(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
               R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
               3),
       kInvalid, "'b': begins at 2"},
      {"overlap",
       RawFile(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
               R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
               3),
       kInvalid, "'b': begins at 1"},
      {"too deep", RawFile(R"({"t":{"shape":[[[[]]]]}})", 0), kInvalid, "safetensors header"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.rule);
    EXPECT_THAT(SafetensorsFile::Parse(Bytes(row.file)),
                StatusIs(row.code, HasSubstr(row.message)));
  }
}

TEST(Safetensors, TruncationAtEveryByteIsRefused) {
  const std::string whole = ReadAll(SourcePath("tests/fixtures/adapters/official.safetensors"));
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string torn = whole.substr(0, size);
    EXPECT_FALSE(SafetensorsFile::Parse(Bytes(torn)).ok()) << size;
  }
}

TEST(Safetensors, WriterRefusesWhatItsReaderWould) {
  const std::string data(8, 'x');
  const TensorView good = {"t", DType::kF32, {2}, Bytes(data)};
  TensorView short_bytes = good, bad_name = good, reserved = good;
  short_bytes.shape = {3};
  bad_name.name = "\xff";
  reserved.name = "__metadata__";
  const std::vector<std::vector<TensorView>> lists = {
      {good, good}, {short_bytes}, {bad_name}, {reserved}};
  for (const auto& list : lists) {
    EXPECT_THAT(SerializeSafetensors(list, {}), StatusIs(kInvalid, ::testing::_));
  }
  EXPECT_THAT(SerializeSafetensors({}, {{"\xff", ""}}), StatusIs(kInvalid, ::testing::_));
}

TEST(Safetensors, FailedWriteLeavesTheOldFile) {
  TempDir dir;
  const std::string path = dir.Join("x"), data(8, 'x');
  const TensorView tensor = {"t", DType::kF32, {2}, Bytes(data)};
  ASSERT_TRUE(PosixFileSystem().WriteFileAtomic(path, "old").ok());
  FailingFileSystem fs(PosixFileSystem());
  fs.FailAt(1, absl::ResourceExhaustedError("disk full"));
  const TensorView tensors[] = {tensor};
  EXPECT_THAT(WriteSafetensors(fs, path, tensors, {}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("disk full")));
  EXPECT_EQ(ReadAll(path), "old");
}

class SafetensorsFolder : public ::testing::Test {
 protected:
  void Tensor(const std::string& file, const std::string& name) { Tensors(file, {name}); }
  void Tensors(const std::string& file, const std::vector<std::string>& names) {
    std::vector<TensorView> tensors;
    for (const std::string& name : names) tensors.push_back({name, DType::kU8, {4}, Bytes(data_)});
    ASSERT_TRUE(
        WriteSafetensors(PosixFileSystem(), dir_.Join(file), tensors, {{"format", "pt"}}).ok());
  }
  void Index(const std::string& weight_map) {
    ASSERT_TRUE(
        PosixFileSystem()
            .WriteFileAtomic(dir_.Join("model.safetensors.index.json"),
                             R"({"metadata":{"total_size":8},"weight_map":)" + weight_map + "}")
            .ok());
  }
  absl::StatusOr<SafetensorsFile> Open() {
    return SafetensorsFile::OpenFolder(PosixFileSystem(), dir_.path());
  }
  const std::string data_ = "data";
  TempDir dir_;
};

TEST_F(SafetensorsFolder, EmptyFolderIsNotFound) {
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no model.safetensors")));
}

TEST_F(SafetensorsFolder, ReadsASingleFile) {
  Tensor("model.safetensors", "a");
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile file, Open());
  EXPECT_NE(file.Find("a"), nullptr);
}

TEST_F(SafetensorsFolder, ReadsAllFilesOfTheIndexAsOneSet) {
  Tensors("m-1.safetensors", {"c", "a"});
  Tensor("m-2.safetensors", "b");
  Index(R"({"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"})");
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile file, Open());
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[1].name, "b");
  EXPECT_EQ(std::memcmp(file.Find("b")->bytes.data(), "data", 4), 0);
}

TEST_F(SafetensorsFolder, IndexAndFilesHaveToAgree) {
  Tensors("m-1.safetensors", {"a", "b"});
  Tensor("m-2.safetensors", "b");
  const struct {
    const char* weight_map;
    const char* message;
  } rows[] = {
      {R"({"a":"m-1.safetensors","b":"m-2.safetensors"})", "duplicate tensor 'b'"},
      {R"({"a":"m-1.safetensors"})", "holds tensor 'b', which the index does not name"},
      {R"({"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"})",
       "duplicate tensor 'b'"},
      {R"({"b":"m-2.safetensors","c":"m-2.safetensors"})", "missing tensor 'c'"},
      {R"({"a":"../m-1.safetensors"})", "tensor 'a' is in"},
      {R"({"a":"m-1.bin"})", "tensor 'a' is in"},
      {R"({"a":1})", "tensor 'a' is in"},
      {R"({})", "weight_map is empty"},
      {R"([])", "no object weight_map"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.weight_map);
    Index(row.weight_map);
    EXPECT_THAT(Open(), StatusIs(kInvalid, HasSubstr(row.message)));
  }
}

TEST_F(SafetensorsFolder, IndexAndSingleFileTogetherAreAmbiguous) {
  Tensor("model.safetensors", "a");
  Tensor("m-1.safetensors", "a");
  Index(R"({"a":"m-1.safetensors"})");
  EXPECT_THAT(Open(), StatusIs(kInvalid, HasSubstr("both")));
}

TEST_F(SafetensorsFolder, AMissingFileIsNamed) {
  Index(R"({"a":"m-1.safetensors"})");
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("m-1.safetensors")));
}

}  // namespace
}  // namespace evolora
