#include "evolora/adapters/registry.h"

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "evolora/core/sqlite.h"
#include "registry_cases.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::FailingVerdict;
using ::evolora::testing::FakeClock;
using ::evolora::testing::IsOk;
using ::evolora::testing::OpenVerdict;
using ::evolora::testing::PassingVerdict;
using ::evolora::testing::Snapshot;
using ::evolora::testing::SourcePath;
using ::evolora::testing::StatusIs;
using ::evolora::testing::StoredManifest;
using ::evolora::testing::TempDir;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kPrecondition = absl::StatusCode::kFailedPrecondition;
constexpr absl::StatusCode kNotFound = absl::StatusCode::kNotFound;
constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;

class RegistryTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void TearDown() override {
    if (registry_ == nullptr) return;
    EXPECT_THAT(registry_->CheckIntegrity(), IsOk());
  }
  void Open() {
    registry_.reset();
    auto opened = Registry::Open(home(), PosixFileSystem(), clock_);
    ASSERT_TRUE(opened.ok()) << opened.status();
    registry_ = *std::move(opened);
  }
  std::string home() const { return dir_.Join("home"); }
  std::string Add(const std::string& tag, std::vector<std::string> parents = {}) {
    return registry_->Register(StoredManifest(*registry_, tag, std::move(parents)))->id;
  }
  // Puts the first champion in place, by override.
  std::string AddFirstChampion() {
    const std::string id = Add("first");
    EXPECT_THAT(registry_->MoveAlias({"champion", id, 0, "start", "first version"}), IsOk());
    return id;
  }
  std::string Champion() const { return registry_->GetAlias("champion")->version_id; }
  std::string Previous() const { return registry_->GetAlias("previous")->version_id; }
  int64_t Epoch() const { return registry_->GetAlias("champion")->epoch; }
  VersionState StateOf(const std::string& id) const { return registry_->Resolve(id)->state; }
  // Registers, judges against the champion, promotes.
  std::string Promote(const std::string& tag) {
    const std::string id = Add(tag, {Champion()});
    EXPECT_THAT(registry_->RecordVerdict(id, Champion(), PassingVerdict()), IsOk());
    EXPECT_THAT(registry_->MoveAlias({"champion", id, Epoch(), "passed the gate"}), IsOk());
    return id;
  }
  // Runs SQL behind the registry's back.
  absl::Status Sql(const std::string& sql) {
    auto db = Sqlite::Open(home() + "/registry.db");
    return db.ok() ? (*db)->Execute(sql) : db.status();
  }

  TempDir dir_;
  FakeClock clock_;
  std::unique_ptr<Registry> registry_;
};

TEST_F(RegistryTest, EqualContentIsOneVersion) {
  const VersionManifest manifest = StoredManifest(*registry_, "a");
  ASSERT_OK_AND_ASSIGN(const VersionRecord first, registry_->Register(manifest));
  clock_.AdvanceMs(1000);
  ASSERT_OK_AND_ASSIGN(const VersionRecord again, registry_->Register(manifest));
  EXPECT_EQ(first.id, VersionId(manifest));
  EXPECT_EQ(again.id, first.id);
  EXPECT_EQ(again.seq, 1);
  EXPECT_EQ(again.created_unix_ms, first.created_unix_ms);
  EXPECT_EQ(again.manifest, manifest);
  EXPECT_EQ(again.state, VersionState::kStaged);
  EXPECT_EQ(registry_->List()->size(), 1u);
}

TEST_F(RegistryTest, SequenceCountsWithoutGapsOverReopening) {
  Add("a");
  EXPECT_FALSE(registry_->Register(StoredManifest(*registry_, "x", {Sha256Hex("none")})).ok());
  Open();
  Add("b");
  Add("c");
  ASSERT_OK_AND_ASSIGN(const auto all, registry_->List());
  ASSERT_EQ(all.size(), 3u);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].seq, static_cast<int64_t>(i) + 1);
}

