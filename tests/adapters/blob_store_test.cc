#include "evolora/adapters/blob_store.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "evolora/core/sha256.h"
#include "support/failing_file_system.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::CrashPoint;
using ::evolora::testing::FailingFileSystem;
using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::HasSubstr;

class BlobStoreTest : public ::testing::Test {
 protected:
  // Replaces the bytes of a blob behind the store's back.
  void Damage(const std::string& digest, const std::string& bytes) {
    const std::string path = store_.PathOf(digest);
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }

  TempDir dir_;
  BlobStore store_{PosixFileSystem(), dir_.Join("blobs")};
};

TEST_F(BlobStoreTest, KeepsBytesUnderTheirDigestReadOnly) {
  const std::string bytes("a\0b\xff", 4);
  ASSERT_OK_AND_ASSIGN(const std::string digest, store_.Put(bytes));
  EXPECT_EQ(digest, Sha256Hex(bytes));
  EXPECT_EQ(store_.PathOf(digest), dir_.Join("blobs/sha256/") + digest.substr(0, 2) + "/" + digest);
  struct stat info {};
  ASSERT_EQ(stat(store_.PathOf(digest).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0444u);
  ASSERT_OK_AND_ASSIGN(const std::string back, store_.Get(digest));
  EXPECT_EQ(back, bytes);
  EXPECT_TRUE(store_.Has(digest));
}

TEST_F(BlobStoreTest, PuttingTwiceWritesOnce) {
  ASSERT_THAT(store_.Put("x"), IsOk());
  FailingFileSystem files(PosixFileSystem());
  BlobStore second(files, dir_.Join("blobs"));
  ASSERT_THAT(second.Put("x"), IsOk());
  EXPECT_EQ(files.num_mutations(), 0);
}

TEST_F(BlobStoreTest, NamesADamagedBlobAndHealsItWhenPutAgain) {
  ASSERT_OK_AND_ASSIGN(const std::string digest, store_.Put("right"));
  Damage(digest, "wrong");
  EXPECT_THAT(store_.Get(digest), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(digest)));
  ASSERT_THAT(store_.Put("right"), IsOk());
  EXPECT_THAT(store_.Verify(digest), IsOk());
}

