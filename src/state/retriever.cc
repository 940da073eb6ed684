#include "evolora/state/retriever.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "evolora/core/sqlite.h"
#include "evolora/core/status_macros.h"
#include "fts_words.h"

namespace evolora {
namespace {

using internal::Word;
using internal::WordSplitter;

constexpr int kMaxQueryTerms = 64;
constexpr int kMaxCandidates = 200;
constexpr double kNameFactor = 3;
constexpr double kStopFactor = 1.0 / 50;
constexpr double kPseudoItems = 10;

constexpr char kCreate[] =
    "CREATE VIRTUAL TABLE item USING fts5(subject, rule, "
    "tokenize='porter unicode61 remove_diacritics 2')";
constexpr char kSearch[] =
    "SELECT rowid, bm25(item, 1.0, 0.5) FROM item WHERE item MATCH ?1 "
    "ORDER BY bm25(item, 1.0, 0.5), rowid LIMIT ?2";

struct Item {
  std::string kind;
  std::string key;
  int64_t valid_from_unix_ms = 0;
  int64_t valid_until_unix_ms = 0;
  std::set<std::string> subject_terms;  // of question or description
  std::set<std::string> all_terms;      // and of the rule
};

// The distinct terms of one query, each with its weight and one spelling.
struct QueryTerm {
  double weight = 0;
  bool is_stop = false;
  std::string raw;
};
using QueryTerms = std::map<std::string, QueryTerm>;

double Coverage(const RetrievalHit& hit) {
  return std::min(hit.query_coverage, hit.entry_coverage);
}

}  // namespace

class Retriever::Index {
 public:
  static absl::StatusOr<std::unique_ptr<Index>> Create() {
    auto out = std::make_unique<Index>();
    ASSIGN_OR_RETURN(out->db_, Sqlite::Open(":memory:"));
    ASSIGN_OR_RETURN(out->splitter_, WordSplitter::Create(*out->db_));
    RETURN_IF_ERROR(out->db_->Execute(kCreate));
    return out;
  }

  absl::Status Add(Item item, const std::string& subject, const std::string& rule) {
    for (const Word& word : splitter_->Split(subject)) Learn(word, item.subject_terms);
    item.all_terms = item.subject_terms;
    for (const Word& word : splitter_->Split(rule)) Learn(word, item.all_terms);
    for (const std::string& term : item.all_terms) ++document_count_[term];
    items_.push_back(std::move(item));
    ASSIGN_OR_RETURN(SqliteStatement insert,
                     db_->Prepare("INSERT INTO item(rowid, subject, rule) VALUES(?1, ?2, ?3)"));
    insert.BindInt64(1, static_cast<int64_t>(items_.size()));
    return insert.BindText(2, subject).BindText(3, rule).Run();
  }

  absl::StatusOr<std::vector<RetrievalHit>> Query(absl::string_view text, int64_t now_unix_ms,
                                                  const RetrievalPolicy& policy) const {
    const QueryTerms query = TermsOf(text);
    const std::string match = MatchExpression(query);
    std::vector<RetrievalHit> hits;
    if (match.empty()) return hits;
    absl::MutexLock lock(&mutex_);
    ASSIGN_OR_RETURN(SqliteStatement search, db_->Prepare(kSearch));
    search.BindText(1, match).BindInt64(2, kMaxCandidates);
    while (true) {
      ASSIGN_OR_RETURN(const bool row, search.Step());
      if (!row) break;
      const Item& item = items_[static_cast<size_t>(search.Int64(0) - 1)];
      const bool ended = item.valid_until_unix_ms != 0 && now_unix_ms >= item.valid_until_unix_ms;
      if (now_unix_ms < item.valid_from_unix_ms || ended) continue;
      hits.push_back(Judge(item, -search.Double(1), query, policy));
    }
    std::sort(hits.begin(), hits.end(), [](const RetrievalHit& a, const RetrievalHit& b) {
      return std::make_tuple(-Coverage(a), -a.bm25, std::tie(a.kind, a.key)) <
             std::make_tuple(-Coverage(b), -b.bm25, std::tie(b.kind, b.key));
    });
    if (hits.size() > static_cast<size_t>(std::max(0, policy.limit))) hits.resize(policy.limit);
    return hits;
  }

 private:
  void Learn(const Word& word, std::set<std::string>& terms) {
    terms.insert(word.term);
    if (word.is_name) names_.insert(word.term);
  }

