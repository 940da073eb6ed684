#pragma once

// Words of a text as SQLite's FTS5 tokenizer "porter unicode61" sees them. Private to state.

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/core/sqlite.h"

struct Fts5Tokenizer;
struct fts5_tokenizer;

namespace evolora::internal {

struct Word {
  std::string term;  // folded and stemmed: what two texts are compared by
  std::string raw;   // the bytes of the text
  // Looks like the name of something: holds an ASCII upper-case letter that is not just the first
  // letter of a sentence.
  bool is_name = false;
};

// Does not own the connection, which must outlive it. Thread-safe.
class WordSplitter {
 public:
  // Errors: Internal when SQLite has no FTS5.
  static absl::StatusOr<std::unique_ptr<WordSplitter>> Create(Sqlite& db);
  ~WordSplitter();
  WordSplitter(const WordSplitter&) = delete;
  WordSplitter& operator=(const WordSplitter&) = delete;

  std::vector<Word> Split(absl::string_view text) const;
  // Terms of function words and of words that carry questions, whatever these are about.
  const std::set<std::string>& stop_terms() const { return stop_terms_; }

 private:
  WordSplitter() = default;

  std::unique_ptr<fts5_tokenizer> methods_;
  Fts5Tokenizer* tokenizer_ = nullptr;
  std::set<std::string> stop_terms_;
};

}  // namespace evolora::internal