TEST_F(RegistryTest, RegistrationNeedsEveryBlobAndParent) {
  const auto with = [&](const std::function<void(VersionManifest&)>& change) {
    VersionManifest m = StoredManifest(*registry_, "a");
    change(m);
    return registry_->Register(m).status();
  };
  const std::string absent = Sha256Hex("absent");
  EXPECT_THAT(with([&](auto& m) { m.artifacts.tools = absent; }),
              StatusIs(kNotFound, HasSubstr("manifest.artifacts.tools: blob " + absent)));
  EXPECT_THAT(with([&](auto& m) { m.evidence = absent; }),
              StatusIs(kNotFound, HasSubstr("evidence")));
  EXPECT_THAT(with([&](auto& m) { m.verdict = absent; }),
              StatusIs(kNotFound, HasSubstr("verdict")));
  EXPECT_THAT(with([&](auto& m) { m.adapters[0].blob = absent; }),
              StatusIs(kNotFound, HasSubstr("adapter main")));
  EXPECT_THAT(with([&](auto& m) { m.adapters[0].blob = m.evidence; }),
              StatusIs(kDataLoss, HasSubstr("not a tree")));
  EXPECT_THAT(with([&](auto& m) { m.verdict = m.evidence; }),
              StatusIs(kInvalid, HasSubstr("verdict")));
  EXPECT_THAT(with([&](auto& m) { m.parents = {absent}; }),
              StatusIs(kNotFound, HasSubstr("no parent version " + absent)));
  EXPECT_THAT(with([](auto& m) { m.base.name = ""; }), StatusIs(kInvalid, HasSubstr("base.name")));
  EXPECT_TRUE(registry_->List()->empty());
}

TEST_F(RegistryTest, RefusesAManifestItCouldNotReadBack) {
  VersionManifest m = StoredManifest(*registry_, "a");
  Json deep = 1;
  for (int i = 0; i < 100; ++i) deep = Json::array({deep});
  m.decision["deep"] = deep;
  EXPECT_THAT(registry_->Register(m), StatusIs(kInvalid, HasSubstr("deeper than 64")));
}

TEST_F(RegistryTest, RegistrationWithAVerdictTakesItsState) {
  const std::string first = AddFirstChampion();
  for (const auto& [verdict, state] : std::vector<std::pair<GateVerdict, VersionState>>{
           {PassingVerdict(), VersionState::kEligible},
           {FailingVerdict(), VersionState::kRejected},
           {OpenVerdict(), VersionState::kGated}}) {
    VersionManifest m = StoredManifest(*registry_, VersionStateName(state), {first});
    m.verdict = *registry_->blobs().PutJson(GateVerdictToJson(verdict));
    ASSERT_OK_AND_ASSIGN(const VersionRecord record, registry_->Register(m));
    EXPECT_EQ(record.state, state);
    const absl::Status moved =
        registry_->MoveAlias({"champion", record.id, Epoch(), "try"}).status();
    EXPECT_EQ(moved.ok(), state == VersionState::kEligible) << moved;
  }
}

TEST_F(RegistryTest, ResolvesIdPrefixAndAlias) {
  const std::string id = AddFirstChampion();
  EXPECT_EQ(registry_->Resolve(id)->id, id);
  EXPECT_EQ(registry_->Resolve(id.substr(0, 6))->id, id);
  EXPECT_EQ(registry_->Resolve("champion")->id, id);
  EXPECT_THAT(registry_->Resolve(id.substr(0, 5)),
              StatusIs(kNotFound, HasSubstr("no ")));  // five digits are no prefix
  EXPECT_THAT(registry_->Resolve("candidate"),
              StatusIs(kNotFound, HasSubstr("no alias or version candidate")));
  EXPECT_THAT(registry_->Resolve("no such"), StatusIs(kNotFound, HasSubstr("no such")));
  EXPECT_THAT(registry_->Resolve(""), StatusIs(kNotFound, HasSubstr("no version")));
  EXPECT_THAT(registry_->Resolve(Sha256Hex("x")), StatusIs(kNotFound, HasSubstr("no version")));
}

TEST_F(RegistryTest, AnAmbiguousPrefixIsAnError) {
  // Two ids that share six digits cannot be made in a test; two rows can.
  const std::string id = Add("a");
  const std::string twin = id.substr(0, 6) + std::string(58, id[6] == '0' ? '1' : '0');
  ASSERT_THAT(Sql("INSERT INTO versions(id, manifest, state, state_reason, created_unix_ms) "
                  "VALUES('" +
                  twin + "','{}','staged','',0)"),
              IsOk());
  EXPECT_THAT(registry_->Resolve(id.substr(0, 6)), StatusIs(kInvalid, HasSubstr("several")));
  EXPECT_THAT(registry_->Resolve(twin), StatusIs(kDataLoss, HasSubstr("another hash")));
  registry_.reset();
}

