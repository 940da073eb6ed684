// The metrics of a run: event files byte by byte as TensorBoard writes them, and every step once
// whatever interrupts the run. tools/golden/tensorboard_golden.py wrote the golden file.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "evolora/core/file_system.h"
#include "evolora/data/array_file.h"
#include "metrics_files.h"
#include "support/failing_file_system.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"
#include "tensorboard_events.h"

namespace evolora {
namespace {

using ::evolora::testing::CrashPoint;
using ::evolora::testing::FailingFileSystem;
using ::evolora::testing::IsOk;
using ::evolora::testing::SourcePath;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Bytes(const std::string& path) {
  const auto bytes = PosixFileSystem().ReadFile(path, 1 << 20);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.value_or("");
}

// Steps 1..n; each value tells its step.
std::vector<StepReport> History(int64_t n) {
  std::vector<StepReport> history;
  for (int64_t step = 1; step <= n; ++step) {
    history.push_back({.step = step,
                       .total_steps = 100,
                       .loss = 4.0 / static_cast<double>(step),
                       .grad_norm = 0.5,
                       .learning_rate = 1e-3,
                       .tokens = 10 * step,
                       .labelled_tokens = step,
                       .seconds = 2,
                       .unix_ms = 1'700'000'000'000 + 2000 * step});
  }
  return history;
}

uint64_t Little(const std::string& bytes, size_t at, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) {
    value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[at + i])) << (8 * i);
  }
  return value;
}

// The payloads of a file of records, lengths and sums checked.
std::vector<std::string> Records(const std::string& bytes) {
  std::vector<std::string> records;
  const auto masked = [](uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; };
  for (size_t at = 0; at + 16 <= bytes.size();) {
    const uint64_t length = Little(bytes, at, 8);
    EXPECT_EQ(Little(bytes, at + 8, 4), masked(Crc32c(bytes.substr(at, 8))));
    records.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(Little(bytes, at + 12 + length, 4), masked(Crc32c(records.back())));
    at += 16 + length;
  }
  return records;
}

// Steps in the event files of a folder, in the order TensorBoard reads them. A step's record starts
// with its 9 bytes of wall time, then 0x10 and the step, here below 128.
std::vector<int64_t> StepsInEvents(const std::string& folder) {
  std::vector<int64_t> steps;
  const auto names = PosixFileSystem().ListDirectory(folder);
  EXPECT_TRUE(names.ok());
  for (const std::string& name : *names) {
    if (name.find("tfevents") == std::string::npos || name.find(".tmp-") != std::string::npos) {
      continue;
    }
    const std::vector<std::string> records = Records(Bytes(JoinPath(folder, name)));
    EXPECT_EQ(records.front().substr(11), "brain.Event:2");
    for (size_t i = 1; i < records.size(); ++i) steps.push_back(records[i][10]);
  }
  return steps;
}

std::vector<int64_t> OneTo(int64_t n) {
  std::vector<int64_t> steps;
  for (int64_t i = 1; i <= n; ++i) steps.push_back(i);
  return steps;
}

TEST(TensorBoardEvents, EqualTensorBoardsOwnBytes) {
  constexpr double kStart = 1'700'000'000.25;
  const std::string ours =
      TensorBoardStart(kStart) +
      TensorBoardStep(kStart, 1, {{"train/loss", 2.5}, {"train/tokens", 512}}) +
      TensorBoardStep(kStart + 1.5, 300, {{"train/loss", 0.1}, {"train/tokens", 0}});
  EXPECT_EQ(ours, Bytes(SourcePath("tests/golden/metrics/events.bin")));
}

TEST(TensorBoardEvents, Crc32cGivesThePublishedValues) {
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);  // the check value of CRC-32C
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
}

TEST(MetricsFiles, HoldEveryStepInBothForms) {
  const TempDir folder;
  MetricsFiles metrics(PosixFileSystem(), folder.path(), "job");
  ASSERT_THAT(metrics.Start({}), IsOk());
  ASSERT_THAT(metrics.Write(History(3)), IsOk());
  ASSERT_THAT(metrics.Write(History(3)), IsOk());  // nothing new
  ASSERT_THAT(metrics.Write(History(5)), IsOk());
  EXPECT_EQ(StepsInEvents(folder.path()), OneTo(5));
  ASSERT_OK_AND_ASSIGN(const ArrayFile file,
                       ReadArrayFile(PosixFileSystem(), folder.path() + "/metrics.h5"));
  ASSERT_OK_AND_ASSIGN(const auto steps, file.Values<int64_t>("step"));
  EXPECT_THAT(steps, ElementsAre(1, 2, 3, 4, 5));
  ASSERT_OK_AND_ASSIGN(const auto loss, file.Values<double>("loss"));
  EXPECT_EQ(loss[3], 1.0);
  ASSERT_OK_AND_ASSIGN(const auto rate, file.Values<double>("tokens_per_second"));
  EXPECT_EQ(rate[1], 10.0);  // 20 tokens in 2 s
  ASSERT_OK_AND_ASSIGN(const auto labelled, file.Values<int64_t>("labelled_tokens"));
  EXPECT_EQ(labelled[4], 5);
}

