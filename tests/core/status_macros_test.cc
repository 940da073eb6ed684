#include "evolora/core/status_macros.h"

#include <memory>

#include "absl/strings/cord.h"
#include "evolora/core/check.h"
#include "evolora/core/clock.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using testing::FakeClock;
using testing::StatusIs;

absl::Status Chain(const absl::Status& first, bool& reached) {
  RETURN_IF_ERROR(first);
  reached = true;
  return absl::OkStatus();
}

absl::StatusOr<int> Twice(absl::StatusOr<std::unique_ptr<int>> value) {
  ASSIGN_OR_RETURN(const std::unique_ptr<int> number, std::move(value));
  return *number * 2;
}

TEST(StatusMacros, ReturnIfErrorStopsAtTheFirstError) {
  bool reached = false;
  EXPECT_THAT(Chain(absl::NotFoundError("x"), reached), StatusIs(absl::StatusCode::kNotFound, "x"));
  EXPECT_FALSE(reached);
  EXPECT_TRUE(Chain(absl::OkStatus(), reached).ok());
  EXPECT_TRUE(reached);
}

TEST(StatusMacros, AssignOrReturnMovesTheValueOrReturnsTheError) {
  EXPECT_EQ(*Twice(std::make_unique<int>(21)), 42);
  EXPECT_THAT(Twice(absl::DataLossError("torn")), StatusIs(absl::StatusCode::kDataLoss, "torn"));
}

TEST(Annotate, KeepsCodeAndPayloadAndPutsTheContextInFront) {
  absl::Status status = absl::AbortedError("loss is nan");
  status.SetPayload("step", absl::Cord("41"));
  const absl::Status annotated = Annotate(status, "job 7");
  EXPECT_THAT(annotated, StatusIs(absl::StatusCode::kAborted, "job 7: loss is nan"));
  EXPECT_EQ(annotated.GetPayload("step"), absl::Cord("41"));
}

TEST(Annotate, LeavesOkAlone) { EXPECT_TRUE(Annotate(absl::OkStatus(), "job 7").ok()); }

TEST(CheckDeathTest, NamesPlaceConditionAndReason) {
  EXPECT_DEATH(EVOLORA_CHECK(1 > 2, "one is less"),
               "status_macros_test.cc:.*check failed: 1 > 2: one is less");
}

TEST(SystemClock, MonotonicTimeNeverGoesBackAndUnixTimeIsOfThisCentury) {
  const double first = SystemClock().MonotonicSeconds();
  EXPECT_GE(SystemClock().MonotonicSeconds(), first);
  EXPECT_GT(SystemClock().NowUnixMs(), 1'600'000'000'000);
}

TEST(FakeClock, MovesOnlyByAdvance) {
  FakeClock clock(1000);
  EXPECT_EQ(clock.NowUnixMs(), 1000);
  EXPECT_EQ(clock.MonotonicSeconds(), 0);
  clock.AdvanceSeconds(1.5);
  EXPECT_EQ(clock.NowUnixMs(), 2500);
  EXPECT_EQ(clock.MonotonicSeconds(), 1.5);
}

}  // namespace
}  // namespace evolora
