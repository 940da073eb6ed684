#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "evolora/core/trigger.h"
#include "fold.h"

namespace evolora {
namespace {

constexpr int kMaxTerms = 16;
constexpr int kMaxAllOfTerms = 4;   // these are searched exhaustively, any_of greedily
constexpr size_t kMaxPhrases = 64;  // longest shared phrases tried in combination
constexpr int kMinWordBytes = 4;    // shorter terms say nothing about a request
constexpr size_t kMaxPhraseBytes = 1000;
constexpr size_t kMaxCoverWords = 8;  // longest phrase of an any_of cover
constexpr size_t kMaxCoverPhrases = 2000;
constexpr size_t kMinCoverTexts = 2;  // one text's own phrase would be learned by heart

using Symbol = int32_t;
using Symbols = std::vector<Symbol>;
using TextSet = std::vector<bool>;  // one flag per text

bool IsWordByte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return absl::ascii_isalnum(byte) || byte >= 0x80 || c == '_';
}

int CountWordBytes(absl::string_view text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), IsWordByte));
}

// Without blanks and punctuation at both ends: they vary most between requests of one kind.
absl::string_view TrimToWords(absl::string_view text) {
  while (!text.empty() && !IsWordByte(text.front())) text.remove_prefix(1);
  while (!text.empty() && !IsWordByte(text.back())) text.remove_suffix(1);
  return text;
}

// Cuts a folded text into words, blanks and single other bytes.
std::vector<absl::string_view> Tokens(absl::string_view folded) {
  std::vector<absl::string_view> tokens;
  size_t begin = 0;
  while (begin < folded.size()) {
    size_t end = begin + 1;
    if (IsWordByte(folded[begin])) {
      while (end < folded.size() && IsWordByte(folded[end])) ++end;
    }
    tokens.push_back(folded.substr(begin, end - begin));
    begin = end;
  }
  return tokens;
}

// Suffix automaton of one text (Blumer et al. 1985): after Feed(s) `length` is the length of the
// longest suffix of everything fed that occurs in the text. Linear in both texts.
class Occurrences {
 public:
  explicit Occurrences(const Symbols& text) {
    states_.reserve(2 * text.size() + 1);
    states_.emplace_back();
    for (const Symbol symbol : text) Extend(symbol);
  }

  int Feed(Symbol symbol) {
    while (at_ != 0 && states_[at_].next.count(symbol) == 0) {
      at_ = states_[at_].link;
      length_ = states_[at_].length;
    }
    const auto it = states_[at_].next.find(symbol);
    if (it == states_[at_].next.end()) return length_ = 0;
    at_ = it->second;
    return ++length_;
  }

 private:
  struct State {
    int length = 0;
    int link = -1;
    std::map<Symbol, int> next;
  };

  void Extend(Symbol symbol) {
    const int added = Add({states_[last_].length + 1, 0, {}});
    int at = last_;
    last_ = added;
    while (at != -1 && states_[at].next.emplace(symbol, added).second) at = states_[at].link;
    if (at == -1) return;
    const int target = states_[at].next[symbol];
    states_[added].link = target;
    if (states_[at].length + 1 == states_[target].length) return;
    const int clone = Add({states_[at].length + 1, states_[target].link, states_[target].next});
    while (at != -1 && states_[at].next[symbol] == target) {
      states_[at].next[symbol] = clone;
      at = states_[at].link;
    }
    states_[target].link = clone;
    states_[added].link = clone;
  }

  int Add(State state) {
    states_.push_back(std::move(state));
    return static_cast<int>(states_.size()) - 1;
  }

  std::vector<State> states_;
  int last_ = 0;
  int at_ = 0;
  int length_ = 0;
};

Symbols ToSymbols(absl::string_view folded, std::map<std::string, Symbol>& ids) {
  Symbols symbols;
  for (const absl::string_view token : Tokens(folded)) {
    const auto next_id = static_cast<Symbol>(ids.size());
    symbols.push_back(ids.emplace(std::string(token), next_id).first->second);
  }
  return symbols;
}

struct Phrase {
  std::string text;
  TextSet outside;  // the outside texts that contain it
};

bool LongerFirst(const std::string& a, const std::string& b) {
  return a.size() != b.size() ? a.size() > b.size() : a < b;
}

TextSet TextsWith(const std::vector<std::string>& texts, const std::string& phrase) {
  TextSet found(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) found[i] = absl::StrContains(texts[i], phrase);
  return found;
}

