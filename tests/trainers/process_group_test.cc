#include "evolora/trainers/process_group.h"

#include <cstring>
#include <future>
#include <map>
#include <vector>

#include "ATen/ATen.h"
#include "support/free_port.h"
#include "support/status_matchers.h"
#include "trainers/rank_threads.h"

namespace evolora {
namespace {

using ::evolora::testing::OnRankThreads;
using ::evolora::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ProcessGroup, SumsToTheSameBitsOnEveryRank) {
  constexpr int kRanks = 3;
  std::vector<std::vector<float>> sums(kRanks, std::vector<float>(1000));
  std::vector<double> losses = {1, 10, 100};
  OnRankThreads(kRanks, [&](const ProcessGroupOptions& options) {
    const auto group = JoinProcessGroup(options);
    ASSERT_TRUE(group.ok()) << group.status();
    const auto rank = static_cast<size_t>(options.rank);
    std::vector<float>& mine = sums[rank];
    for (size_t i = 0; i < mine.size(); ++i) {
      mine[i] = 0.1f * static_cast<float>(i) + static_cast<float>(rank) / 3;
    }
    EXPECT_TRUE((*group)->Sum(absl::MakeSpan(mine)).ok());
    EXPECT_TRUE((*group)->Sum(absl::MakeSpan(&losses[rank], 1)).ok());
  });
  EXPECT_THAT(losses, ElementsAre(111, 111, 111));
  EXPECT_NEAR(sums[0][7], 3 * 0.7 + 1, 1e-5);
  for (int rank = 1; rank < kRanks; ++rank) EXPECT_EQ(sums[static_cast<size_t>(rank)], sums[0]);
}

TEST(ProcessGroup, SumsATensorWhereItIs) {
  std::vector<at::Tensor> values = {at::full({7}, 1.5f), at::full({7}, 2.0f)};
  OnRankThreads(2, [&](const ProcessGroupOptions& options) {
    const auto group = JoinProcessGroup(options);
    ASSERT_TRUE(group.ok()) << group.status();
    EXPECT_TRUE((*group)->Sum(values[static_cast<size_t>(options.rank)]).ok());
  });
  for (const at::Tensor& value : values) EXPECT_TRUE(value.equal(at::full({7}, 3.5f)));
}

TEST(ProcessGroup, ALostRankIsAnErrorOfTheOthers) {
  absl::Status status;
  std::promise<void> lost;
  OnRankThreads(2, [&](const ProcessGroupOptions& options) {
    auto group = JoinProcessGroup(options);
    ASSERT_TRUE(group.ok()) << group.status();
    if (options.rank == 1) {
      group->reset();
      return lost.set_value();
    }
    lost.get_future().wait();
    float value = 1;
    status = (*group)->Sum(absl::MakeSpan(&value, 1));
  });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("rank 0 of 2: another rank is lost")));
}

TEST(ProcessGroup, DoesNotWaitForeverForRanksThatNeverCome) {
  const ProcessGroupOptions options = {
      .rank = 0, .size = 2, .port = testing::FreePort(), .timeout_seconds = 0.5};
  EXPECT_THAT(JoinProcessGroup(options).status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 0 of 2 at 127.0.0.1")));
}

// The environment of one test.
std::map<std::string, std::string>* variables = nullptr;
const char* Get(const char* name) {
  const auto found = variables->find(name);
  return found == variables->end() ? nullptr : found->second.c_str();
}

TEST(ProcessGroupOptions, ComeFromTheVariablesOfTorchrun) {
  std::map<std::string, std::string> environment;
  variables = &environment;
  ASSERT_OK_AND_ASSIGN(ProcessGroupOptions options, ProcessGroupOptionsFromEnvironment(&Get));
  EXPECT_EQ(options.size, 1);
  environment = {
      {"WORLD_SIZE", "4"}, {"RANK", "3"}, {"MASTER_ADDR", "node7"}, {"MASTER_PORT", "1234"}};
  ASSERT_OK_AND_ASSIGN(options, ProcessGroupOptionsFromEnvironment(&Get));
  EXPECT_EQ(options.size, 4);
  EXPECT_EQ(options.rank, 3);
  EXPECT_EQ(options.address, "node7");
  EXPECT_EQ(options.port, 1234);
  for (const auto& [name, value, message] :
       std::vector<std::array<std::string, 3>>{{"RANK", "4", "RANK is '4', not a number in [0, 3]"},
                                               {"WORLD_SIZE", "0", "WORLD_SIZE is '0'"},
                                               {"MASTER_PORT", "http", "MASTER_PORT is 'http'"},
                                               {"MASTER_ADDR", "", "MASTER_ADDR is not set"}}) {
    const std::string before = environment[name];
    environment[name] = value;
    EXPECT_THAT(ProcessGroupOptionsFromEnvironment(&Get).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
    environment[name] = before;
  }
  environment.erase("RANK");
  EXPECT_THAT(ProcessGroupOptionsFromEnvironment(&Get).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("RANK is not set")));
  variables = nullptr;
}

}  // namespace
}  // namespace evolora
