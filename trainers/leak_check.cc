#include "evolora/trainers/leak_check.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "evolora/trainers/data_lint.h"

namespace evolora {
namespace {

// Lower-case words; everything that is neither a letter, a digit nor a non-ASCII byte separates.
std::vector<std::string> Words(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || byte >= 0x80) {
      word += static_cast<char>(std::tolower(byte));
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

// Word 3-grams; a shorter text is one gram as a whole.
std::set<std::string> Grams(const std::vector<std::string>& words) {
  constexpr size_t kOrder = 3;
  std::set<std::string> grams;
  if (words.size() < kOrder) {
    if (!words.empty()) grams.insert(absl::StrJoin(words, " "));
    return grams;
  }
  for (size_t i = 0; i + kOrder <= words.size(); ++i) {
    grams.insert(absl::StrCat(words[i], " ", words[i + 1], " ", words[i + 2]));
  }
  return grams;
}

std::string Opening(const std::string& text) {
  return text.size() <= 60 ? text : absl::StrCat(text.substr(0, 60), "...");
}

// A training text too near to a protected one.
struct Leak {
  size_t training;
  size_t guarded;
  double shared;  // of the 3-grams
};

// All pairs, by training text, then protected text.
std::vector<Leak> FindLeaks(absl::Span<const std::string> training_texts,
                            absl::Span<const std::string> protected_texts, double near_duplicate) {
  std::vector<std::set<std::string>> guarded(protected_texts.size());
  std::map<std::string, std::vector<size_t>> guarded_by_gram;
  for (size_t p = 0; p < protected_texts.size(); ++p) {
    guarded[p] = Grams(Words(protected_texts[p]));
    for (const std::string& gram : guarded[p]) guarded_by_gram[gram].push_back(p);
  }
  std::vector<Leak> leaks;
  for (size_t t = 0; t < training_texts.size(); ++t) {
    const std::set<std::string> grams = Grams(Words(training_texts[t]));
    std::map<size_t, size_t> num_shared;  // protected text -> grams in common
    for (const std::string& gram : grams) {
      const auto found = guarded_by_gram.find(gram);
      if (found == guarded_by_gram.end()) continue;
      for (const size_t p : found->second) ++num_shared[p];
    }
    for (const auto& [p, shared] : num_shared) {
      const double united = static_cast<double>(grams.size() + guarded[p].size() - shared);
      const double jaccard = static_cast<double>(shared) / united;
      if (jaccard >= near_duplicate) leaks.push_back({t, p, jaccard});
    }
  }
  return leaks;
}

// `name(t)`: what training text t is called.
absl::Status Refuse(const std::vector<Leak>& leaks, absl::Span<const std::string> training_texts,
                    absl::Span<const std::string> protected_texts, double near_duplicate,
                    const std::function<std::string(size_t)>& name) {
  constexpr size_t kMaxNamed = 5;
  std::vector<std::string> named;
  for (const Leak& leak : leaks) {
    if (named.size() == kMaxNamed) {
      named.push_back(absl::StrCat("and ", leaks.size() - kMaxNamed, " more"));
      break;
    }
    named.push_back(absl::StrCat(name(leak.training), " ('", Opening(training_texts[leak.training]),
                                 "') is a near-duplicate (", leak.shared,
                                 " of 3-grams shared, less than ", near_duplicate,
                                 " allowed) of protected text ", leak.guarded, " ('",
                                 Opening(protected_texts[leak.guarded]), "')"));
  }
  if (named.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrJoin(named, "; "));
}

}  // namespace

absl::Status CheckNoLeak(absl::Span<const std::string> training_texts,
                         absl::Span<const std::string> protected_texts, double near_duplicate) {
  const auto name = [](size_t t) { return absl::StrCat("training text ", t); };
  return Refuse(FindLeaks(training_texts, protected_texts, near_duplicate), training_texts,
                protected_texts, near_duplicate, name);
}

absl::Status CheckRowsLeakNothing(absl::Span<const TrainingRow> rows,
                                  absl::Span<const std::string> protected_texts,
                                  double near_duplicate) {
  std::vector<std::string> texts;
  for (const TrainingRow& row : rows) texts.push_back(row.text);
  const auto name = [rows](size_t t) { return RowName(rows, t); };
  return Refuse(FindLeaks(texts, protected_texts, near_duplicate), texts, protected_texts,
                near_duplicate, name);
}

int64_t CountRowsWithoutText(absl::Span<const TrainingRow> rows) {
  return std::count_if(rows.begin(), rows.end(),
                       [](const TrainingRow& row) { return row.text.empty(); });
}

}  // namespace evolora
