// Kills a process at every file operation of SQLite and looks at what it left behind.
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "crash_vfs.h"
#include "evolora/adapters/registry.h"
#include "registry_cases.h"
#include "support/failing_file_system.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::CrashPoint;
using ::evolora::testing::FailingFileSystem;
using ::evolora::testing::FakeClock;
using ::evolora::testing::InstallCrashVfs;
using ::evolora::testing::IsOk;
using ::evolora::testing::kCrashExitCode;
using ::evolora::testing::PassingVerdict;
using ::evolora::testing::Snapshot;
using ::evolora::testing::StoredManifest;
using ::evolora::testing::TempDir;

// Distance between crash points. Forking is slow under sanitizers, which look at memory anyway.
#ifdef __SANITIZE_ADDRESS__
constexpr int kStride = 9;
#else
constexpr int kStride = 1;
#endif

const FakeClock& TestClock() {
  static const FakeClock clock;
  return clock;
}

std::unique_ptr<Registry> OpenAt(const std::string& home) {
  auto opened = Registry::Open(home, PosixFileSystem(), TestClock());
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? *std::move(opened) : nullptr;
}

// A change of a registry; the same call again after it has happened must do no harm.
using Change = std::function<absl::Status(Registry&)>;

// Runs `change` in a child that dies at SQLite's n-th operation. True: it came to the end.
bool SurvivesCrashAt(int n, bool torn, const std::string& home, const Change& change) {
  const pid_t child = fork();
  if (child == 0) {
    InstallCrashVfs(n, torn);
    auto opened = Registry::Open(home, PosixFileSystem(), TestClock());
    _exit(opened.ok() && change(**opened).ok() ? 0 : 1);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  const int code = WEXITSTATUS(status);
  EXPECT_TRUE(code == 0 || code == kCrashExitCode) << "exit code " << code;
  return code != kCrashExitCode;
}

void CopyHome(const std::string& from, const std::string& to) {
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
}

// Every crash of `change` leaves the state before it or after it, and trying again completes it
// once.
void ExpectOldOrNew(const std::string& home, const Change& change) {
  std::string before;
  std::string after;
  {
    TempDir dir;
    CopyHome(home, dir.Join("home"));
    const auto registry = OpenAt(dir.Join("home"));
    before = Snapshot(*registry);
    ASSERT_THAT(change(*registry), IsOk());
    after = Snapshot(*registry);
    ASSERT_NE(before, after);
  }
  for (const bool torn : {false, true}) {
    int num_old = 0;
    int num_new = 0;
    for (int n = 1;; n += kStride) {
      SCOPED_TRACE(n);
      TempDir dir;
      CopyHome(home, dir.Join("home"));
      if (SurvivesCrashAt(n, torn, dir.Join("home"), change)) break;
      const auto registry = OpenAt(dir.Join("home"));
      ASSERT_NE(registry, nullptr);
      const std::string found = Snapshot(*registry);
      ASSERT_TRUE(found == before || found == after) << found;
      (found == before ? num_old : num_new) += 1;
      const absl::Status again = change(*registry);
      EXPECT_TRUE(again.ok() || found == after) << again;
      EXPECT_EQ(Snapshot(*registry), after);
      EXPECT_THAT(registry->CheckIntegrity(), IsOk());
    }
    EXPECT_GE(num_old, kStride == 1 ? 5 : 1);  // the crashes did hit the transaction
    // Only the very last operation commits it.
    EXPECT_TRUE(kStride > 1 || num_new == (torn ? 1 : 0)) << num_new;
  }
}

// A home with champion `first` and an eligible `second`.
class RegistryCrash : public ::testing::Test {
 protected:
  void SetUp() override {
    home_ = dir_.Join("home");
    const auto registry = OpenAt(home_);
    first_ = registry->Register(StoredManifest(*registry, "first"))->id;
    ASSERT_THAT(registry->MoveAlias({"champion", first_, 0, "start", "first"}), IsOk());
    second_ = registry->Register(StoredManifest(*registry, "second", {first_}))->id;
    ASSERT_THAT(registry->RecordVerdict(second_, first_, PassingVerdict()), IsOk());
  }

  TempDir dir_;
  std::string home_;
  std::string first_;
  std::string second_;
};

TEST_F(RegistryCrash, RegistrationHappensOnceOrNotAtAll) {
  ExpectOldOrNew(home_, [&](Registry& registry) {
    return registry.Register(StoredManifest(registry, "third", {first_})).status();
  });
}

TEST_F(RegistryCrash, PromotionHappensOnceOrNotAtAll) {
  ExpectOldOrNew(home_, [&](Registry& registry) {
    return registry.MoveAlias({"champion", second_, 1, "passed"}).status();
  });
}

TEST_F(RegistryCrash, RollbackHappensOnceOrNotAtAll) {
  ASSERT_THAT(OpenAt(home_)->MoveAlias({"champion", second_, 1, "passed"}), IsOk());
  ExpectOldOrNew(home_, [&](Registry& registry) {
    return registry.Rollback({"champion", "", 2, "regression"}).status();
  });
}

TEST_F(RegistryCrash, AVerdictIsKeptOnceOrNotAtAll) {
  ExpectOldOrNew(home_, [&](Registry& registry) {
    GateVerdict verdict = PassingVerdict();
    verdict.reason = "second look";
    verdict.outcome = GateOutcome::kInconclusive;
    return registry.RecordVerdict(second_, first_, verdict).status();
  });
}

TEST(RegistryCreation, SurvivesACrashAnywhere) {
  const Change nothing = [](Registry&) { return absl::OkStatus(); };
  for (const bool torn : {false, true}) {
    int n = 1;
    for (;; n += kStride) {
      SCOPED_TRACE(n);
      TempDir dir;
      if (SurvivesCrashAt(n, torn, dir.Join("home"), nothing)) break;
      const auto registry = OpenAt(dir.Join("home"));
      ASSERT_NE(registry, nullptr);
      EXPECT_THAT(registry->Register(StoredManifest(*registry, "a")), IsOk());
      EXPECT_THAT(registry->CheckIntegrity(), IsOk());
    }
    EXPECT_GT(n, 10);
  }
}

// The blobs of a registration: a crash among them leaves no version behind.
TEST_F(RegistryCrash, ACrashWhileBlobsAreWrittenLeavesTheOldState) {
  const std::string before = Snapshot(*OpenAt(home_));
  for (const CrashPoint point : {CrashPoint::kBefore, CrashPoint::kTorn, CrashPoint::kAfter}) {
    for (int n = 1;; ++n) {
      TempDir dir;
      CopyHome(home_, dir.Join("home"));
      FailingFileSystem files(PosixFileSystem());
      bool registered = false;
      {
        ASSERT_OK_AND_ASSIGN(const auto registry,
                             Registry::Open(dir.Join("home"), files, TestClock()));
        files.CrashAt(files.num_mutations() + n, point);
        const auto blob = registry->blobs().PutJson({{"prompt", "new"}});
        if (blob.ok()) {
          VersionManifest manifest = registry->Resolve(first_)->manifest;
          manifest.artifacts.prompt = *blob;
          registered = registry->Register(manifest).ok();
        }
      }
      const auto registry = OpenAt(dir.Join("home"));
      EXPECT_THAT(registry->CheckIntegrity(), IsOk());
      EXPECT_EQ(Snapshot(*registry) == before, !registered);
      if (!files.crashed()) {
        EXPECT_TRUE(registered);
        break;
      }
    }
  }
}

}  // namespace
}  // namespace evolora