// For each token of the first text the number of tokens, ending there, that all texts share.
std::vector<int> SharedLengths(const std::vector<std::string>& texts) {
  std::map<std::string, Symbol> ids;
  const Symbols first = ToSymbols(texts[0], ids);
  std::vector<int> shared(first.size());
  for (size_t i = 0; i < first.size(); ++i) shared[i] = static_cast<int>(i) + 1;
  for (size_t t = 1; t < texts.size(); ++t) {
    Occurrences occurrences(ToSymbols(texts[t], ids));
    for (size_t i = 0; i < first.size(); ++i) {
      shared[i] = std::min(shared[i], occurrences.Feed(first[i]));
    }
  }
  return shared;
}

// The longest token sequences that occur in every text, longest first; none lies in another one.
std::vector<std::string> SharedPhrases(const std::vector<std::string>& texts) {
  const std::vector<absl::string_view> tokens = Tokens(texts[0]);
  const std::vector<int> shared = SharedLengths(texts);
  std::set<std::string> phrases;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool goes_on = i + 1 < tokens.size() && shared[i + 1] == shared[i] + 1;
    if (shared[i] == 0 || goes_on) continue;
    const char* begin = tokens[i + 1 - static_cast<size_t>(shared[i])].data();
    const char* end = tokens[i].data() + tokens[i].size();
    const absl::string_view phrase =
        TrimToWords(absl::string_view(begin, static_cast<size_t>(end - begin)));
    if (CountWordBytes(phrase) >= kMinWordBytes && phrase.size() <= kMaxPhraseBytes) {
      phrases.emplace(phrase);
    }
  }
  std::vector<std::string> sorted(phrases.begin(), phrases.end());
  std::sort(sorted.begin(), sorted.end(), LongerFirst);
  if (sorted.size() > kMaxPhrases) sorted.resize(kMaxPhrases);
  return sorted;
}

// Picks `num_terms` phrases from `begin` on so that no text of `left` contains them all. Phrases
// come longest first, so the first pick found has the longest first phrase.
bool Exclude(const std::vector<Phrase>& phrases, size_t begin, int num_terms, const TextSet& left,
             std::vector<std::string>& picked) {
  for (size_t i = begin; i < phrases.size(); ++i) {
    TextSet rest(left.size());
    for (size_t t = 0; t < left.size(); ++t) rest[t] = left[t] && phrases[i].outside[t];
    const bool none_left = std::find(rest.begin(), rest.end(), true) == rest.end();
    if (!none_left && num_terms == 1) continue;
    picked.push_back(phrases[i].text);
    if (none_left || Exclude(phrases, i + 1, num_terms - 1, rest, picked)) return true;
    picked.pop_back();
  }
  return false;
}

std::vector<std::string> AllOfTerms(const std::vector<std::string>& inside,
                                    const std::vector<std::string>& outside, int max_terms) {
  std::vector<Phrase> phrases;
  for (std::string& text : SharedPhrases(inside)) {
    TextSet found = TextsWith(outside, text);
    phrases.push_back({std::move(text), std::move(found)});
  }
  std::vector<std::string> picked;
  for (int num_terms = 1; num_terms <= max_terms && picked.empty(); ++num_terms) {
    Exclude(phrases, 0, num_terms, TextSet(outside.size(), true), picked);
  }
  return picked;
}

// Calls visit(phrase) for every sequence of 1 to kMaxCoverWords words of a text, as it stands
// there.
template <typename Visit>
void ForEachPhrase(const std::string& folded, const Visit& visit) {
  std::vector<absl::string_view> words;
  for (const absl::string_view token : Tokens(folded)) {
    if (IsWordByte(token[0])) words.push_back(token);
  }
  for (size_t first = 0; first < words.size(); ++first) {
    const size_t end = std::min(words.size(), first + kMaxCoverWords);
    for (size_t last = first; last < end; ++last) {
      const char* stop = words[last].data() + words[last].size();
      visit(std::string_view(words[first].data(), static_cast<size_t>(stop - words[first].data())));
    }
  }
}

struct CoverPhrase {
  std::string_view text;       // lies in an inside text
  std::vector<size_t> inside;  // the inside texts it stands in
};

bool CoversMore(const CoverPhrase& a, const CoverPhrase& b) {
  if (a.inside.size() != b.inside.size()) return a.inside.size() > b.inside.size();
  return a.text.size() != b.text.size() ? a.text.size() > b.text.size() : a.text < b.text;
}