TEST_F(RegistryTest, ServingNamesStayWithTheirBytes) {
  const std::string first = AddFirstChampion();
  VersionManifest kept = StoredManifest(*registry_, "second", {first});
  kept.adapters[0] = registry_->Resolve(first)->manifest.adapters[0];
  ASSERT_OK_AND_ASSIGN(const VersionRecord second, registry_->Register(kept));
  const std::string third = Add("third");
  const auto name = [&](const std::string& id) { return registry_->ServingNames(id)->at(0).name; };
  EXPECT_EQ(name(first), "main-v1-" + Sha256Hex("adapter of first").substr(0, 8));
  EXPECT_EQ(name(second.id), name(first));
  EXPECT_EQ(name(third), "main-v3-" + Sha256Hex("adapter of third").substr(0, 8));
}

TEST_F(RegistryTest, AVerdictSetsTheState) {
  const std::string first = AddFirstChampion();
  const std::string id = Add("second", {first});
  ASSERT_THAT(registry_->RecordVerdict(id, first, OpenVerdict()), IsOk());
  EXPECT_EQ(StateOf(id), VersionState::kGated);
  ASSERT_OK_AND_ASSIGN(const std::string digest,
                       registry_->RecordVerdict(id, first, PassingVerdict()));
  EXPECT_EQ(StateOf(id), VersionState::kEligible);
  EXPECT_THAT(registry_->blobs().Verify(digest), IsOk());
  const std::string before = Snapshot(*registry_);
  ASSERT_THAT(registry_->RecordVerdict(id, first, PassingVerdict()), IsOk());
  EXPECT_EQ(Snapshot(*registry_), before);
  ASSERT_THAT(registry_->RecordVerdict(id, first, FailingVerdict()), IsOk());
  EXPECT_EQ(StateOf(id), VersionState::kRejected);
}

TEST_F(RegistryTest, AVerdictNeedsVersionsAndHonestNumbers) {
  const std::string first = AddFirstChampion();
  const std::string id = Add("second");
  GateVerdict forged = FailingVerdict();
  forged.outcome = GateOutcome::kPass;
  EXPECT_THAT(registry_->RecordVerdict(id, first, forged),
              StatusIs(kInvalid, HasSubstr("verdict")));
  EXPECT_THAT(registry_->RecordVerdict(id, id, PassingVerdict()),
              StatusIs(kInvalid, HasSubstr("itself")));
  EXPECT_THAT(registry_->RecordVerdict(Sha256Hex("x"), first, PassingVerdict()),
              StatusIs(kNotFound, HasSubstr("no version")));
  EXPECT_THAT(registry_->RecordVerdict(id, Sha256Hex("x"), PassingVerdict()),
              StatusIs(kNotFound, HasSubstr("no version")));
  EXPECT_THAT(registry_->RecordVerdict(first, id, FailingVerdict()),
              StatusIs(kPrecondition, HasSubstr("roll back first")));
  EXPECT_EQ(StateOf(id), VersionState::kStaged);
}

TEST_F(RegistryTest, ChampionNeedsAFreshPassingVerdict) {
  const std::string first = AddFirstChampion();
  const std::string second = Add("second", {first});
  const std::string third = Add("third", {first});
  EXPECT_THAT(registry_->MoveAlias({"champion", second, 1, "go"}),
              StatusIs(kPrecondition, HasSubstr("staged")));
  ASSERT_THAT(registry_->RecordVerdict(second, first, PassingVerdict()), IsOk());
  ASSERT_THAT(registry_->RecordVerdict(third, first, PassingVerdict()), IsOk());
  ASSERT_OK_AND_ASSIGN(const AliasRecord moved,
                       registry_->MoveAlias({"champion", second, 1, "go"}));
  EXPECT_EQ(moved.version_id, second);
  EXPECT_EQ(moved.epoch, 2);
  // `third` was judged against `first`, which is champion no more.
  EXPECT_THAT(registry_->MoveAlias({"champion", third, 2, "go"}),
              StatusIs(kPrecondition, HasSubstr("judge it again")));
  ASSERT_THAT(registry_->RecordVerdict(third, second, PassingVerdict()), IsOk());
  EXPECT_THAT(registry_->MoveAlias({"champion", third, 2, "go"}), IsOk());
}

