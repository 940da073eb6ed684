#include "evolora/data/array_file.h"

#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/file_system.h"
#include "evolora/core/sha256.h"
#include "foreign_hdf5.h"
#include "support/failing_file_system.h"
#include "support/mutate.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

ArrayFile Sample() {
  ArrayFile file;
  file.arrays["f32"] = {std::vector<float>{1, -2.5f, std::numeric_limits<float>::denorm_min()},
                        {3}};
  file.arrays["f64"] = {std::vector<double>{1e300, 0.1, -0.0, 4}, {2, 2}};
  file.arrays["i64"] = {std::vector<int64_t>{INT64_MIN, INT64_MAX}, {1, 2, 1}};
  file.arrays["i32.ids"] = {std::vector<int32_t>{INT32_MIN, 7}, {2}};
  file.arrays["u8-text"] = {std::vector<uint8_t>{0, 255, 10}, {3}};
  file.arrays["scalar"] = {std::vector<float>{3}, {}};
  file.arrays["empty"] = {std::vector<int32_t>{}, {0, 4}};
  file.attributes["kind"] = std::string("training set \xC3\xA9");
  file.attributes["blank"] = std::string();
  file.attributes["step"] = int64_t{-9};
  file.attributes["rate"] = 2e-4;
  return file;
}

class ArrayFileTest : public ::testing::Test {
 protected:
  std::string Write(const ArrayFile& content) {
    EXPECT_THAT(WriteArrayFile(PosixFileSystem(), path_, content), IsOk());
    return *PosixFileSystem().ReadFile(path_, 1 << 24);
  }
  absl::StatusOr<ArrayFile> ReadBytes(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary).write(bytes.data(), static_cast<int64_t>(bytes.size()));
    return ReadArrayFile(PosixFileSystem(), path_);
  }
  // Makes the digest right again, so that the bytes reach HDF5.
  static std::string Reseal(std::string bytes) {
    const std::string digest =
        absl::HexStringToBytes(Sha256Hex(absl::string_view(bytes).substr(512)));
    return bytes.replace(32, 32, digest);
  }

  testing::TempDir dir_;
  std::string path_ = dir_.Join("x.h5");
};

TEST_F(ArrayFileTest, ReadsBackWhatWasWritten) {
  const ArrayFile content = Sample();
  Write(content);
  ASSERT_OK_AND_ASSIGN(const ArrayFile back, ReadArrayFile(PosixFileSystem(), path_));
  EXPECT_EQ(back.arrays, content.arrays);
  EXPECT_EQ(back.attributes, content.attributes);
  ASSERT_OK_AND_ASSIGN(const auto ids, back.Values<int32_t>("i32.ids"));
  EXPECT_EQ(ids[1], 7);
  EXPECT_THAT(back.Values<float>("i32.ids"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("i32.ids")));
  EXPECT_THAT(back.Values<float>("none"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

TEST_F(ArrayFileTest, ManyArraysAndAnEmptyFileSurvive) {
  Write({});
  EXPECT_THAT(ReadArrayFile(PosixFileSystem(), path_), IsOk());
  ArrayFile many;
  for (int i = 0; i < 700; ++i) {
    many.arrays[absl::StrCat("layers.", i, ".q.A")] = {std::vector<float>(5, i), {5}};
    many.attributes[absl::StrCat("a", i)] = int64_t{i};
  }
  Write(many);
  ASSERT_OK_AND_ASSIGN(const ArrayFile back, ReadArrayFile(PosixFileSystem(), path_));
  EXPECT_EQ(back.arrays, many.arrays);
  EXPECT_EQ(back.attributes, many.attributes);
}

TEST_F(ArrayFileTest, EqualContentGivesEqualBytes) {
  const std::string first = Write(Sample());
  EXPECT_EQ(first, Write(Sample()));
}

TEST_F(ArrayFileTest, OrdinaryHdf5ProgramsCanReadIt) {
  Write(Sample());
  EXPECT_EQ(testing::ReadPlainHdf5(path_, "f32", 3),
            std::get<std::vector<float>>(Sample().arrays["f32"].values));
}

TEST_F(ArrayFileTest, RefusesBadContentByName) {
  struct Row {
    const char* name;
    ArrayFile content;
    const char* words;
  };
  ArrayFile shape, negative, slash, dot, empty, text, nul;
  shape.arrays["a"] = {std::vector<float>(5), {2, 3}};
  negative.arrays["a"] = {std::vector<float>(), {-1}};
  slash.arrays["a/b"] = {std::vector<float>(1), {1}};
  dot.arrays["."] = {std::vector<float>(1), {1}};
  empty.attributes[""] = 1.0;
  text.attributes["t"] = std::string(40000, 'x');
  nul.attributes["t"] = std::string("a\0b", 3);
  ArrayFile rank;
  rank.arrays["r"] = {std::vector<float>(1), std::vector<int64_t>(9, 1)};
  for (const Row& row :
       {Row{"shape", shape, "[2,3] but 5 values"}, Row{"negative", negative, "'a'"},
        Row{"slash", slash, "a/b"}, Row{"dot", dot, "'.'"},
        Row{"empty name", empty, "attribute ''"}, Row{"long", text, "40000"},
        Row{"NUL", nul, "'t'"}, Row{"rank", rank, "'r'"}}) {
    SCOPED_TRACE(row.name);
    EXPECT_THAT(WriteArrayFile(PosixFileSystem(), path_, row.content),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.words)));
  }
  EXPECT_FALSE(PosixFileSystem().Exists(path_));
}

TEST_F(ArrayFileTest, EveryTruncationAndEveryBitFlipIsDataLoss) {
  const std::string good = Write(Sample());
  for (size_t size = 0; size < good.size(); size += 97) {
    EXPECT_THAT(ReadBytes(good.substr(0, size)),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("")));
  }
  for (size_t at = 0; at < good.size(); at += 61) {
    std::string bad = good;
    bad[at] ^= 4;
    const absl::Status status = ReadBytes(bad).status();
    // A changed version number is the one honest "newer" there can be.
    const bool is_version = at >= 16 && at < 20;
    EXPECT_EQ(status.code(),
              is_version ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kDataLoss)
        << at << status;
  }
  EXPECT_THAT(ReadBytes(good + "x"), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("grown")));
}

