#include "evolora/trainers/work_folder_lock.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A process that holds the lock until it is killed.
class Holder {
 public:
  explicit Holder(const std::string& folder) {
    int ready[2];
    if (pipe(ready) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      const auto lock = WorkFolderLock::Take(folder);
      const char taken = lock.ok() ? '1' : '0';
      if (write(ready[1], &taken, 1) == 1) pause();
      _exit(0);
    }
    close(ready[1]);
    char taken = '0';
    holds_ = read(ready[0], &taken, 1) == 1 && taken == '1';
    close(ready[0]);
  }
  ~Holder() { Kill(); }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  bool holds() const { return holds_; }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  bool holds_ = false;
};

TEST(WorkFolderLock, TheSecondProcessIsToldTheFolderAndTheFirstOne) {
  const TempDir folder;
  const Holder first(folder.path());
  ASSERT_TRUE(first.holds());
  EXPECT_THAT(WorkFolderLock::Take(folder.path()),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(folder.path()),
                             HasSubstr(absl::StrCat("process ", first.pid(), " trains")))));
}

TEST(WorkFolderLock, DiesWithItsHolder) {
  const TempDir folder;
  Holder first(folder.path());
  ASSERT_TRUE(first.holds());
  first.Kill();
  EXPECT_THAT(WorkFolderLock::Take(folder.path()), IsOk());
}

TEST(WorkFolderLock, IsFreeAfterItsObjectAndMovesWithIt) {
  const TempDir folder;
  {
    ASSERT_OK_AND_ASSIGN(WorkFolderLock lock, WorkFolderLock::Take(folder.path()));
    const WorkFolderLock moved = std::move(lock);
    EXPECT_THAT(WorkFolderLock::Take(folder.path()),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(absl::StrCat(getpid()))));
  }
  EXPECT_THAT(WorkFolderLock::Take(folder.path()), IsOk());
  EXPECT_THAT(WorkFolderLock::Take(folder.path() + "/missing"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("missing/lock")));
}

}  // namespace
}  // namespace evolora
