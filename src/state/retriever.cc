#include "evolora/state/retriever.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
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

enum class WordKind { kName, kNumber, kContent, kStop };

// The distinct terms of one query, each with its weight and one spelling.
struct QueryTerm {
  WordKind kind = WordKind::kContent;
  double weight = 0;
  std::string raw;
};
using QueryTerms = std::map<std::string, QueryTerm>;

// How much of one text's weight another text holds, by kind of word.
class Share {
 public:
  void Add(WordKind kind, double weight, bool found) {
    all_[static_cast<size_t>(kind)] += weight;
    if (found) found_[static_cast<size_t>(kind)] += weight;
  }
  // The smallest over names, numbers and content words; stop words count only when there is nothing
  // else.
  double Coverage() const {
    if (all_[0] + all_[1] + all_[2] == 0) return Of(3, 0);
    return std::min({Of(0, 1), Of(1, 1), Of(2, 1)});
  }
  // Over all words alike.
  double Total() const {
    const double all = std::accumulate(all_.begin(), all_.end(), 0.0);
    return all == 0 ? 0 : std::accumulate(found_.begin(), found_.end(), 0.0) / all;
  }

 private:
  double Of(size_t kind, double if_none) const {
    return all_[kind] == 0 ? if_none : found_[kind] / all_[kind];
  }
  std::array<double, 4> all_ = {};
  std::array<double, 4> found_ = {};
};

// A hit and how alike the two texts are, stop words included: it ranks equal coverages.
struct RankedHit {
  RetrievalHit hit;
  double likeness = 0;
};

double Coverage(const RetrievalHit& hit) {
  return std::min(hit.query_coverage, hit.entry_coverage);
}

// The text itself and, when it has several, its sentences: what is asked is often one of them
// ("Quick quiz! Which ...?", "Question: Which ...?"), and the others would only dilute it.
std::vector<absl::string_view> WholeAndSentences(absl::string_view text) {
  constexpr size_t kMaxSentences = 16;
  std::vector<absl::string_view> parts = {text};
  for (absl::string_view sentence : absl::StrSplit(text, absl::ByAnyChar(".!?:;\n"))) {
    sentence = absl::StripAsciiWhitespace(sentence);
    if (sentence.empty() || sentence.size() == text.size()) continue;
    if (parts.size() <= kMaxSentences) parts.push_back(sentence);
  }
  return parts;
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
    std::vector<RankedHit> hits;
    if (match.empty()) return std::vector<RetrievalHit>();
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
    return BestFirst(std::move(hits), policy.limit);
  }

 private:
  static std::vector<RetrievalHit> BestFirst(std::vector<RankedHit> hits, int limit) {
    const auto order = [](const RankedHit& h) {
      return std::make_tuple(-Coverage(h.hit), -h.likeness, -h.hit.bm25,
                             std::tie(h.hit.kind, h.hit.key));
    };
    std::sort(hits.begin(), hits.end(),
              [&](const RankedHit& a, const RankedHit& b) { return order(a) < order(b); });
    std::vector<RetrievalHit> out;
    for (RankedHit& hit : hits) {
      if (static_cast<int64_t>(out.size()) >= limit) break;
      out.push_back(std::move(hit.hit));
    }
    return out;
  }

  void Learn(const Word& word, std::set<std::string>& terms) {
    terms.insert(word.term);
    if (word.is_name) names_.insert(word.term);
  }

  WordKind KindOf(const std::string& term, bool looks_like_name) const {
    if (term.find_first_of("0123456789") != std::string::npos) return WordKind::kNumber;
    if (splitter_->stop_terms().count(term) != 0) return WordKind::kStop;
    return looks_like_name || names_.count(term) != 0 ? WordKind::kName : WordKind::kContent;
  }

  double Weight(const std::string& term) const {
    const auto it = document_count_.find(term);
    const double df = it == document_count_.end() ? 0 : static_cast<double>(it->second);
    return std::log1p((static_cast<double>(items_.size()) + kPseudoItems) / (df + 1));
  }

  QueryTerms TermsOf(absl::string_view text) const {
    QueryTerms terms;
    for (Word& word : splitter_->Split(text)) {
      const auto [it, is_new] = terms.try_emplace(word.term);
      const WordKind kind = KindOf(word.term, word.is_name);
      // One look as a name is enough, wherever the word stands.
      if (is_new || kind == WordKind::kName) it->second.kind = kind;
      it->second.weight = Weight(word.term);
      it->second.raw = std::move(word.raw);
    }
    return terms;
  }

  // "w1" OR "w2" ...: the heaviest words that the index holds, each as a quoted FTS5 string.
  std::string MatchExpression(const QueryTerms& query) const {
    std::vector<std::pair<double, std::string>> known;
    bool only_stops = true;
    for (const auto& [term, word] : query) {
      if (document_count_.count(term) == 0) continue;
      const bool is_stop = word.kind == WordKind::kStop;
      if (!is_stop && std::exchange(only_stops, false)) known.clear();
      if (is_stop && !only_stops) continue;
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

  RankedHit Judge(const Item& item, double bm25, const QueryTerms& query,
                  const RetrievalPolicy& policy) const {
    Share of_query;
    for (const auto& [term, word] : query) {
      of_query.Add(word.kind, word.weight, item.all_terms.count(term) != 0);
    }
    Share of_entry;
    for (const std::string& term : item.subject_terms) {
      const auto it = query.find(term);
      const bool found = it != query.end();
      of_entry.Add(found ? it->second.kind : KindOf(term, false), Weight(term), found);
    }
    RetrievalHit hit{item.kind, item.key, bm25};
    hit.query_coverage = of_query.Coverage();
    hit.entry_coverage = of_entry.Coverage();
    hit.relevant = hit.query_coverage >= policy.min_query_coverage &&
                   hit.entry_coverage >= policy.min_entry_coverage;
    return {std::move(hit), std::min(of_query.Total(), of_entry.Total())};
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
  std::map<std::pair<std::string, std::string>, RetrievalHit> best;  // by kind and key
  for (const absl::string_view part : WholeAndSentences(text)) {
    ASSIGN_OR_RETURN(std::vector<RetrievalHit> hits, index_->Query(part, now_unix_ms, policy));
    for (RetrievalHit& hit : hits) {
      const auto [it, is_new] = best.try_emplace({hit.kind, hit.key}, hit);
      if (!is_new && Coverage(hit) > Coverage(it->second)) it->second = std::move(hit);
    }
  }
  std::vector<RetrievalHit> out;
  for (auto& [key, hit] : best) out.push_back(std::move(hit));
  std::stable_sort(out.begin(), out.end(), [](const RetrievalHit& a, const RetrievalHit& b) {
    return std::make_pair(Coverage(a), a.bm25) > std::make_pair(Coverage(b), b.bm25);
  });
  if (out.size() > static_cast<size_t>(policy.limit)) out.resize(static_cast<size_t>(policy.limit));
  return out;
}

}  // namespace evolora
