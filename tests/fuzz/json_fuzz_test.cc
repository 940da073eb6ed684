// Every JSON document that comes back from a store, a version or a file.
#include <string>

#include "adapters/manifest_cases.h"
#include "evolora/adapters/effect_proof.h"
#include "evolora/adapters/gate.h"
#include "evolora/core/episode.h"
#include "evolora/core/patch.h"
#include "evolora/core/status_macros.h"
#include "evolora/evolver/ledger.h"
#include "support/mutate.h"

namespace evolora {
namespace {

using ::evolora::testing::MutationResult;
using ::evolora::testing::RunMutations;

constexpr int64_t kIterations = 5000;

// Feeds mutated texts of the document to `from`; both outcomes have to occur.
template <typename FromJson>
void Fuzz(const Json& document, uint64_t seed, FromJson from) {
  const MutationResult result =
      RunMutations({CanonicalJson(document)}, kIterations, seed, [&](const std::string& text) {
        absl::StatusOr<Json> json = ParseJson(text);
        return json.ok() ? from(*json).status() : json.status();
      });
  EXPECT_GT(result.num_ok, 0);
  EXPECT_GT(result.num_refused, 0);
}

TEST(JsonFuzz, Manifest) { Fuzz(ManifestToJson(testing::SomeManifest()), 1, ManifestFromJson); }

TEST(JsonFuzz, Episode) {
  Episode episode{.case_id = "c1",
                  .cluster = "facts",
                  .version_id = "v",
                  .used = {"knowledge:k"},
                  .output = "Paris",
                  .finish_reason = "stop"};
  Json json = EpisodeToJson(episode);
  json.erase("id");  // a hash of the rest: with it nearly every change is refused for that alone
  Fuzz(json, 2, EpisodeFromJson);
}

TEST(JsonFuzz, Patch) {
  Skill skill;
  skill.name = "units";
  skill.trigger = {.any_of = {"metres"}, .regex = "[0-9]+ m"};
  skill.instructions = "Convert first.";
  skill.provenance = {"feedback", "e1"};
  KnowledgeEntry entry;
  entry.key = "k1";
  entry.question = "Who?";
  entry.answer = "X";
  entry.valid_until_unix_ms = 5;
  entry.provenance = {"operator", ""};
  Patch patch;
  patch.summary = "several things";
  patch.ops = {PutSkill{skill}, PutKnowledge{entry}, SetSkillTrigger{"units", {.all = true}},
               RemoveItem{"knowledge", "k0"}};
  Fuzz(PatchToJson(patch), 3, PatchFromJson);
}

TEST(JsonFuzz, TicketEvent) {
  TicketEvent event{.seq = 7, .cluster = "tools", .evidence = {"e1"}};
  event.payload = PatchAttempt{.case_id = "c1",
                               .kind = PatchKind::kSkill,
                               .tokens = 40,
                               .rate_before = 0.1,
                               .rate_after = 0.5,
                               .accepted = true};
  Fuzz(TicketEventToJson(event), 4, TicketEventFromJson);
}

TEST(JsonFuzz, GateVerdict) {
  absl::StatusOr<SequentialGate> gate = SequentialGate::Create(GatePolicy());
  ASSERT_TRUE(gate.ok());
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(gate->ObserveQuery({.case_id = std::string(1, static_cast<char>('a' + i)),
                                    .cluster = "tools",
                                    .candidate_right = true})
                    .ok());
  }
  Fuzz(GateVerdictToJson(gate->Current()), 5, GateVerdictFromJson);
}

}  // namespace
}  // namespace evolora
