#include "evolora/core/file_system.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "gmock/gmock.h"
#include "support/failing_file_system.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using testing::CrashPoint;
using ::testing::ElementsAre;
using testing::FailingFileSystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

constexpr uint64_t kNoLimit = 1 << 20;

class FileSystemTest : public ::testing::Test {
 protected:
  std::string Read(const std::string& path) { return fs_.ReadFile(path, kNoLimit).value_or("?"); }
  std::vector<std::string> Names() { return *fs_.ListDirectory(dir_.path()); }
  mode_t ModeOf(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(::stat(path.c_str(), &info), 0);
    return info.st_mode & 07777;
  }

  TempDir dir_;
  FileSystem& fs_ = PosixFileSystem();
  const std::string path_ = dir_.Join("file");
};

TEST_F(FileSystemTest, WriteFileAtomicReplacesTheWholeFileAndLeavesNothingElse) {
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "a longer first text"), IsOk());
  ASSERT_THAT(fs_.WriteFileAtomic(path_, std::string("b\0c", 3)), IsOk());
  EXPECT_EQ(Read(path_), std::string("b\0c", 3));
  EXPECT_THAT(Names(), ElementsAre("file"));
}

TEST_F(FileSystemTest, WriteFileAtomicSetsExactlyTheMode) {
  const mode_t old_mask = ::umask(077);
  EXPECT_THAT(fs_.WriteFileAtomic(path_, "x", 0444), IsOk());
  EXPECT_EQ(ModeOf(path_), 0444u);
  EXPECT_THAT(fs_.WriteFileAtomic(path_, "y"), IsOk());  // a read-only file can be replaced
  EXPECT_EQ(ModeOf(path_), 0644u);
  ::umask(old_mask);
}

TEST_F(FileSystemTest, WriteFileAtomicReplacesALinkAndNotItsTarget) {
  ASSERT_THAT(fs_.WriteFileAtomic(dir_.Join("target"), "old"), IsOk());
  ASSERT_EQ(::symlink("target", path_.c_str()), 0);
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "new"), IsOk());
  EXPECT_EQ(Read(dir_.Join("target")), "old");
  EXPECT_EQ(Read(path_), "new");
}

TEST_F(FileSystemTest, WriteFileAtomicPassesOverATempFileLeftByACrash) {
  for (int i = 0; i < 200; ++i) {
    std::ofstream(path_ + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(i)) << "torn";
  }
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "new"), IsOk());
  EXPECT_EQ(Read(path_), "new");
  EXPECT_EQ(Names().size(), 201u);
}

TEST_F(FileSystemTest, WriteFileAtomicNamesTheMissingFolder) {
  EXPECT_THAT(fs_.WriteFileAtomic(dir_.Join("no/file"), "x"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no/file")));
}

TEST_F(FileSystemTest, WriteFileAtomicOverAFolderKeepsTheFolder) {
  ASSERT_THAT(fs_.CreateDirectories(path_), IsOk());
  EXPECT_THAT(fs_.WriteFileAtomic(path_, "x"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("rename")));
  EXPECT_THAT(Names(), ElementsAre("file"));
}

TEST_F(FileSystemTest, ReplaceFilePublishesWhatTheWriterLeft) {
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "old"), IsOk());
  const auto write = [&](const std::string& temp) {
    std::ofstream(temp) << "new";
    EXPECT_EQ(Read(path_), "old");
    return absl::OkStatus();
  };
  ASSERT_THAT(fs_.ReplaceFile(path_, write, 0444), IsOk());
  EXPECT_EQ(Read(path_), "new");
  EXPECT_EQ(ModeOf(path_), 0444u);
}

TEST_F(FileSystemTest, ReplaceFileKeepsTheOldBytesWhenTheWriterFails) {
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "old"), IsOk());
  const auto write = [](const std::string& temp) {
    std::ofstream(temp) << "half";
    return absl::ResourceExhaustedError("disk full");
  };
  EXPECT_THAT(fs_.ReplaceFile(path_, write),
              StatusIs(absl::StatusCode::kResourceExhausted, "disk full"));
  EXPECT_EQ(Read(path_), "old");
  EXPECT_THAT(Names(), ElementsAre("file"));
}

TEST_F(FileSystemTest, ReplaceFileRefusesAWriterThatLeftNoFile) {
  const auto nothing = [](const std::string&) { return absl::OkStatus(); };
  EXPECT_THAT(fs_.ReplaceFile(path_, nothing),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("")));
  const auto folder = [](const std::string& temp) {
    return ::mkdir(temp.c_str(), 0755) == 0 ? absl::OkStatus() : absl::InternalError("mkdir");
  };
  EXPECT_THAT(fs_.ReplaceFile(path_, folder),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not a regular file")));
  EXPECT_FALSE(fs_.Exists(path_));
}

