#include "fts_words.h"

#include <sqlite3.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace evolora::internal {
namespace {

// Function words of English, then words in which a question is wrapped. "name" and the like are
// missing on purpose: they are often what is asked for, and idf weighs them.
constexpr char kStopWords[] =
    "a about after all also am an and any are as at be because been before being between both but "
    "by did do does done during each either else ever for from get got had has have having he her "
    "here him his how i if in into is it its itself just let ll may me might more most much must "
    "my "
    "no nor not of off on once one only onto or other our ours out over own per re s same shall "
    "she "
    "should so some such t than that the their them then there these they this those through thus "
    "till to too under until up upon us ve very was we were what when where whether which while "
    "who "
    "whom whose why will with within without you your yours "
    "answer answers ask asked asking brief briefly can concisely correct could curious exactly "
    "explain following give given hello help hey hi kindly know known like looking me need okay "
    "please precisely question questions quick quickly reply respond response say sentence short "
    "shortly simply tell thank thanks want wonder wondering word words would";

bool IsSentenceStart(absl::string_view before) {
  while (!before.empty()) {
    const char c = before.back();
    if (c == '\n' || c == '.' || c == '!' || c == '?' || c == ':') return true;
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == ',' || (c & 0x80) != 0) {
      return false;
    }
    before.remove_suffix(1);
  }
  return true;
}

bool LooksLikeName(absl::string_view text, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    if (i > begin && absl::ascii_isupper(static_cast<unsigned char>(text[i]))) return true;
  }
  return absl::ascii_isupper(static_cast<unsigned char>(text[begin])) &&
         !IsSentenceStart(text.substr(0, begin));
}

struct Collected {
  absl::string_view text;
  std::vector<Word> words;
};

int Collect(void* context, int flags, const char* token, int num_bytes, int begin, int end) {
  auto& out = *static_cast<Collected*>(context);
  if ((flags & FTS5_TOKEN_COLOCATED) != 0) return SQLITE_OK;
  const auto from = static_cast<size_t>(begin);
  const auto to = static_cast<size_t>(end);
  Word word;
  word.term.assign(token, static_cast<size_t>(num_bytes));
  word.raw = std::string(out.text.substr(from, to - from));
  word.is_name = LooksLikeName(out.text, from, to);
  out.words.push_back(std::move(word));
  return SQLITE_OK;
}

// The documented way to FTS5's C interface: a pointer passed through an SQL function.
fts5_api* FindFts5(sqlite3* db) {
  sqlite3_stmt* statement = nullptr;
  fts5_api* api = nullptr;
  if (sqlite3_prepare_v2(db, "SELECT fts5(?1)", -1, &statement, nullptr) != SQLITE_OK) {
    return nullptr;
  }
  sqlite3_bind_pointer(statement, 1, &api, "fts5_api_ptr", nullptr);
  sqlite3_step(statement);
  sqlite3_finalize(statement);
  return api;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WordSplitter>> WordSplitter::Create(Sqlite& db) {
  std::unique_ptr<WordSplitter> out(new WordSplitter);
  out->methods_ = std::make_unique<fts5_tokenizer>();
  fts5_api* api = FindFts5(db.handle());
  void* user_data = nullptr;
  if (api == nullptr || api->xFindTokenizer(api, "porter", &user_data, out->methods_.get()) != 0) {
    return absl::InternalError("this SQLite has no FTS5 with the porter tokenizer");
  }
  const char* arguments[] = {"unicode61", "remove_diacritics", "2"};
  if (out->methods_->xCreate(user_data, arguments, 3, &out->tokenizer_) != SQLITE_OK) {
    return absl::InternalError("FTS5: cannot create the porter unicode61 tokenizer");
  }
  for (const Word& word : out->Split(kStopWords)) out->stop_terms_.insert(word.term);
  return out;
}

WordSplitter::~WordSplitter() {
  if (tokenizer_ != nullptr) methods_->xDelete(tokenizer_);
}

std::vector<Word> WordSplitter::Split(absl::string_view text) const {
  Collected out{text, {}};
  // The callback never fails, so only lack of memory could; it leaves the words found so far.
  methods_->xTokenize(tokenizer_, &out, FTS5_TOKENIZE_DOCUMENT, text.data(),
                      static_cast<int>(std::min<size_t>(text.size(), size_t{1} << 30)), Collect);
  return std::move(out.words);
}

}  // namespace evolora::internal
