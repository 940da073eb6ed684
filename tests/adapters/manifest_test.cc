#include "evolora/adapters/manifest.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "evolora/core/sha256.h"
#include "manifest_cases.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::SomeManifest;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

TEST(Manifest, RoundTripsThroughText) {
  const VersionManifest m = SomeManifest();
  ASSERT_THAT(ValidateManifest(m), IsOk());
  ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(CanonicalJson(ManifestToJson(m))));
  ASSERT_OK_AND_ASSIGN(const VersionManifest back, ManifestFromJson(json));
  EXPECT_EQ(back, m);
  EXPECT_EQ(VersionId(back), VersionId(m));
}

TEST(Manifest, IdIsTheHashOfTheCanonicalText) {
  const VersionManifest m = SomeManifest();
  EXPECT_EQ(VersionId(m), Sha256Hex(CanonicalJson(ManifestToJson(m))));
  // Pinned: ids of stored versions must never change.
  EXPECT_EQ(VersionId(m), "db5222d1e2a3ff543b9d1e331a15063d6eb709d7a5c38f94f2e2eae7346ba75a");
}

TEST(Manifest, EveryFieldIsPartOfTheId) {
  const std::string digest = Sha256Hex("other");
  const std::vector<std::function<void(VersionManifest&)>> changes = {
      [&](VersionManifest& m) { m.base.shape_fingerprint = digest; },
      [&](VersionManifest& m) { m.base.weights_fingerprint = digest; },
      [&](VersionManifest& m) { std::swap(m.adapters[0], m.adapters[1]); },
      [&](VersionManifest& m) { m.adapters[0].slot = "x"; },
      [&](VersionManifest& m) { m.adapters[0].digest = digest; },
      [&](VersionManifest& m) { m.adapters[0].blob = digest; },
      [&](VersionManifest& m) { m.adapters[0].scope.any_of = {"weather"}; },
      [&](VersionManifest& m) { m.adapters[0].rank = 32; },
      [&](VersionManifest& m) { m.artifacts.prompt = digest; },
      [&](VersionManifest& m) { m.artifacts.knowledge = digest; },
      [&](VersionManifest& m) { m.artifacts.tools = digest; },
      [&](VersionManifest& m) { m.artifacts.validation = digest; },
      [&](VersionManifest& m) { m.parents.clear(); },
      [&](VersionManifest& m) { m.decision["why"] = "other"; },
      [&](VersionManifest& m) { m.evidence = ""; },
      [&](VersionManifest& m) { m.verdict = digest; },
  };
  std::set<std::string> ids = {VersionId(SomeManifest())};
  for (const auto& change : changes) {
    VersionManifest m = SomeManifest();
    change(m);
    EXPECT_THAT(ValidateManifest(m), IsOk());
    EXPECT_TRUE(ids.insert(VersionId(m)).second);
  }
}

TEST(Manifest, RefusesInvalidContentAndNamesTheField) {
  const std::vector<std::pair<const char*, std::function<void(VersionManifest&)>>> rows = {
      {"schema", [](VersionManifest& m) { m.schema = 2; }},
      {"base.name", [](VersionManifest& m) { m.base.name = ""; }},
      {"base.shape_fingerprint", [](VersionManifest& m) { m.base.shape_fingerprint = "ab"; }},
      {"base.weights_fingerprint", [](VersionManifest& m) { m.base.weights_fingerprint[0] = 'G'; }},
      {"adapters[0].slot", [](VersionManifest& m) { m.adapters[0].slot = "A b"; }},
      {"adapters[1].slot: \"tools\" stands twice",
       [](VersionManifest& m) { m.adapters[1].slot = "tools"; }},
      {"adapters[0].scope", [](VersionManifest& m) { m.adapters[0].scope = {}; }},
      {"adapters[0].scope", [](VersionManifest& m) { m.adapters[0].scope = {.regex = "("}; }},
      {"adapters[0].rank", [](VersionManifest& m) { m.adapters[0].rank = 0; }},
      {"adapter made for \"org/other\"",
       [](VersionManifest& m) { m.adapters[0].base_name = "org/other"; }},
      {"artifacts.tools", [](VersionManifest& m) { m.artifacts.tools = ""; }},
      {"parents[1]", [](VersionManifest& m) { m.parents.push_back(m.parents[0]); }},
      {"decision", [](VersionManifest& m) { m.decision = Json::array(); }},
      {"decision.a[0].train_seconds",
       [](VersionManifest& m) {
         m.decision["a"] = {{{"train_seconds", 1}}};
       }},
      {"decision.x: number is not finite", [](VersionManifest& m) { m.decision["x"] = NAN; }},
      {"UTF-8", [](VersionManifest& m) { m.decision["x"] = "\xff"; }},
      {"verdict", [](VersionManifest& m) { m.verdict = "pass"; }},
  };
  for (const auto& [why, change] : rows) {
    VersionManifest m = SomeManifest();
    change(m);
    EXPECT_THAT(ValidateManifest(m), StatusIs(kInvalid, HasSubstr(why)));
  }
}

TEST(Manifest, ParsingIsStrict) {
  const std::vector<std::pair<const char*, std::function<void(Json&)>>> rows = {
      {"when", [](Json& j) { j["when"] = 1; }},
      {"seconds", [](Json& j) { j["base"]["seconds"] = 1; }},
      {"verdict", [](Json& j) { j.erase("verdict"); }},
      {"rank", [](Json& j) { j["adapters"][0]["rank"] = "16"; }},
      {"schema", [](Json& j) { j["schema"] = 7; }},
      {"parents", [](Json& j) { j["parents"] = {1}; }},
      {"adapters[0]", [](Json& j) { j["adapters"][0] = 3; }},
  };
  for (const auto& [why, change] : rows) {
    Json json = ManifestToJson(SomeManifest());
    change(json);
    EXPECT_THAT(ManifestFromJson(json), StatusIs(kInvalid, HasSubstr(why)));
  }
  EXPECT_THAT(ManifestFromJson(Json(3)), StatusIs(kInvalid, HasSubstr("manifest")));
}

TEST(RouteRequest, FirstMatchingScopeWins) {
  VersionManifest m = SomeManifest();
  EXPECT_EQ(RouteRequest(m, "What is the Weather?")->slot, "tools");
  EXPECT_EQ(RouteRequest(m, "hello")->slot, "general");
  m.adapters.pop_back();
  EXPECT_EQ(RouteRequest(m, "hello"), nullptr);
}

TEST(AdapterServingName, NamesSlotSequenceAndDigest) {
  EXPECT_EQ(AdapterServingName("tools", 12, Sha256Hex("abc")), "tools-v12-ba7816bf");
}

TEST(IsSlotName, AcceptsOnlyServerSafeNames) {
  for (const char* good : {"a", "0", "tool-calls", "x_1.2"}) EXPECT_TRUE(IsSlotName(good)) << good;
  for (const char* bad : {"", "-a", ".a", "A", "a b", "a/b", "a:b"}) {
    EXPECT_FALSE(IsSlotName(bad)) << bad;
  }
  EXPECT_TRUE(IsSlotName(std::string(48, 'a')));
  EXPECT_FALSE(IsSlotName(std::string(49, 'a')));
}

}  // namespace
}  // namespace evolora
