#include "evolora/data/evidence_store.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/core/file_system.h"
#include "evolora/core/sha256.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class EvidenceStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<EvidenceStore> Open(const EvidenceStoreOptions& options = {}) {
    auto store = EvidenceStore::Open(path_, options);
    EXPECT_THAT(store, IsOk());
    return store.ok() ? *std::move(store) : nullptr;
  }

  testing::TempDir dir_;
  std::string path_ = dir_.Join("evidence.sqlite");
};

TEST_F(EvidenceStoreTest, KeepsRowsInInsertionOrderAcrossReopening) {
  {
    auto store = Open();
    ASSERT_THAT(store->Append(EvidenceKind::kEpisode, "r1", "z", {{"n", 1}}), IsOk());
    ASSERT_THAT(store->Append(EvidenceKind::kEpisode, "r2", "a", {{"n", 2}}), IsOk());
    ASSERT_THAT(store->Append(EvidenceKind::kEpisode, "r1", "a", {{"n", 3}}), IsOk());
    ASSERT_THAT(store->Append(EvidenceKind::kVerdict, "r1", "a", {{"n", 4}}), IsOk());
  }
  auto store = Open();
  ASSERT_OK_AND_ASSIGN(const auto rows, store->List(EvidenceKind::kEpisode, "r1"));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].evidence.key, "z");
  EXPECT_EQ(rows[1].evidence.key, "a");
  EXPECT_EQ(rows[1].evidence.value, Json({{"n", 3}}));
  ASSERT_OK_AND_ASSIGN(const auto later,
                       store->List(EvidenceKind::kEpisode, "r1", rows[0].sequence, 1));
  ASSERT_EQ(later.size(), 1u);
  EXPECT_EQ(later[0].evidence.key, "a");
  ASSERT_OK_AND_ASSIGN(const auto all, store->ListAllRuns(EvidenceKind::kEpisode));
  EXPECT_EQ(all.size(), 3u);
  ASSERT_OK_AND_ASSIGN(const auto runs, store->ListRuns());
  EXPECT_EQ(runs, (std::vector<std::string>{"r1", "r2"}));
  ASSERT_OK_AND_ASSIGN(const int64_t count, store->Count(EvidenceKind::kVerdict, "r1"));
  EXPECT_EQ(count, 1);
  EXPECT_THAT(store->Get(EvidenceKind::kProbe, "r1", "a"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("probe 'a' of run 'r1'")));
}

TEST_F(EvidenceStoreTest, SameKeySameContentIsOkOtherContentNamesBothDigests) {
  auto store = Open();
  const Json first = {{"a", 1}, {"b", 2.5}};
  const Json second = {{"a", 2}};
  ASSERT_THAT(store->Append(EvidenceKind::kProbe, "r", "k", first), IsOk());
  ASSERT_THAT(store->Append(EvidenceKind::kProbe, "r", "k", {{"b", 2.5}, {"a", 1}}), IsOk());
  EXPECT_THAT(store->Append(EvidenceKind::kProbe, "r", "k", second),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(Sha256Hex(CanonicalJson(first))),
                             HasSubstr(Sha256Hex(CanonicalJson(second))))));
  ASSERT_OK_AND_ASSIGN(const Json kept, store->Get(EvidenceKind::kProbe, "r", "k"));
  EXPECT_EQ(kept, first);
}

TEST_F(EvidenceStoreTest, ABatchIsKeptWholeOrNotAtAll) {
  auto store = Open();
  ASSERT_THAT(store->Append(EvidenceKind::kDecision, "r", "old", 1), IsOk());
  const std::vector<Evidence> batch = {{EvidenceKind::kDecision, "r", "new", 1},
                                       {EvidenceKind::kDecision, "r", "old", 2}};
  EXPECT_THAT(store->AppendAll(batch),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("old")));
  EXPECT_THAT(store->Get(EvidenceKind::kDecision, "r", "new"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("new")));
  ASSERT_THAT(store->Append(EvidenceKind::kDecision, "r", "new", 3), IsOk());
}