TEST(MetricsFiles, HoldWhatTheObjectiveSaysOfAStep) {
  const TempDir folder;
  std::vector<StepReport> history = History(2);
  history[0].figures = {{"reward_margin", 0.5}, {"kl", 0.25}};
  history[1].figures = {{"reward_margin", 1.5}, {"kl", 0.75}};
  MetricsFiles metrics(PosixFileSystem(), folder.path(), "job");
  ASSERT_THAT(metrics.Start(history), IsOk());
  ASSERT_OK_AND_ASSIGN(const ArrayFile file,
                       ReadArrayFile(PosixFileSystem(), folder.path() + "/metrics.h5"));
  ASSERT_OK_AND_ASSIGN(const auto margin, file.Values<double>("figures_reward_margin"));
  EXPECT_THAT(margin, ElementsAre(0.5, 1.5));
  ASSERT_OK_AND_ASSIGN(const auto kl, file.Values<double>("figures_kl"));
  EXPECT_THAT(kl, ElementsAre(0.25, 0.75));
  const std::string events = Bytes(folder.path() + "/events.out.tfevents.0000000001.evolora");
  EXPECT_THAT(Records(events)[2], HasSubstr("train/reward_margin"));
}

TEST(MetricsFiles, AResumedRunWritesNoStepTwice) {
  const TempDir folder;
  for (const int64_t resumed_at : {0, 2, 3, 4, 6}) {
    SCOPED_TRACE(resumed_at);
    MetricsFiles broken(PosixFileSystem(), folder.path(), "job");
    ASSERT_THAT(broken.Start({}), IsOk());
    ASSERT_THAT(broken.Write(History(3)), IsOk());
    ASSERT_THAT(broken.Write(History(6)), IsOk());
    MetricsFiles resumed(PosixFileSystem(), folder.path(), "job");
    ASSERT_THAT(resumed.Start(History(resumed_at)), IsOk());
    EXPECT_EQ(StepsInEvents(folder.path()), OneTo(resumed_at));
    ASSERT_THAT(resumed.Write(History(8)), IsOk());
    EXPECT_EQ(StepsInEvents(folder.path()), OneTo(8));
  }
}

TEST(MetricsFiles, ACrashAtAnyWriteLeavesNoStepTwiceAfterTheResume) {
  for (const CrashPoint point : {CrashPoint::kBefore, CrashPoint::kTorn, CrashPoint::kAfter}) {
    bool crashed = true;
    for (int n = 1; crashed; ++n) {
      SCOPED_TRACE(n);
      const TempDir folder;
      FailingFileSystem failing(PosixFileSystem());
      failing.CrashAt(n, point);
      MetricsFiles dying(failing, folder.path(), "job");
      dying.Start(History(2)).IgnoreError();
      dying.Write(History(4)).IgnoreError();
      dying.Write(History(6)).IgnoreError();
      crashed = failing.crashed();
      MetricsFiles resumed(PosixFileSystem(), folder.path(), "job");
      ASSERT_THAT(resumed.Start(History(4)), IsOk());
      ASSERT_THAT(resumed.Write(History(7)), IsOk());
      EXPECT_EQ(StepsInEvents(folder.path()), OneTo(7));
    }
  }
}

TEST(MetricsFiles, AnotherJobsFolderIsRefusedAndForeignEventFilesStay) {
  const TempDir folder;
  const std::string foreign = folder.path() + "/events.out.tfevents.1700000000.host";
  ASSERT_THAT(PosixFileSystem().WriteFileAtomic(foreign, "x"), IsOk());
  MetricsFiles first(PosixFileSystem(), folder.path(), "first");
  ASSERT_THAT(first.Start(History(1)), IsOk());
  EXPECT_TRUE(PosixFileSystem().Exists(foreign));
  MetricsFiles second(PosixFileSystem(), folder.path(), "second");
  EXPECT_THAT(second.Start({}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another job")));
  ASSERT_THAT(PosixFileSystem().WriteFileAtomic(folder.path() + "/metrics.h5", "x"), IsOk());
  EXPECT_THAT(second.Start({}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no metrics file")));
}

}  // namespace
}  // namespace evolora
