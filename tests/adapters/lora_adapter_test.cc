#include "evolora/adapters/lora_adapter.h"

#include <cmath>
#include <functional>

#include "adapters/sample_adapter.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::SampleAdapter;
using ::evolora::testing::SampleDora;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

TEST(LoraAdapter, ValidOnesPass) {
  EXPECT_THAT(ValidateLoraAdapter(SampleAdapter(1)), IsOk());
  EXPECT_THAT(ValidateLoraAdapter(SampleAdapter(64, -0.25, 12)), IsOk());
}

TEST(LoraAdapter, EachBrokenRuleIsNamedWithItsNumber) {
  struct Row {
    const char* message;
    std::function<void(LoraAdapter&)> breaks;
  };
  const Row rows[] = {
      {"no modules", [](LoraAdapter& a) { a.modules.clear(); }},
      {"empty path", [](LoraAdapter& a) { a.modules[0].path = ""; }},
      {"empty component", [](LoraAdapter& a) { a.modules[0].path = "model..q"; }},
      {"character 47", [](LoraAdapter& a) { a.modules[0].path = "../q"; }},
      {"character 10", [](LoraAdapter& a) { a.modules[0].path += "\n"; }},
      {"rank = 0", [](LoraAdapter& a) { a.modules[0].rank = 0; }},
      {"rank = 70000", [](LoraAdapter& a) { a.modules[0].rank = 70000; }},
      {"in_features = -1", [](LoraAdapter& a) { a.modules[0].in_features = -1; }},
      {"out_features", [](LoraAdapter& a) { a.modules[0].out_features = int64_t{1} << 62; }},
      {"A has 15 values, not 2 x 8", [](LoraAdapter& a) { a.modules[0].a.pop_back(); }},
      {"B has 17 values, not 8 x 2", [](LoraAdapter& a) { a.modules[0].b.push_back(0); }},
      {"A[3] is not finite", [](LoraAdapter& a) { a.modules[0].a[3] = NAN; }},
      {"B[15] is not finite", [](LoraAdapter& a) { a.modules[0].b[15] = INFINITY; }},
      {"scale = nan", [](LoraAdapter& a) { a.modules[0].scale = NAN; }},
      {"scale = 0", [](LoraAdapter& a) { a.modules[0].scale = 0; }},
      {"not after", [](LoraAdapter& a) { std::swap(a.modules[0], a.modules[1]); }},
      {"not after", [](LoraAdapter& a) { a.modules[1].path = a.modules[0].path; }},
  };
  const Row dora_rows[] = {
      {"magnitude has 7 values, not 8 x 1",
       [](LoraAdapter& a) { a.modules[0].magnitude.pop_back(); }},
      {"magnitude[2] is not finite", [](LoraAdapter& a) { a.modules[1].magnitude[2] = NAN; }},
      {"lacks the magnitude", [](LoraAdapter& a) { a.modules[3].magnitude.clear(); }},
      {"module 1 ('model.layers.0.self_attn.v_proj') has a magnitude",
       [](LoraAdapter& a) { a.modules[0].magnitude.clear(); }},
  };
  for (const Row& row : dora_rows) {
    SCOPED_TRACE(row.message);
    LoraAdapter adapter = SampleDora(2);
    ASSERT_THAT(ValidateLoraAdapter(adapter), IsOk());
    row.breaks(adapter);
    EXPECT_THAT(ValidateLoraAdapter(adapter),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
  for (const Row& row : rows) {
    SCOPED_TRACE(row.message);
    LoraAdapter adapter = SampleAdapter(2);
    row.breaks(adapter);
    EXPECT_THAT(ValidateLoraAdapter(adapter),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
}

TEST(LoraAdapter, DigestDependsOnEveryFieldButTheBase) {
  const std::string digest = AdapterDigest(SampleAdapter(2));
  EXPECT_EQ(digest.size(), 64u);
  EXPECT_EQ(digest, AdapterDigest(SampleAdapter(2)));
  const std::function<void(LoraAdapter&)> changes[] = {
      [](LoraAdapter& a) { a.modules[1].path += "x"; },
      [](LoraAdapter& a) { a.modules[1].scale = std::nextafter(a.modules[1].scale, 3); },
      [](LoraAdapter& a) { a.modules[1].a[0] = -a.modules[1].a[0]; },
      [](LoraAdapter& a) { a.modules[3].b.back() += 1; },
      [](LoraAdapter& a) { a.modules.pop_back(); },
      [](LoraAdapter& a) { std::swap(a.modules[0].in_features, a.modules[0].rank); },
  };
  for (const auto& change : changes) {
    LoraAdapter adapter = SampleAdapter(2);
    change(adapter);
    EXPECT_NE(AdapterDigest(adapter), digest);
  }
  LoraAdapter renamed = SampleAdapter(2);
  renamed.base_name = "org/other";
  renamed.base_revision = "";
  EXPECT_EQ(AdapterDigest(renamed), digest);
}

TEST(LoraAdapter, DigestDependsOnMagnitudes) {
  LoraAdapter adapter = SampleDora(2);
  const std::string digest = AdapterDigest(adapter);
  EXPECT_NE(digest, AdapterDigest(SampleAdapter(2)));
  adapter.modules[3].magnitude[1] += 1;
  EXPECT_NE(AdapterDigest(adapter), digest);
}

// The digest is an identity in manifests and caches: its value is part of the format.
TEST(LoraAdapter, DigestOfReleasedFormatStays) {
  LoraAdapter adapter;
  adapter.modules = {{.path = "model.layers.0.mlp.up_proj",
                      .rank = 1,
                      .in_features = 2,
                      .out_features = 1,
                      .scale = 0.5,
                      .a = {1, -2},
                      .b = {0.25}}};
  EXPECT_EQ(AdapterDigest(adapter),
            "c4497d1b1b32eb0aa256dc76e830dc3299e6374ec17be1d577096211ee56c9e9");
}

}  // namespace
}  // namespace evolora