TEST_F(ArrayFileTest, MutationsNeverReachTheParser) {
  const std::string good = Write(Sample());
  testing::RunMutations({good}, 500, 11, [this, &good](const std::string& bytes) {
    const auto result = ReadBytes(bytes);
    EXPECT_TRUE(bytes == good || !result.ok());
    if (absl::IsFailedPrecondition(result.status())) return absl::DataLossError("version");
    return result.status();
  });
}

TEST_F(ArrayFileTest, ForeignHdf5ObjectsAreRefusedByName) {
  for (const testing::ForeignFile& file : testing::MakeForeignFiles(dir_.path())) {
    SCOPED_TRACE(file.what);
    EXPECT_THAT(ReadBytes(file.bytes),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(file.object)));
  }
}

TEST_F(ArrayFileTest, ResealedGarbageIsRefusedByHdf5WithItsWords) {
  std::string bytes = Write(Sample());
  bytes[512 + 8] = 77;  // superblock version
  EXPECT_THAT(ReadBytes(Reseal(bytes)), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("H5")));
}

TEST_F(ArrayFileTest, LimitsHold) {
  Write(Sample());
  EXPECT_THAT(ReadArrayFile(PosixFileSystem(), path_, {.max_bytes = 100}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("100")));
  EXPECT_THAT(ReadArrayFile(PosixFileSystem(), path_, {.max_objects = 2}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("2 arrays")));
}

TEST_F(ArrayFileTest, ACrashLeavesTheOldOrTheNewFile) {
  const std::string old_bytes = Write({});
  for (const testing::CrashPoint point :
       {testing::CrashPoint::kBefore, testing::CrashPoint::kTorn, testing::CrashPoint::kAfter}) {
    Write({});
    testing::FailingFileSystem files(PosixFileSystem());
    files.CrashAt(1, point);
    EXPECT_FALSE(WriteArrayFile(files, path_, Sample()).ok());
    ASSERT_OK_AND_ASSIGN(const ArrayFile found, ReadArrayFile(PosixFileSystem(), path_));
    EXPECT_TRUE(found.arrays.empty() || found.arrays == Sample().arrays);
  }
}

}  // namespace
}  // namespace evolora