TEST_F(RegistryTest, AnOverrideAdmitsAndIsLogged) {
  AddFirstChampion();
  const std::string id = Add("second");
  ASSERT_THAT(registry_->RecordVerdict(id, "", FailingVerdict()), IsOk());
  ASSERT_THAT(registry_->MoveAlias({"champion", id, 1, "go", "operator knows better"}), IsOk());
  EXPECT_EQ(StateOf(id), VersionState::kEligible);
  const AliasLogRow row = registry_->Log("champion")->back();
  EXPECT_EQ(row.override_reason, "operator knows better");
  EXPECT_EQ(row.verdict, "");
}

TEST_F(RegistryTest, AMoveChecksItsInput) {
  const std::string id = Add("a");
  EXPECT_THAT(registry_->MoveAlias({"Bad Name", id, 0, "r"}),
              StatusIs(kInvalid, HasSubstr("alias name")));
  EXPECT_THAT(registry_->MoveAlias({"previous", id, 0, "r"}),
              StatusIs(kInvalid, HasSubstr("previous")));
  EXPECT_THAT(registry_->MoveAlias({"mine", id, 0, ""}), StatusIs(kInvalid, HasSubstr("reason")));
  EXPECT_THAT(registry_->MoveAlias({"mine", id, 0, "r", "o"}),
              StatusIs(kInvalid, HasSubstr("override")));
  EXPECT_THAT(registry_->MoveAlias({"mine", Sha256Hex("x"), 0, "r"}),
              StatusIs(kNotFound, HasSubstr("no version")));
  EXPECT_THAT(registry_->MoveAlias({"mine", id, 3, "r"}),
              StatusIs(kPrecondition, HasSubstr("is at epoch 0 (version none), expected epoch 3")));
  EXPECT_TRUE(registry_->Log("")->empty());
}

TEST_F(RegistryTest, CompareAndSetLetsOneOfTwoWriters) {
  const std::string a = Add("a");
  const std::string b = Add("b");
  ASSERT_THAT(registry_->MoveAlias({"mine", a, 0, "one"}), IsOk());
  EXPECT_THAT(registry_->MoveAlias({"mine", b, 0, "two"}),
              StatusIs(kPrecondition, HasSubstr("epoch 1 (version " + a + "), expected epoch 0")));
  EXPECT_EQ(registry_->GetAlias("mine")->version_id, a);
}

TEST_F(RegistryTest, AMoveToTheSamePlaceChangesNothing) {
  const std::string id = AddFirstChampion();
  const std::string before = Snapshot(*registry_);
  ASSERT_OK_AND_ASSIGN(const AliasRecord alias, registry_->MoveAlias({"champion", id, 1, "again"}));
  EXPECT_EQ(alias.epoch, 1);
  EXPECT_EQ(Snapshot(*registry_), before);
}

TEST_F(RegistryTest, EveryMoveHasOneLogRowAndOneEvent) {
  const std::string first = AddFirstChampion();
  clock_.AdvanceMs(5);
  const std::string second = Promote("second");
  ASSERT_OK_AND_ASSIGN(const auto log, registry_->Log(""));
  ASSERT_EQ(log.size(), 3u);  // start, promotion, previous behind it
  EXPECT_EQ(log[1].alias, "champion");
  EXPECT_EQ(log[1].kind, "move");
  EXPECT_EQ(log[1].from_version, first);
  EXPECT_EQ(log[1].to_version, second);
  EXPECT_EQ(log[1].epoch, 2);
  EXPECT_TRUE(IsSha256Hex(log[1].verdict));
  EXPECT_EQ(log[1].at_unix_ms, clock_.NowUnixMs());
  EXPECT_EQ(log[2].alias, "previous");
  EXPECT_EQ(log[2].kind, "follow");
  ASSERT_OK_AND_ASSIGN(const auto events, registry_->Outbox(0));
  int moves = 0;
  for (const OutboxEvent& event : events) moves += event.topic == "alias.moved";
  EXPECT_EQ(moves, 3);
  EXPECT_EQ(registry_->Outbox(events[1].id)->size(), events.size() - 2);
  EXPECT_EQ(registry_->Log("", log[0].id, 1)->at(0).id, log[1].id);
}

