#include "evolora/trainers/leak_check.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

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

}  // namespace

absl::Status CheckNoLeak(absl::Span<const std::string> training_texts,
                         absl::Span<const std::string> protected_texts, double near_duplicate) {
  std::vector<std::set<std::string>> guarded(protected_texts.size());
  std::map<std::string, std::vector<size_t>> guarded_by_gram;
  for (size_t p = 0; p < protected_texts.size(); ++p) {
    guarded[p] = Grams(Words(protected_texts[p]));
    for (const std::string& gram : guarded[p]) guarded_by_gram[gram].push_back(p);
  }
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
      if (jaccard < near_duplicate) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "training text ", t, " ('", Opening(training_texts[t]), "') is a near-duplicate (", jaccard,
          " of 3-grams shared) of protected text ", p, " ('", Opening(protected_texts[p]), "')"));
    }
  }
  return absl::OkStatus();
}

}  // namespace evolora
