#include "evolora/state/retriever.h"

#include <string>
#include <thread>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;

// Questions in the style of zsRE, written for this test.
ArtifactState Facts() {
  const std::vector<std::pair<const char*, const char*>> facts = {
      {"epas", "Which family does Epaspidoceras belong to?"},
      {"amph", "Which family does Amphimallon belong to?"},
      {"brid", "Over which river does Dexter Coffin Bridge cross?"},
      {"u270", "By which company has German submarine U-270 been manufactured?"},
      {"moth", "Who is the mother of Louise Grandjean?"},
      {"cafe", "In which city is the Caf\xC3\xA9 Divin\xC3\xB3polis?"},
      {"ship", "What day was Kosmos 633 launched?"}};
  ArtifactState state;
  for (const auto& [key, question] : facts) {
    state.knowledge[key].key = key;
    state.knowledge[key].question = question;
  }
  return state;
}

std::vector<std::string> Relevant(const Retriever& retriever, const std::string& query,
                                  int64_t now_unix_ms = 0) {
  const auto hits = retriever.Query(query, now_unix_ms);
  EXPECT_THAT(hits, IsOk());
  std::vector<std::string> keys;
  for (const RetrievalHit& hit : *hits) {
    if (hit.relevant) keys.push_back(hit.key);
  }
  return keys;
}

using Keys = std::vector<std::string>;

TEST(Retriever, FindsTheFactHoweverTheQuestionIsWrapped) {
  ASSERT_OK_AND_ASSIGN(const auto retriever, Retriever::Build(Facts()));
  for (const char* query : {
           "Which family does Epaspidoceras belong to?",
           "Tell me: which family does Epaspidoceras belong to?",
           "I need to know which family Epaspidoceras belongs to. Answer briefly.",
           "Question: Which family does Epaspidoceras belong to? Answer:",
           "which family does epaspidoceras belong to",
           "Epaspidoceras belongs to which family?",
           "Hello! Could you please tell me the family Epaspidoceras belongs to? Thanks.",
       }) {
    SCOPED_TRACE(query);
    EXPECT_EQ(Relevant(*retriever, query), Keys{"epas"});
  }
  EXPECT_EQ(Relevant(*retriever, "in which city is the cafe divinopolis?"), Keys{"cafe"});
}

TEST(Retriever, LeavesOutWhatOnlyLooksAlike) {
  ASSERT_OK_AND_ASSIGN(const auto retriever, Retriever::Build(Facts()));
  for (const char* query : {
           "The taxon rank of Epaspidoceras is",
           "Epaspidoceras taxon rank",
           "What is the common name for the family Epaspidoceras belongs to?",
           "Which family does Sphodromantis belong to?",
           "By which company has German submarine U-335 been manufactured?",
           "What day was Kosmos 176 launched?",
           "Who is the father of Louise Grandjean?",
           "The country of citizenship of Louise Grandjean is",
           "Write a long story about a bridge, a river and a family that belongs to a company.",
           "What is the capital of France?",
           "Epaspidoceras",
           "Which?",
           "",
       }) {
    SCOPED_TRACE(query);
    EXPECT_EQ(Relevant(*retriever, query), Keys{});
  }
}

TEST(Retriever, HoldsInAnIndexOfTwoFacts) {
  ArtifactState state = Facts();
  for (const char* key : {"brid", "u270", "moth", "cafe", "ship"}) state.knowledge.erase(key);
  ASSERT_OK_AND_ASSIGN(const auto retriever, Retriever::Build(state));
  EXPECT_EQ(Relevant(*retriever, "which family does Amphimallon belong to?"), Keys{"amph"});
  EXPECT_EQ(Relevant(*retriever, "The taxon rank of Amphimallon is"), Keys{});
}

TEST(Retriever, QueryTextIsDataForSqlAndFts) {
  ASSERT_OK_AND_ASSIGN(const auto retriever, Retriever::Build(Facts()));
  for (const char* query :
       {"\" OR * NEAR(", "subject:Epaspidoceras", "x'); DROP TABLE item;--", "NOT family AND (",
        "^family*", "a\"b", "{family} - river", "?1 :x @y"}) {
    SCOPED_TRACE(query);
    EXPECT_THAT(retriever->Query(query, 0), IsOk());
  }
  EXPECT_THAT(retriever->Query(std::string("fam\0ily \xff\xfe", 10), 0), IsOk());
  EXPECT_EQ(Relevant(*retriever, "Which family does \"Epaspidoceras\" belong to?"), Keys{"epas"});
}

TEST(Retriever, ExpiredAndFutureFactsAreLeftOut) {
  ArtifactState state = Facts();
  state.knowledge["epas"].valid_from_unix_ms = 100;
  state.knowledge["epas"].valid_until_unix_ms = 200;
  ASSERT_OK_AND_ASSIGN(const auto retriever, Retriever::Build(state));
  const std::string query = state.knowledge["epas"].question;
  EXPECT_EQ(Relevant(*retriever, query, 99), Keys{});
  EXPECT_EQ(Relevant(*retriever, query, 100), Keys{"epas"});
  EXPECT_EQ(Relevant(*retriever, query, 199), Keys{"epas"});
  EXPECT_EQ(Relevant(*retriever, query, 200), Keys{});
}

TEST(Retriever, TiesAreOrderedByKindAndKey) {
  ArtifactState state;
  for (const char* key : {"b", "a", "c"}) {
    state.knowledge[key].key = key;
    state.knowledge[key].question = "How are refunds paid?";
  }
  state.skills["refunds"].name = "refunds";
  state.skills["refunds"].description = "How are refunds paid?";
  ASSERT_OK_AND_ASSIGN(const auto retriever, Retriever::Build(state));
  ASSERT_OK_AND_ASSIGN(const auto hits, retriever->Query("how are refunds paid", 0));
  ASSERT_EQ(hits.size(), 4u);
  EXPECT_EQ(hits[0].key, "a");
  EXPECT_EQ(hits[1].key, "b");
  EXPECT_EQ(hits[2].key, "c");
  EXPECT_EQ(hits[3].kind, "skill");
  EXPECT_GT(hits[0].bm25, 0);
  EXPECT_DOUBLE_EQ(hits[0].query_coverage, 1);
  EXPECT_DOUBLE_EQ(hits[0].entry_coverage, 1);
}

TEST(Retriever, TheRuleHelpsToFindButIsNotDemanded) {
  ArtifactState state;
  state.knowledge["k"].key = "k";
  state.knowledge["k"].question = "How is a parcel returned?";
  state.knowledge["k"].rule = "Shipments go back within thirty days with the original label.";
  ASSERT_OK_AND_ASSIGN(const auto retriever, Retriever::Build(state));
  EXPECT_EQ(Relevant(*retriever, "How is a parcel returned?"), Keys{"k"});
  ASSERT_OK_AND_ASSIGN(const auto hits,
                       retriever->Query("How is a parcel returned with the original label?", 0));
  ASSERT_EQ(hits.size(), 1u);
  EXPECT_DOUBLE_EQ(hits[0].query_coverage, 1);
}

TEST(Retriever, ThreadsMayAskAtOnce) {
  ASSERT_OK_AND_ASSIGN(const auto retriever, Retriever::Build(Facts()));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&retriever] {
      for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(Relevant(*retriever, "Which family does Amphimallon belong to?"), Keys{"amph"});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace evolora