TEST_F(RegistryTest, RollbackGoesBackStepByStep) {
  const std::string a = AddFirstChampion();
  const std::string b = Promote("b");
  const std::string c = Promote("c");
  EXPECT_EQ(Previous(), b);
  ASSERT_OK_AND_ASSIGN(const AliasRecord back,
                       registry_->Rollback({"champion", "", 3, "regression"}));
  EXPECT_EQ(back.version_id, b);
  EXPECT_EQ(back.epoch, 4);
  EXPECT_EQ(Previous(), a);
  ASSERT_THAT(registry_->Rollback({.alias = "champion", .reason = "still bad"}), IsOk());
  EXPECT_EQ(Champion(), a);
  EXPECT_EQ(Previous(), "");
  EXPECT_THAT(registry_->Rollback({.alias = "champion", .reason = "more"}),
              StatusIs(kPrecondition, HasSubstr("no earlier version")));
  // Forward again to a version it held, without a new verdict.
  ASSERT_THAT(registry_->Rollback({"champion", c, std::nullopt, "was right after all"}), IsOk());
  EXPECT_EQ(Champion(), c);
  EXPECT_EQ(Previous(), a);
}

TEST_F(RegistryTest, RollbackChecksItsInput) {
  const std::string a = AddFirstChampion();
  const std::string b = Promote("b");
  const std::string never = Add("never");
  EXPECT_THAT(registry_->Rollback({"champion", never, std::nullopt, "r"}),
              StatusIs(kPrecondition, HasSubstr("never pointed at")));
  EXPECT_THAT(registry_->Rollback({"champion", a, 1, "r"}),
              StatusIs(kPrecondition, HasSubstr("epoch")));
  EXPECT_THAT(registry_->Rollback({"champion", a, std::nullopt, ""}),
              StatusIs(kInvalid, HasSubstr("reason")));
  EXPECT_THAT(registry_->Rollback({"previous", a, std::nullopt, "r"}),
              StatusIs(kInvalid, HasSubstr("previous")));
  ASSERT_THAT(registry_->SetState(a, VersionState::kRetired, "old"), IsOk());
  EXPECT_THAT(registry_->Rollback({"champion", a, std::nullopt, "r"}),
              StatusIs(kPrecondition, HasSubstr("retired")));
  EXPECT_THAT(registry_->Rollback({.alias = "champion", .reason = "r"}),
              StatusIs(kPrecondition, HasSubstr("no earlier version")));
  EXPECT_EQ(Champion(), b);
}

TEST_F(RegistryTest, AnAliasOfOnesOwnRollsBackToo) {
  const std::string a = Add("a");
  const std::string b = Add("b");
  ASSERT_THAT(registry_->MoveAlias({"candidate", a, 0, "r"}), IsOk());
  ASSERT_THAT(registry_->MoveAlias({"candidate", b, 1, "r"}), IsOk());
  ASSERT_OK_AND_ASSIGN(const AliasRecord back,
                       registry_->Rollback({.alias = "candidate", .reason = "r"}));
  EXPECT_EQ(back.version_id, a);
}

TEST_F(RegistryTest, QuarantineClearsAliasesButNotTheChampion) {
  const std::string a = AddFirstChampion();
  const std::string b = Promote("b");
  ASSERT_THAT(registry_->MoveAlias({"mine", b, 0, "r"}), IsOk());
  EXPECT_THAT(registry_->SetState(b, VersionState::kQuarantined, "leaks"),
              StatusIs(kPrecondition, HasSubstr("roll back first")));
  EXPECT_EQ(registry_->GetAlias("mine")->version_id, b);  // nothing of the refused change remains
  ASSERT_THAT(registry_->Rollback({.alias = "champion", .reason = "leaks"}), IsOk());
  ASSERT_THAT(registry_->SetState(b, VersionState::kQuarantined, "leaks"), IsOk());
  EXPECT_EQ(registry_->GetAlias("mine")->version_id, "");
  EXPECT_EQ(registry_->GetAlias("mine")->epoch, 2);
  EXPECT_EQ(registry_->Log("mine")->back().kind, "clear");
  EXPECT_THAT(registry_->MoveAlias({"mine", b, 2, "r"}),
              StatusIs(kPrecondition, HasSubstr("quarantined")));
  EXPECT_THAT(registry_->MoveAlias({"champion", b, Epoch(), "r", "please"}),
              StatusIs(kPrecondition, HasSubstr("quarantined")));
  EXPECT_THAT(registry_->RecordVerdict(b, a, PassingVerdict()),
              IsOk());  // known already: no change
  EXPECT_THAT(registry_->RecordVerdict(b, "", PassingVerdict()),
              StatusIs(kPrecondition, HasSubstr("takes no verdict")));
  EXPECT_EQ(StateOf(b), VersionState::kQuarantined);
}