TEST_F(BlobStoreTest, RefusesWhatIsNoDigestOrNotThere) {
  EXPECT_THAT(store_.Get("../../etc/passwd"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a blob digest")));
  EXPECT_THAT(store_.Get(Sha256Hex("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(Sha256Hex("none"))));
  EXPECT_FALSE(store_.Has("zz"));
}

TEST_F(BlobStoreTest, JsonIsKeptInCanonicalForm) {
  ASSERT_OK_AND_ASSIGN(const std::string digest, store_.PutJson({{"b", 1}, {"a", 2}}));
  EXPECT_EQ(digest, Sha256Hex("{\"a\":2,\"b\":1}"));
  ASSERT_OK_AND_ASSIGN(const Json back, store_.GetJson(digest));
  EXPECT_EQ(back["b"], 1);
  ASSERT_OK_AND_ASSIGN(const std::string text, store_.Put("no json"));
  EXPECT_THAT(store_.GetJson(text), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("not JSON")));
}

TEST_F(BlobStoreTest, TreeDoesNotDependOnOrderAndRoundTrips) {
  const std::vector<BlobFile> files = {{"b.bin", "2"}, {"a.json", "{}"}};
  ASSERT_OK_AND_ASSIGN(const std::string tree, store_.PutTree(files));
  ASSERT_OK_AND_ASSIGN(const std::string same, store_.PutTree({{"a.json", "{}"}, {"b.bin", "2"}}));
  EXPECT_EQ(tree, same);
  ASSERT_OK_AND_ASSIGN(const std::vector<TreeEntry> entries, store_.GetTree(tree));
  EXPECT_EQ(entries,
            (std::vector<TreeEntry>{{"a.json", Sha256Hex("{}"), 2}, {"b.bin", Sha256Hex("2"), 1}}));
  ASSERT_THAT(store_.ExportTree(tree, dir_.Join("out")), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::string again, store_.PutDirectory(dir_.Join("out")));
  EXPECT_EQ(again, tree);
  EXPECT_THAT(store_.VerifyTree(tree), IsOk());
}

TEST_F(BlobStoreTest, TreeRefusesBadNames) {
  for (const char* name : {"", ".", "..", ".hidden", "a/b", "a\\b", "a b", "/abs"}) {
    EXPECT_THAT(store_.PutTree({{name, "x"}}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("plain file name")));
  }
  EXPECT_THAT(store_.PutTree({{"a", "x"}, {"a", "y"}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a stands twice")));
  EXPECT_THAT(store_.PutTree({}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no file")));
  std::filesystem::create_directories(dir_.Join("in/sub"));
  EXPECT_THAT(store_.PutDirectory(dir_.Join("in")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sub")));
}

TEST_F(BlobStoreTest, VerifyTreeFindsEachKindOfFault) {
  ASSERT_OK_AND_ASSIGN(const std::string tree, store_.PutTree({{"f", "bytes"}}));
  Damage(Sha256Hex("bytes"), "bytez");
  EXPECT_THAT(store_.VerifyTree(tree),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr(Sha256Hex("bytes"))));
  const std::string digest = Sha256Hex("x");
  for (const Json& document :
       {Json(3), Json::array(), Json::array({{{"name", "a"}, {"digest", digest}}}),
        Json::array({{{"name", "../a"}, {"digest", digest}, {"size", 1}}}),
        Json::array({{{"name", "a"}, {"digest", "x"}, {"size", 1}}}),
        Json::array({{{"name", "b"}, {"digest", digest}, {"size", 1}},
                     {{"name", "a"}, {"digest", digest}, {"size", 1}}})}) {
    ASSERT_OK_AND_ASSIGN(const std::string bad, store_.PutJson(document));
    EXPECT_THAT(store_.GetTree(bad),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("not a tree")));
  }
  ASSERT_THAT(store_.Put("x"), IsOk());
  ASSERT_OK_AND_ASSIGN(
      const std::string wrong_size,
      store_.PutJson(Json::array({{{"name", "a"}, {"digest", digest}, {"size", 2}}})));
  EXPECT_THAT(store_.VerifyTree(wrong_size),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("lists 2 bytes for a")));
}

// Dies at every file operation in every way; what is under a digest afterwards is right or absent.
TEST_F(BlobStoreTest, ACrashLeavesBlobsCompleteOrAbsent) {
  const std::vector<BlobFile> files = {{"a", "first"}, {"b", "second"}};
  for (const CrashPoint point : {CrashPoint::kBefore, CrashPoint::kTorn, CrashPoint::kAfter}) {
    for (int n = 1;; ++n) {
      SCOPED_TRACE(n);
      TempDir dir;
      FailingFileSystem failing(PosixFileSystem());
      failing.CrashAt(n, point);
      const auto result = BlobStore(failing, dir.path()).PutTree(files);
      if (!failing.crashed()) {
        EXPECT_THAT(result, IsOk());
        EXPECT_GT(n, 6);
        break;
      }
      EXPECT_FALSE(result.ok());
      BlobStore store(PosixFileSystem(), dir.path());
      for (const char* bytes : {"first", "second"}) {
        const std::string digest = Sha256Hex(bytes);
        EXPECT_TRUE(!store.Has(digest) || store.Verify(digest).ok());
      }
      ASSERT_OK_AND_ASSIGN(const std::string tree, store.PutTree(files));
      EXPECT_THAT(store.VerifyTree(tree), IsOk());
    }
  }
}

TEST_F(BlobStoreTest, AFullDiskIsReportedWithTheDigest) {
  FailingFileSystem files(PosixFileSystem());
  files.FailAt(2, absl::ResourceExhaustedError("disk full"));
  EXPECT_THAT(BlobStore(files, dir_.path()).Put("x"),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(Sha256Hex("x"))));
}

}  // namespace
}  // namespace evolora
