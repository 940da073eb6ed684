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
  // A hit counts as relevant when both coverages reach these. Measured with them on the 1,283
  // distinct questions of KnowEdit's zsRE as one index: the fact is found for every question and
  // each of five wordings around it ("I need to know ... Answer briefly."); 6 % of questions about
  // another property of a known subject pull its fact (most of them do ask for it), 3 % of two-step
  // ones.
  double min_query_coverage = 0.6;
  double min_entry_coverage = 0.6;
  int limit = 8;  // hits returned at most
};

struct RetrievalHit {
  std::string kind;  // "knowledge" or "skill"
  std::string key;   // entry key or skill name
  double bm25 = 0;   // larger is better, > 0
  // Idf-weighted share of the query's words that the item holds, and the other way round.
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
//   words are of four kinds: numbers (with a digit); stop words (function words and words that
//   carry
//     any question, "tell", "answer"); names (an ASCII capital that does not start a sentence, in
//     the query or in any item); content words (the rest)
//   share(kind) = weight of the text's words of the kind that the other text holds / of all of them
//   coverage = the smallest share of names, numbers and content words, those kinds the text has;
//     the share of stop words where it has nothing else
// query_coverage looks for the query's words in question (description) and rule; entry_coverage for
// the words of the question (description) in the query.
// Both ways, because a long general question covers few words of any one entry, yet an entry's
// words may all stand in a longer question that asks for something else. Kind by kind, because
// subject and property must both agree: "The taxon rank of X is" holds the rare words of "Which
// family does X belong to?", and "U-270" those of "U-335" but one.
//
// A query's text is data: its words are quoted and bound, never part of the SQL or of the FTS5
// query language. Equal input gives equal hits in equal order.
// Threads: safe (one mutex around the connection).
class Retriever {
 public:
  // Errors: Internal (SQLite without FTS5), ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<Retriever>> Build(const ArtifactState& state);
  ~Retriever();

  // Hits of at least one shared word, best first: by the smaller coverage, then by the smaller
  // share over all words alike (stop words tell "in" from "after" among equals), BM25, kind and
  // key. Entries not valid at `now_unix_ms` are left out. The 64 heaviest words of the query that
  // the index knows (stop words only when there is nothing else) select at most 200 candidates by
  // BM25.
  absl::StatusOr<std::vector<RetrievalHit>> Query(absl::string_view text, int64_t now_unix_ms,
                                                  const RetrievalPolicy& policy = {}) const;

 private:
  class Index;
  explicit Retriever(std::unique_ptr<Index> index);
  std::unique_ptr<Index> index_;
};

}  // namespace evolora