TEST_F(RegistryTest, StatesMoveOnlyAlongTheTable) {
  using S = VersionState;
  const std::vector<S> all = {S::kStaged,   S::kGated,   S::kEligible,
                              S::kRejected, S::kRetired, S::kQuarantined};
  // Rows: from; columns: to, in the order above.
  const char* table[] = {"-yyyyy", "n-yyyy", "ny-yyy", "nyy-yy", "nnyn-y", "ynnny-"};
  for (size_t from = 0; from < all.size(); ++from) {
    for (size_t to = 0; to < all.size(); ++to) {
      EXPECT_EQ(IsTransitionAllowed(all[from], all[to]), table[from][to] == 'y') << from << to;
    }
  }
  const std::string id = Add("a");
  EXPECT_THAT(registry_->SetState(id, S::kEligible, "r"),
              StatusIs(kPrecondition, HasSubstr("only a verdict")));
  EXPECT_THAT(registry_->SetState(id, S::kRetired, ""), StatusIs(kInvalid, HasSubstr("reason")));
  ASSERT_THAT(registry_->SetState(id, S::kRetired, "r"), IsOk());
  EXPECT_THAT(registry_->SetState(id, S::kStaged, "r"),
              StatusIs(kPrecondition, HasSubstr("retired")));
  ASSERT_THAT(registry_->SetState(id, S::kQuarantined, "r"), IsOk());
  ASSERT_THAT(registry_->SetState(id, S::kStaged, "cleared"), IsOk());
  EXPECT_EQ(registry_->Resolve(id)->state_reason, "cleared");
}

TEST(AliasName, CannotLookLikeAVersion) {
  for (const char* good :
       {"champion", "candidate", "my-alias.2", "a", "face", "dead1", "vv1", "v1a", "v"}) {
    EXPECT_TRUE(IsAliasName(good)) << good;
  }
  for (const char* bad :
       {"", "A", "1st", "a b", "a/b", "facade", "deadbeef", "abcdef0123", "v1", "v20", "-a"}) {
    EXPECT_FALSE(IsAliasName(bad)) << bad;
  }
  EXPECT_FALSE(IsAliasName(Sha256Hex("x")));
  EXPECT_FALSE(IsAliasName(std::string(64, 'z')));
}

TEST_F(RegistryTest, InvalidUtf8InReasonsIsReplaced) {
  const std::string id = Add("a");
  ASSERT_THAT(registry_->MoveAlias({"mine", id, 0, "bad \xff byte"}), IsOk());
  EXPECT_EQ(registry_->Log("mine")->at(0).reason, "bad \xef\xbf\xbd byte");
}

TEST_F(RegistryTest, ASecondOpenerIsTurnedAway) {
  EXPECT_THAT(Registry::Open(home(), PosixFileSystem(), clock_).status(),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("in use by process " + std::to_string(getpid()))));
  const pid_t child = fork();
  if (child == 0) {
    const absl::Status status = Registry::Open(home(), PosixFileSystem(), clock_).status();
    _exit(absl::IsUnavailable(status) ? 0 : 1);
  }
  int result = -1;
  ASSERT_EQ(waitpid(child, &result, 0), child);
  EXPECT_EQ(result, 0);
  Open();  // closed first: free again
}