// Phrases of two or more inside texts that are no phrase of an outside text, best cover first.
std::vector<CoverPhrase> CoverPhrases(const std::vector<std::string>& inside,
                                      const std::vector<std::string>& outside) {
  std::unordered_map<std::string_view, std::vector<size_t>> texts_of;
  for (size_t i = 0; i < inside.size(); ++i) {
    ForEachPhrase(inside[i], [&](std::string_view phrase) {
      std::vector<size_t>& texts = texts_of[phrase];
      if (texts.empty() || texts.back() != i) texts.push_back(i);
    });
  }
  for (auto it = texts_of.begin(); it != texts_of.end();) {
    const absl::string_view phrase(it->first.data(), it->first.size());
    const bool useful =
        it->second.size() >= kMinCoverTexts && CountWordBytes(phrase) >= kMinWordBytes;
    it = useful ? std::next(it) : texts_of.erase(it);
  }
  for (const std::string& text : outside) {
    ForEachPhrase(text, [&](std::string_view phrase) { texts_of.erase(phrase); });
  }
  std::vector<CoverPhrase> phrases;
  phrases.reserve(texts_of.size());
  for (auto& [phrase, texts] : texts_of) phrases.push_back({phrase, std::move(texts)});
  std::sort(phrases.begin(), phrases.end(), CoversMore);
  if (phrases.size() > kMaxCoverPhrases) phrases.resize(kMaxCoverPhrases);
  return phrases;
}

// The phrase with the most texts that are not covered yet, the first among equals; nullptr when no
// phrase adds any.
const CoverPhrase* BestCover(const std::vector<CoverPhrase>& phrases, const TextSet& covered) {
  const CoverPhrase* best = nullptr;
  int64_t best_gain = 0;
  for (const CoverPhrase& phrase : phrases) {
    const int64_t gain = std::count_if(phrase.inside.begin(), phrase.inside.end(),
                                       [&](size_t text) { return !covered[text]; });
    if (gain <= best_gain) continue;
    best = &phrase;
    best_gain = gain;
  }
  return best;
}

std::vector<std::string> AnyOfTerms(const std::vector<std::string>& inside,
                                    const std::vector<std::string>& outside, int max_terms) {
  std::vector<CoverPhrase> phrases = CoverPhrases(inside, outside);
  TextSet covered(inside.size());
  std::vector<std::string> picked;
  while (std::find(covered.begin(), covered.end(), false) != covered.end()) {
    const CoverPhrase* best = BestCover(phrases, covered);
    if (best == nullptr || static_cast<int>(picked.size()) == max_terms) return {};
    const std::string term(best->text);
    // A phrase may still stand inside longer words of an outside text.
    const TextSet hits = TextsWith(outside, term);
    if (std::find(hits.begin(), hits.end(), true) == hits.end()) {
      for (const size_t text : best->inside) covered[text] = true;
      picked.push_back(term);
    }
    phrases.erase(phrases.begin() + (best - phrases.data()));
  }
  return picked;
}

// Folded and in an order that does not depend on the caller's, without repeats.
std::vector<std::string> FoldAll(absl::Span<const std::string> texts) {
  std::set<std::pair<size_t, std::string>> folded;
  for (const std::string& text : texts) {
    std::string one = FoldText(text);
    folded.emplace(one.size(), std::move(one));
  }
  std::vector<std::string> sorted;
  sorted.reserve(folded.size());
  for (const auto& [size, text] : folded) sorted.push_back(text);
  return sorted;
}

}  // namespace

absl::StatusOr<Trigger> DeriveTrigger(absl::Span<const std::string> inside,
                                      absl::Span<const std::string> outside, int max_terms) {
  if (inside.empty()) return absl::InvalidArgumentError("a trigger needs at least one inside text");
  if (max_terms < 1 || max_terms > kMaxTerms) {
    return absl::InvalidArgumentError("max_terms must lie in [1, 16]");
  }
  const std::vector<std::string> in = FoldAll(inside);
  const std::vector<std::string> out = FoldAll(outside);
  Trigger trigger;
  trigger.all_of = AllOfTerms(in, out, std::min(max_terms, kMaxAllOfTerms));
  if (!trigger.all_of.empty()) return trigger;
  trigger.any_of = AnyOfTerms(in, out, max_terms);
  if (!trigger.any_of.empty()) return trigger;
  return absl::NotFoundError("no shared phrases tell the inside texts from the outside texts");
}

}  // namespace evolora
