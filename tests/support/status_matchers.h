#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace evolora::testing {

inline const absl::Status& ToStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& ToStatus(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

// EXPECT_THAT(Parse(text), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 3")));
MATCHER_P2(StatusIs, code, message_matcher, "") {
  const absl::Status& status = ToStatus(arg);
  *result_listener << status.ToString();
  return status.code() == code &&
         ::testing::ExplainMatchResult(message_matcher, std::string(status.message()),
                                       result_listener);
}
MATCHER(IsOk, "") {
  *result_listener << ToStatus(arg).ToString();
  return ToStatus(arg).ok();
}

}  // namespace evolora::testing

// ASSERT_OK_AND_ASSIGN(auto x, MakeX());
#define ASSERT_OK_AND_ASSIGN(lhs, expr) \
  ASSERT_OK_AND_ASSIGN_(EVOLORA_TEST_CONCAT_(statusor_, __LINE__), lhs, expr)
#define ASSERT_OK_AND_ASSIGN_(var, lhs, expr) \
  auto var = (expr);                          \
  ASSERT_TRUE(var.ok()) << var.status();      \
  lhs = *std::move(var)
#define EVOLORA_TEST_CONCAT_(a, b) EVOLORA_TEST_CONCAT_INNER_(a, b)
#define EVOLORA_TEST_CONCAT_INNER_(a, b) a##b