TEST_F(FileSystemTest, ReadFileHoldsToItsLimit) {
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "12345"), IsOk());
  EXPECT_EQ(*fs_.ReadFile(path_, 5), "12345");
  EXPECT_THAT(fs_.ReadFile(path_, 4),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("5 bytes, the limit is 4")));
}

TEST_F(FileSystemTest, ReadFileReadsFilesThatClaimToBeEmpty) {
  ASSERT_OK_AND_ASSIGN(const std::string text, fs_.ReadFile("/proc/self/status", kNoLimit));
  EXPECT_THAT(text, HasSubstr("Name:"));
  EXPECT_THAT(fs_.ReadFile("/proc/self/status", 10),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("the limit is 10")));
}

TEST_F(FileSystemTest, OnlyRegularFilesAreRead) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  const auto not_regular =
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(path_ + ": not a regular file"));
  EXPECT_THAT(fs_.ReadFile(path_, kNoLimit), not_regular);
  EXPECT_THAT(fs_.Map(path_), not_regular);
  EXPECT_THAT(fs_.FileSize(path_), not_regular);
  EXPECT_THAT(fs_.ReadFile(dir_.path(), kNoLimit),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not a regular file")));
}

TEST_F(FileSystemTest, MissingFilesAreNotFound) {
  const auto missing = StatusIs(absl::StatusCode::kNotFound, HasSubstr(path_));
  EXPECT_THAT(fs_.ReadFile(path_, kNoLimit), missing);
  EXPECT_THAT(fs_.Map(path_), missing);
  EXPECT_THAT(fs_.FileSize(path_), missing);
  EXPECT_THAT(fs_.ListDirectory(path_), missing);
  EXPECT_THAT(fs_.Rename(path_, dir_.Join("b")), missing);
  EXPECT_FALSE(fs_.Exists(path_));
}

TEST_F(FileSystemTest, MapOutlivesTheFilesName) {
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "mapped"), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto map, fs_.Map(path_));
  ASSERT_THAT(fs_.RemoveFile(path_), IsOk());
  EXPECT_EQ(std::string(map->bytes().begin(), map->bytes().end()), "mapped");
}

TEST_F(FileSystemTest, MapOfAnEmptyFileIsEmpty) {
  ASSERT_THAT(fs_.WriteFileAtomic(path_, ""), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto map, fs_.Map(path_));
  EXPECT_TRUE(map->bytes().empty());
  EXPECT_EQ(*fs_.FileSize(path_), 0u);
}

TEST_F(FileSystemTest, CreateDirectoriesMakesParentsAndMayBeRepeated) {
  EXPECT_THAT(fs_.CreateDirectories(dir_.Join("a/b/c/")), IsOk());
  EXPECT_THAT(fs_.CreateDirectories(dir_.Join("a/b/c")), IsOk());
  EXPECT_TRUE(fs_.Exists(dir_.Join("a/b/c")));
}

TEST_F(FileSystemTest, CreateDirectoriesRefusesAFileInTheWay) {
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "x"), IsOk());
  EXPECT_THAT(fs_.CreateDirectories(path_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(path_)));
  EXPECT_THAT(fs_.CreateDirectories(path_ + "/below"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(path_)));
}

TEST_F(FileSystemTest, ListDirectorySortsByByte) {
  for (const char* name : {"b", "B", "a", ".hidden", "a-1"}) {
    ASSERT_THAT(fs_.WriteFileAtomic(dir_.Join(name), "x"), IsOk());
  }
  EXPECT_THAT(Names(), ElementsAre(".hidden", "B", "a", "a-1", "b"));
}

TEST_F(FileSystemTest, RenameMovesBetweenFoldersAndReplaces) {
  ASSERT_THAT(fs_.CreateDirectories(dir_.Join("to")), IsOk());
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "new"), IsOk());
  ASSERT_THAT(fs_.WriteFileAtomic(dir_.Join("to/file"), "old"), IsOk());
  ASSERT_THAT(fs_.Rename(path_, dir_.Join("to/file")), IsOk());
  EXPECT_EQ(Read(dir_.Join("to/file")), "new");
  EXPECT_FALSE(fs_.Exists(path_));
}

TEST_F(FileSystemTest, RemovingWhatIsNotThereIsFine) {
  EXPECT_THAT(fs_.RemoveFile(path_), IsOk());
  EXPECT_THAT(fs_.RemoveTree(path_), IsOk());
}

