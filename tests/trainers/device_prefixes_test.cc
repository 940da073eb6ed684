// Prefixes that rows share, on the device path: with plain attention over paths, and with the
// packed form that flash attention computes on CUDA, for which a plain one stands in.
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "device/device_batches.h"
#include "device/device_path.h"
#include "gtest/gtest.h"
#include "trainers/device_cases.h"
#include "trainers/packed_attention_fake.h"

namespace evolora {
namespace {

using testing::Case;
using testing::DeviceGradient;
using testing::Difference;
using testing::FakeRecorder;
using testing::Gradient;
using testing::MakeCase;
using testing::PlainPackedAttention;
using testing::ReferenceGradient;
using testing::SharingRows;
using testing::Steps;
using testing::StepsOf;

// Both forms of attention, exact and padded.
std::vector<std::pair<std::string, DevicePathOptions>> Forms() {
  return {{"plain", {}},
          {"plain, padded", {.graphs = true}},
          {"packed", {.attention = PlainPackedAttention()}},
          {"packed, padded", {.graphs = true, .attention = PlainPackedAttention()}}};
}

void ExpectReference(const Case& c) {
  const Gradient expected = ReferenceGradient(c);
  for (const auto& [form, options] : Forms()) {
    EXPECT_EQ(Difference(DeviceGradient(c, options), expected, 1e-5), "") << c.name << ", " << form;
  }
}

TEST(DevicePrefixes, EqualAutogradOnEveryArchitecture) {
  for (Case& c : testing::ArchitectureCases()) {
    c.rows = SharingRows(c.config);
    ExpectReference(c);
  }
}

TEST(DevicePrefixes, EqualAutogradForAdaptersMagnitudesAndSavedModules) {
  for (Case& c : testing::FewCases()) {
    c.rows = SharingRows(c.config);
    c.recipe.use_dora = true;
    ExpectReference(c);
  }
  for (Case& c : testing::SavedModuleCases()) {
    c.rows = SharingRows(c.config);
    ExpectReference(c);
  }
}

// Masks follow a token of a row: nothing is shared.
TEST(DevicePrefixes, EqualAutogradWithDropout) {
  for (Case& c : testing::FewCases()) {
    c.rows = SharingRows(c.config);
    c.recipe.lora_dropout = 0.4;
    ExpectReference(c);
  }
}

// Rows whose labelled tokens begin alike, and one that stands there twice.
TEST(DevicePrefixes, EqualAutogradForEveryObjective) {
  for (Case& c : testing::ObjectiveCases()) {
    c.rows.push_back(c.rows[2]);
    TrainingRow longer = c.rows[1];
    for (const TokenId id : {3, 1, 4}) {
      longer.ids.push_back(id);
      longer.labels.push_back(id);
      if (!longer.sample.old_log_probs.empty()) longer.sample.old_log_probs.push_back(-3);
      if (longer.counterpart.ids.empty()) continue;
      longer.counterpart.ids.push_back(id);
      longer.counterpart.labels.push_back(id);
    }
    c.rows.push_back(longer);
    ExpectReference(c);
    c.recipe.tokens_per_micro_batch = 60;
    ExpectReference(c);
  }
}

// Answers whose first labelled tokens are the same.
TEST(DevicePrefixes, EqualAutogradForPairsThatPartInsideTheirAnswers) {
  Case c = MakeCase("dpo", [](Case& change) {
    change.recipe.objective.kind = ObjectiveKind::kDpo;
    for (const uint64_t i : {0, 1, 2}) {
      const std::vector<TokenId> both = testing::RandomIds(change.config, 12, 40);
      TrainingRow row = testing::RandomRow(change.config, 20, i, both);
      row.labels = row.ids;
      row.counterpart.ids = testing::RandomRow(change.config, 17, 90 + i, both).ids;
      row.counterpart.labels = row.counterpart.ids;
      change.rows.push_back(row);
    }
  });
  ExpectReference(c);
}

TEST(DevicePrefixes, AStepIsThatOfTheRowsAlone) {
  for (const int64_t window : {0, 30}) {
    Case c = MakeCase(absl::StrCat("window ", window), [&](Case& change) {
      change.config.sliding_window = window;
      change.rows = SharingRows(change.config);
    });
    const Gradient whole = DeviceGradient(c, {.share_prefixes = false});
    for (const auto& [form, options] : Forms()) {
      for (const int64_t tokens : {1, 90, 200, 10000}) {
        c.recipe.tokens_per_micro_batch = tokens;
        EXPECT_EQ(Difference(DeviceGradient(c, options), whole, 1e-5), "")
            << form << ", " << tokens;
      }
    }
  }
}

TEST(DevicePrefixes, InBfloat16StayNearTheFp32Gradient) {
  for (Case& c : testing::ArchitectureCases()) {
    c.rows = SharingRows(c.config);
    const Gradient expected = ReferenceGradient(c);
    for (auto& [form, options] : Forms()) {
      options.dtype = at::kBFloat16;
      EXPECT_EQ(Difference(DeviceGradient(c, options), expected, 0.05), "")
          << c.name << ", " << form;
    }
  }
}

TEST(DevicePrefixes, TheBitsAreTheSameOnEveryRun) {
  const Case c = MakeCase("bits", [](Case& change) { change.rows = SharingRows(change.config); });
  for (const auto& [form, options] : Forms()) {
    const Gradient one = DeviceGradient(c, options), other = DeviceGradient(c, options);
    EXPECT_EQ(one.loss_sum, other.loss_sum) << form;
    EXPECT_TRUE(one.parameters.gradient.equal(other.parameters.gradient)) << form;
  }
}

// Trees of one shape, once padded, that differ in where they branch.
Case RepeatingTrees() {
  return MakeCase("trees", [](Case& c) {
    for (const uint64_t i : {0, 1, 2, 3, 4}) {
      const std::vector<TokenId> system =
          testing::RandomIds(c.config, 9 + static_cast<int64_t>(i % 2), 500);
      c.rows.push_back(testing::RandomRow(c.config, 18 + static_cast<int64_t>(i % 3), i, system));
      c.rows.back().labels = c.rows.back().ids;
    }
  });
}

TEST(DevicePrefixes, AReplayTakesTheNewTree) {
  const Case c = RepeatingTrees();
  for (const bool packed : {false, true}) {
    const std::shared_ptr<const PackedAttention> attention =
        packed ? PlainPackedAttention() : nullptr;
    const auto recorder = std::make_shared<FakeRecorder>();
    const Steps replayed =
        StepsOf(c, {.graphs = true, .attention = attention, .recorder = recorder});
    EXPECT_GT(recorder->replayed, 2);
    const Steps padded = StepsOf(c, {.graphs = true, .attention = attention});
    const Steps whole = StepsOf(c, {.share_prefixes = false});
    EXPECT_EQ(replayed.losses, padded.losses);
    for (size_t i = 0; i < whole.losses.size(); ++i) {
      EXPECT_TRUE(replayed.gradients[i].equal(padded.gradients[i])) << "step " << i;
      EXPECT_LT(replayed.gradients[i].sub(whole.gradients[i]).norm().item<double>(),
                1e-5 * whole.gradients[i].norm().item<double>())
          << "step " << i;
    }
  }
}

int64_t NumTokens(const std::vector<TokenLayout>& layouts) {
  int64_t tokens = 0;
  for (const TokenLayout& layout : layouts) tokens += static_cast<int64_t>(layout.ids.size());
  return tokens;
}

class DeviceMicroBatchesTest : public ::testing::Test {
 protected:
  DeviceMicroBatchesTest() {
    const LlamaConfig config = testing::SmallConfig();
    const std::vector<TokenId> prefix = testing::RandomIds(config, 400, 1);
    for (uint64_t i = 0; i < 32; ++i) {
      // 440 tokens and a last one that is predicted alone.
      rows_.push_back(testing::RandomRow(config, 441, 10 + i, prefix));
      // Tails part at once.
      rows_.back().ids[400] = static_cast<TokenId>(i);
      step_.push_back(static_cast<int64_t>(i));
    }
  }
  std::vector<TrainingRow> rows_;
  std::vector<int64_t> step_;
};

TEST_F(DeviceMicroBatchesTest, APrefixCountsOnce) {
  const auto tokens = [&](bool share) {
    return NumTokens(DeviceMicroBatches(rows_, step_, {.tokens = 16384}, share));
  };
  EXPECT_EQ(tokens(false), 32 * 440);
  EXPECT_EQ(tokens(true), 400 + 32 * 40);
}

TEST_F(DeviceMicroBatchesTest, AreHalvedUntilTheirKeysAreWithinTheLimit) {
  const std::vector<TokenLayout> layouts =
      DeviceMicroBatches(rows_, step_, {.tokens = 1700}, /*share_prefixes=*/true);
  EXPECT_EQ(layouts.size(), 2u);
  EXPECT_EQ(NumTokens(layouts), 2 * 400 + 32 * 40);
  for (const TokenLayout& layout : layouts) EXPECT_EQ(SharedKeys(layout), 400 + 16 * 440);
  // Groups stay together, and a single one is not cut.
  std::vector<int64_t> groups(8);
  std::iota(groups.begin(), groups.end(), 0);
  for (const TokenLayout& layout :
       DeviceMicroBatches(rows_, groups, {.tokens = 100}, /*share_prefixes=*/true, 4)) {
    EXPECT_EQ(layout.ids.size(), 400u + 4 * 40);
  }
}

TEST_F(DeviceMicroBatchesTest, RowsThatShareNothingHaveNoKeysOfOthers) {
  const TokenLayout layout = LayOutTokens(rows_, {0, 1}, /*share_prefixes=*/false);
  EXPECT_EQ(SharedKeys(layout), 0);
}

}  // namespace
}  // namespace evolora
