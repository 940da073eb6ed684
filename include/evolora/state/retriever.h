#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/state/artifact_state.h"

namespace evolora {

struct RetrievalPolicy {
  // A hit counts as relevant when both coverages reach these. The values come from the zsRE part of
  // KnowEdit (1,037 facts in one index); tests/state/retriever_test.cc holds the cases.
  double min_query_coverage = 0.6;
  double min_entry_coverage = 0.6;
  int limit = 8;  // hits returned at most
};

struct RetrievalHit {
  std::string kind;  // "knowledge" or "skill"
  std::string key;   // entry key or skill name
  double bm25 = 0;   // larger is better, > 0
  // Idf-weighted share of the query's content words that the item holds, and the other way round.
  double query_coverage = 0;
  double entry_coverage = 0;
  bool relevant = false;  // both coverages reach the policy's bounds
};

// Finds the knowledge entries and skills that a request is about. Immutable; built once per state.
//
// Candidates and BM25 come from an in-memory SQLite FTS5 table (question and description weigh 1,
// the rule 0.5; tokenizer: Porter stems over unicode61, so case and diacritics do not matter). BM25
// alone has no scale on which "unrelated" could be read off, so a hit is judged by coverage:
//   weight(w) = ln(1 + (N + 10) / (df(w) + 1)), N items, df = items whose text holds w
//   times 3 for a name: a word with a digit or an upper-case letter that does not start a sentence
//   times 1/50 for a stop word: function words and words that carry questions ("tell", "answer")
//   query_coverage = weight of the query's words found in question, rule or description / all of it
//   entry_coverage = weight of the question's (description's) words found in the query / all of it
// Both ways, because one way is not enough: a long general question covers few words of any one
// entry, and "The taxon rank of X is" holds all of the rare words of "Which family does X belong
// to?" while asking for something else.
//
// A query's text is data: its words are quoted and bound, never part of the SQL or of the FTS5
// query language. Equal input gives equal hits in equal order.
// Threads: safe (one mutex around the connection).
class Retriever {
 public:
  // Errors: Internal (SQLite without FTS5), ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<Retriever>> Build(const ArtifactState& state);
  ~Retriever();

  // Hits of at least one shared word, best first: by min of both coverages, then BM25, then kind
  // and key. Entries not valid at `now_unix_ms` are left out. Only the first 64 distinct words of
  // the query (stop words only when there is nothing else) select candidates.
  absl::StatusOr<std::vector<RetrievalHit>> Query(absl::string_view text, int64_t now_unix_ms,
                                                  const RetrievalPolicy& policy = {}) const;

 private:
  class Index;
  explicit Retriever(std::unique_ptr<Index> index);
  std::unique_ptr<Index> index_;
};

}  // namespace evolora