TEST_F(EvidenceStoreTest, RefusesWhatJsonCannotHold) {
  auto store = Open();
  EXPECT_THAT(store->Append(EvidenceKind::kProbe, "r", "k", "\xff"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'k'")));
  EXPECT_THAT(store->Append(EvidenceKind::kProbe, "", "k", 1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("run id")));
}

TEST_F(EvidenceStoreTest, NoConnectionCanChangeOrDeleteEvidence) {
  {
    auto store = Open();
    ASSERT_THAT(store->Append(EvidenceKind::kLook, "r", "k", 1), IsOk());
    const std::vector<MemoEntry> memo = {{Sha256Hex("q"), 1}};
    ASSERT_THAT(store->PutCompletions(memo), IsOk());
  }
  ASSERT_OK_AND_ASSIGN(auto db, Sqlite::Open(path_));
  ASSERT_THAT(db->Execute("PRAGMA recursive_triggers=OFF"), IsOk());
  for (const char* sql : {
           "DELETE FROM evidence",
           "UPDATE evidence SET value = '2'",
           "INSERT OR REPLACE INTO evidence(kind, run_id, key, digest, value) "
           "VALUES('look', 'r', 'k', 'd', '2')",
           "INSERT OR REPLACE INTO evidence(sequence, kind, run_id, key, digest, value) "
           "VALUES(1, 'x', 'x', 'x', 'd', '2')",
           "DELETE FROM completion",
           "UPDATE completion SET value = '2'",
           "INSERT OR REPLACE INTO completion SELECT hash, 'd', '2' FROM completion",
       }) {
    SCOPED_TRACE(sql);
    EXPECT_THAT(db->Execute(sql),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("append-only")));
  }
}

TEST_F(EvidenceStoreTest, ForeignAndNewerFilesAreRefusedWithTheirVersion) {
  {
    ASSERT_OK_AND_ASSIGN(auto db, Sqlite::Open(path_));
    ASSERT_THAT(db->Execute("CREATE TABLE t(x)"), IsOk());
  }
  EXPECT_THAT(EvidenceStore::Open(path_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not an evidence store")));
  path_ = dir_.Join("newer.sqlite");
  Open();
  {
    ASSERT_OK_AND_ASSIGN(auto db, Sqlite::Open(path_));
    ASSERT_THAT(db->Execute("PRAGMA user_version=7"), IsOk());
  }
  EXPECT_THAT(EvidenceStore::Open(path_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("version 7"), HasSubstr("newer than 1"))));
  EXPECT_THAT(EvidenceStore::Open(dir_.Join("none"), {.create = false}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

TEST_F(EvidenceStoreTest, DamagedFilesGiveDataLoss) {
  {
    auto store = Open();
    for (int i = 0; i < 200; ++i) {
      ASSERT_THAT(
          store->Append(EvidenceKind::kEpisode, "r", absl::StrCat(i), std::string(300, 'x')),
          IsOk());
    }
  }
  ASSERT_OK_AND_ASSIGN(const std::string good, PosixFileSystem().ReadFile(path_, 1 << 24));
  // Half the file, no database at all, and one changed letter inside a row.
  const std::string half = good.substr(0, good.size() / 2);
  for (const std::string& bytes : {half, std::string("not a database, but long enough to be read "
                                                     "as the header of one: ...............")}) {
    ASSERT_THAT(PosixFileSystem().WriteFileAtomic(path_, bytes), IsOk());
    EXPECT_THAT(EvidenceStore::Open(path_), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("")));
  }
  std::string changed = good;
  changed[changed.find("xxxxxxxx") + 3] = 'y';
  ASSERT_THAT(PosixFileSystem().WriteFileAtomic(path_, changed), IsOk());
  auto store = Open();
  EXPECT_THAT(store->List(EvidenceKind::kEpisode, "r"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("digest")));
}

TEST_F(EvidenceStoreTest, MemoisesCompletions) {
  auto store = Open();
  const std::string hash = Sha256Hex("request");
  EXPECT_THAT(store->GetCompletion(hash), StatusIs(absl::StatusCode::kNotFound, HasSubstr(hash)));
  const std::vector<MemoEntry> batch = {{hash, {{"text", "a"}}}, {Sha256Hex("b"), 2}};
  ASSERT_THAT(store->PutCompletions(batch), IsOk());
  ASSERT_THAT(store->PutCompletions(batch), IsOk());
  ASSERT_OK_AND_ASSIGN(const Json value, store->GetCompletion(hash));
  EXPECT_EQ(value, Json({{"text", "a"}}));
  const std::vector<MemoEntry> other = {{Sha256Hex("c"), 3}, {hash, {{"text", "b"}}}};
  EXPECT_THAT(store->PutCompletions(other),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(hash)));
  ASSERT_OK_AND_ASSIGN(const int64_t count, store->CountCompletions());
  EXPECT_EQ(count, 2);
  EXPECT_THAT(store->PutCompletions({MemoEntry{"short", 1}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("SHA-256")));
}

TEST_F(EvidenceStoreTest, ThreadsMayAppendAtOnce) {
  auto store = Open();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&store, t] {
      for (int i = 0; i < 10; ++i) {
        EXPECT_THAT(store->Append(EvidenceKind::kProbe, "r", absl::StrCat(t, "-", i), i), IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_OK_AND_ASSIGN(const int64_t count, store->Count(EvidenceKind::kProbe, "r"));
  EXPECT_EQ(count, 40);
}

TEST_F(EvidenceStoreTest, LooksAreCountedPerStreamAndARestartedRunCountsOnce) {
  auto store = Open();
  const Look look{"d1", "final report", 5};
  ASSERT_OK_AND_ASSIGN(int64_t count, StoreLookRecorder(*store, "r1").RecordLook(look));
  EXPECT_EQ(count, 1);
  ASSERT_OK_AND_ASSIGN(count, StoreLookRecorder(*store, "r1").RecordLook(look));
  EXPECT_EQ(count, 1);
  ASSERT_OK_AND_ASSIGN(count, StoreLookRecorder(*store, "r2").RecordLook(look));
  EXPECT_EQ(count, 2);
  ASSERT_OK_AND_ASSIGN(count, StoreLookRecorder(*store, "r2").RecordLook({"d2", "report", 5}));
  EXPECT_EQ(count, 1);
}

}  // namespace
}  // namespace evolora