  bool IsStop(const std::string& term) const { return splitter_->stop_terms().count(term) != 0; }

  double Weight(const std::string& term, bool is_name) const {
    const auto it = document_count_.find(term);
    const double df = it == document_count_.end() ? 0 : static_cast<double>(it->second);
    const double idf = std::log1p((static_cast<double>(items_.size()) + kPseudoItems) / (df + 1));
    if (IsStop(term)) return idf * kStopFactor;
    return is_name || names_.count(term) != 0 ? idf * kNameFactor : idf;
  }

  QueryTerms TermsOf(absl::string_view text) const {
    std::map<std::string, Word> words;
    for (Word& word : splitter_->Split(text)) {
      Word& kept = words[word.term];
      kept.is_name |= word.is_name;
      kept.raw = std::move(word.raw);
    }
    QueryTerms terms;
    for (auto& [term, word] : words) {
      terms[term] = {Weight(term, word.is_name), IsStop(term), std::move(word.raw)};
    }
    return terms;
  }

  // "w1" OR "w2" ...: the heaviest words that the index holds, each as a quoted FTS5 string.
  std::string MatchExpression(const QueryTerms& query) const {
    std::vector<std::pair<double, std::string>> known;
    bool only_stops = true;
    for (const auto& [term, word] : query) {
      if (document_count_.count(term) == 0) continue;
      if (!word.is_stop && std::exchange(only_stops, false)) known.clear();
      if (word.is_stop && !only_stops) continue;
      known.emplace_back(-word.weight, word.raw);
    }
    std::sort(known.begin(), known.end());
    if (known.size() > kMaxQueryTerms) known.resize(kMaxQueryTerms);
    std::string match;
    for (const auto& [weight, raw] : known) {
      absl::StrAppend(&match, match.empty() ? "" : " OR ", "\"", raw, "\"");
    }
    return match;
  }

  RetrievalHit Judge(const Item& item, double bm25, const QueryTerms& query,
                     const RetrievalPolicy& policy) const {
    double query_total = 0;
    double query_found = 0;
    double entry_found = 0;
    for (const auto& [term, word] : query) {
      query_total += word.weight;
      if (item.all_terms.count(term) != 0) query_found += word.weight;
      if (item.subject_terms.count(term) != 0) entry_found += word.weight;
    }
    double entry_total = 0;
    for (const std::string& term : item.subject_terms) {
      const auto it = query.find(term);
      entry_total += it != query.end() ? it->second.weight : Weight(term, false);
    }
    RetrievalHit hit{item.kind, item.key, bm25};
    if (query_total > 0) hit.query_coverage = query_found / query_total;
    if (entry_total > 0) hit.entry_coverage = entry_found / entry_total;
    hit.relevant = hit.query_coverage >= policy.min_query_coverage &&
                   hit.entry_coverage >= policy.min_entry_coverage;
    return hit;
  }

  // The tokenizer belongs to the connection: declared first, destroyed last.
  mutable absl::Mutex mutex_;
  std::unique_ptr<Sqlite> db_;
  std::unique_ptr<WordSplitter> splitter_;
  std::vector<Item> items_;  // rowid - 1
  std::map<std::string, int64_t> document_count_;
  std::set<std::string> names_;
};

Retriever::Retriever(std::unique_ptr<Index> index) : index_(std::move(index)) {}
Retriever::~Retriever() = default;

absl::StatusOr<std::unique_ptr<Retriever>> Retriever::Build(const ArtifactState& state) {
  ASSIGN_OR_RETURN(std::unique_ptr<Index> index, Index::Create());
  for (const auto& [key, entry] : state.knowledge) {
    Item item{"knowledge", key, entry.valid_from_unix_ms, entry.valid_until_unix_ms};
    RETURN_IF_ERROR(index->Add(std::move(item), entry.question, entry.rule));
  }
  for (const auto& [name, skill] : state.skills) {
    RETURN_IF_ERROR(index->Add({"skill", name}, skill.description, ""));
  }
  return std::unique_ptr<Retriever>(new Retriever(std::move(index)));
}

absl::StatusOr<std::vector<RetrievalHit>> Retriever::Query(absl::string_view text,
                                                           int64_t now_unix_ms,
                                                           const RetrievalPolicy& policy) const {
  return index_->Query(text, now_unix_ms, policy);
}

}  // namespace evolora