TEST_F(RegistryTest, ABusyDatabaseIsUnavailable) {
  registry_.reset();
  auto opened = Registry::Open(home(), PosixFileSystem(), clock_, {.busy_timeout_ms = 10});
  ASSERT_TRUE(opened.ok());
  registry_ = *std::move(opened);
  const VersionManifest manifest = StoredManifest(*registry_, "a");
  {
    ASSERT_OK_AND_ASSIGN(const auto other, Sqlite::Open(home() + "/registry.db"));
    ASSERT_THAT(other->Execute("BEGIN EXCLUSIVE"), IsOk());
    EXPECT_THAT(registry_->Register(manifest),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("another program holds")));
    EXPECT_THAT(registry_->List(),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("try again")));
  }
  EXPECT_THAT(registry_->Register(manifest), IsOk());
}

TEST_F(RegistryTest, HistoryCannotBeRewritten) {
  AddFirstChampion();
  for (const char* sql :
       {"UPDATE versions SET manifest='{}'", "DELETE FROM versions",
        "UPDATE alias_log SET reason=''", "DELETE FROM alias_log", "DELETE FROM outbox",
        "DELETE FROM serving_names", "INSERT OR REPLACE INTO alias_log SELECT * FROM alias_log"}) {
    EXPECT_THAT(Sql(sql), StatusIs(kPrecondition, HasSubstr("never"))) << sql;
  }
}

TEST_F(RegistryTest, IntegrityCheckFindsDamage) {
  const std::string id = AddFirstChampion();
  const std::string path =
      registry_->blobs().PathOf(registry_->Resolve(id)->manifest.artifacts.prompt);
  std::filesystem::remove(path);
  EXPECT_THAT(registry_->CheckIntegrity(), StatusIs(kDataLoss, HasSubstr(id)));
  ASSERT_THAT(registry_->blobs().PutJson({{"prompt", "first"}}), IsOk());
  EXPECT_THAT(registry_->CheckIntegrity(), IsOk());
  ASSERT_THAT(Sql("UPDATE aliases SET epoch=7"), IsOk());
  EXPECT_THAT(registry_->CheckIntegrity(), StatusIs(kDataLoss, HasSubstr("alias champion")));
  ASSERT_THAT(Sql("UPDATE aliases SET epoch=1"), IsOk());
}

// Promise of FORMAT.md: a registry of every released schema opens and says the same.
TEST_F(RegistryTest, ReadsTheFirstReleasedSchema) {
  registry_.reset();
  std::filesystem::remove(home() + "/registry.db");
  ASSERT_OK_AND_ASSIGN(
      const std::string sql,
      PosixFileSystem().ReadFile(SourcePath("tests/fixtures/registry/schema1.sql"), 1 << 20));
  ASSERT_OK_AND_ASSIGN(
      const std::string expected,
      PosixFileSystem().ReadFile(SourcePath("tests/fixtures/registry/schema1.txt"), 1 << 20));
  ASSERT_THAT(Sql(sql), IsOk());
  Open();
  EXPECT_EQ(Snapshot(*registry_), expected);
  EXPECT_EQ(registry_->ServingNames(registry_->List()->back().id)->at(0).name,
            "main-v3-" + Sha256Hex("adapter of third").substr(0, 8));
  // Its blobs were not kept with it; putting them back makes it whole.
  EXPECT_THAT(registry_->CheckIntegrity(), StatusIs(kDataLoss, HasSubstr("blob")));
  for (const char* tag : {"first", "second", "third"}) StoredManifest(*registry_, tag);
  for (const GateVerdict& verdict : {PassingVerdict(), FailingVerdict()}) {
    ASSERT_THAT(registry_->blobs().PutJson(GateVerdictToJson(verdict)), IsOk());
  }
}

TEST_F(RegistryTest, RefusesForeignAndNewerDatabases) {
  registry_.reset();
  ASSERT_THAT(Sql("PRAGMA user_version=99"), IsOk());
  EXPECT_THAT(Registry::Open(home(), PosixFileSystem(), clock_).status(),
              StatusIs(kPrecondition, HasSubstr("schema 99")));
  ASSERT_THAT(Sql("PRAGMA application_id=5"), IsOk());
  EXPECT_THAT(Registry::Open(home(), PosixFileSystem(), clock_).status(),
              StatusIs(kPrecondition, HasSubstr("not a registry")));
  std::ofstream(home() + "/registry.db", std::ios::trunc) << std::string(5000, 'x');
  EXPECT_THAT(Registry::Open(home(), PosixFileSystem(), clock_).status(),
              StatusIs(kDataLoss, HasSubstr("registry.db")));
}

}  // namespace
}  // namespace evolora