TEST_F(FileSystemTest, RemoveTreeDoesNotFollowLinks) {
  ASSERT_THAT(fs_.CreateDirectories(dir_.Join("tree/deep")), IsOk());
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "kept"), IsOk());
  ASSERT_EQ(::symlink("../file", dir_.Join("tree/link").c_str()), 0);
  ASSERT_THAT(fs_.RemoveTree(dir_.Join("tree")), IsOk());
  EXPECT_EQ(Read(path_), "kept");
  EXPECT_THAT(Names(), ElementsAre("file"));
}

TEST(JoinPath, PutsOneSlashBetween) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b/c"), "a/b/c");
  EXPECT_EQ(JoinPath("/", "b"), "/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
  EXPECT_EQ(JoinPath("a", ""), "a");
}

TEST(JoinPathDeathTest, RefusesAnAbsoluteName) { EXPECT_DEATH(JoinPath("a", "/b"), "relative"); }

TEST_F(FileSystemTest, FailingFileSystemFailsOnceAtTheNthMutation) {
  FailingFileSystem fs(fs_);
  fs.FailAt(2, absl::ResourceExhaustedError("disk full"));
  EXPECT_THAT(fs.WriteFileAtomic(path_, "1", 0644), IsOk());
  EXPECT_THAT(fs.WriteFileAtomic(path_, "2", 0644),
              StatusIs(absl::StatusCode::kResourceExhausted, "disk full"));
  EXPECT_EQ(*fs.ReadFile(path_, kNoLimit), "1");
  EXPECT_THAT(fs.WriteFileAtomic(path_, "3", 0644), IsOk());
  EXPECT_EQ(Read(path_), "3");
  EXPECT_EQ(fs.num_mutations(), 3);
}

TEST_F(FileSystemTest, FailingFileSystemIsDeadAfterItsCrash) {
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "old"), IsOk());
  FailingFileSystem fs(fs_);
  fs.CrashAt(1, CrashPoint::kBefore);
  const auto dead = StatusIs(absl::StatusCode::kUnavailable, HasSubstr("crashed"));
  EXPECT_FALSE(fs.crashed());
  EXPECT_THAT(fs.RemoveFile(path_), dead);
  EXPECT_TRUE(fs.crashed());
  EXPECT_THAT(fs.CreateDirectories(dir_.Join("a")), dead);
  EXPECT_THAT(fs.Rename(path_, dir_.Join("b")), dead);
  EXPECT_THAT(fs.RemoveTree(dir_.path()), dead);
  EXPECT_THAT(fs.ReadFile(path_, kNoLimit), dead);
  EXPECT_THAT(fs.Map(path_), dead);
  EXPECT_THAT(fs.FileSize(path_), dead);
  EXPECT_THAT(fs.ListDirectory(dir_.path()), dead);
  EXPECT_FALSE(fs.Exists(path_));
  EXPECT_EQ(fs.num_mutations(), 1);
  EXPECT_EQ(Read(path_), "old");
  EXPECT_THAT(Names(), ElementsAre("file"));
}

TEST_F(FileSystemTest, FailingFileSystemTearsIntoATempFile) {
  ASSERT_THAT(fs_.WriteFileAtomic(path_, "old"), IsOk());
  FailingFileSystem atomic(fs_);
  atomic.CrashAt(1, CrashPoint::kTorn);
  EXPECT_FALSE(atomic.WriteFileAtomic(path_, "12345678", 0644).ok());
  EXPECT_EQ(Read(path_), "old");
  EXPECT_EQ(Read(path_ + ".tmp-crash"), "1234");

  FailingFileSystem replaced(fs_);
  replaced.CrashAt(1, CrashPoint::kTorn);
  const auto write = [](const std::string& temp) {
    std::ofstream(temp) << "abcdef";
    return absl::OkStatus();
  };
  EXPECT_FALSE(replaced.ReplaceFile(path_, write, 0644).ok());
  EXPECT_EQ(Read(path_), "old");
  EXPECT_EQ(Read(path_ + ".tmp-crash"), "abc");
}

TEST_F(FileSystemTest, FailingFileSystemMayCrashAfterTheEffect) {
  FailingFileSystem fs(fs_);
  fs.CrashAt(1, CrashPoint::kAfter);
  EXPECT_FALSE(fs.WriteFileAtomic(path_, "new", 0644).ok());
  EXPECT_EQ(Read(path_), "new");
}

}  // namespace
}  // namespace evolora
