#include "evolora/pipeline/training_process.h"

#include <sys/stat.h>

#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

// A program in the child's place that says what it was asked for and fails.
class TrainingProcessTest : public ::testing::Test {
 protected:
  absl::Status Train(TrainingProcessOptions options) {
    options.executable = JoinPath(directory_.path(), "program.sh");
    EXPECT_TRUE(
        PosixFileSystem()
            .WriteFileAtomic(options.executable, "#!/bin/sh\necho \"asked: $*\" >&2\nexit 3\n")
            .ok());
    chmod(options.executable.c_str(), 0755);
    const auto home = Home::Open(JoinPath(directory_.path(), "home"), PosixFileSystem(), clock_);
    if (!home.ok()) return home.status();
    const TrainingRunner run = MakeTrainingProcessRunner(**home, std::move(options));
    return run({.job_digest = "d1", .recipe = Json::object()}, {}).status();
  }

  testing::TempDir directory_;
  testing::FakeClock clock_;
};

TEST_F(TrainingProcessTest, AFailureEndsWithTheCodeAndTheLastLine) {
  EXPECT_THAT(Train({.base_name = "tiny"}),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("asked: train ")));
}

TEST_F(TrainingProcessTest, TheChildTrainsWhereItIsTold) {
  EXPECT_THAT(Train({.base_name = "tiny"}),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("--device cpu")));
  EXPECT_THAT(Train({.base_name = "tiny", .num_threads = 3, .device = "cuda:1"}),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("--device cuda:1 --threads 3")));
}

}  // namespace
}  // namespace evolora
