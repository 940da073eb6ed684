#include "regex_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "regex_translate.h"

namespace evolora {
namespace {

constexpr size_t kMaxPatternBytes = 16 << 10;
constexpr uint32_t kMatchLimit = 10'000'000;

struct FreeCode {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
struct FreeContext {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};

std::string PcreMessage(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

PCRE2_SPTR Units(absl::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

struct RegexSplitter::Code {
  std::unique_ptr<pcre2_code, FreeCode> code;
  std::unique_ptr<pcre2_match_context, FreeContext> context;
  std::string pattern;
};

RegexSplitter::RegexSplitter(std::unique_ptr<Code> code) : code_(std::move(code)) {}
RegexSplitter::RegexSplitter(RegexSplitter&&) noexcept = default;
RegexSplitter& RegexSplitter::operator=(RegexSplitter&&) noexcept = default;
RegexSplitter::~RegexSplitter() = default;

absl::StatusOr<RegexSplitter> RegexSplitter::Create(absl::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a regex of ", pattern.size(), " bytes; the limit is ", kMaxPatternBytes));
  }
  ASSIGN_OR_RETURN(const std::string translated, TranslateRegex(pattern));
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto owned = std::make_unique<Code>();
  owned->pattern = std::string(pattern);
  owned->code.reset(pcre2_compile(Units(translated), translated.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                  nullptr));
  if (owned->code == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("regex '", pattern, "': ", PcreMessage(error)));
  }
  uint32_t matches_empty = 0;
  pcre2_pattern_info(owned->code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0) {
    return absl::InvalidArgumentError(absl::StrCat("regex '", pattern, "' can match nothing"));
  }
  // Without JIT support pcre2_match interprets: slower, same matches.
  (void)pcre2_jit_compile(owned->code.get(), PCRE2_JIT_COMPLETE);
  owned->context.reset(pcre2_match_context_create(nullptr));
  if (owned->context == nullptr) return absl::ResourceExhaustedError("no memory for a regex");
  pcre2_set_match_limit(owned->context.get(), kMatchLimit);
  return RegexSplitter(std::move(owned));
}

absl::Status RegexSplitter::Split(absl::string_view text,
                                  std::vector<absl::string_view>& pieces) const {
  std::unique_ptr<pcre2_match_data, FreeMatchData> match(pcre2_match_data_create(1, nullptr));
  if (match == nullptr) return absl::ResourceExhaustedError("no memory for a regex match");
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.get());
  // The text is known to be UTF-8; checking it again at every match would take quadratic time.
  constexpr uint32_t kOptions = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
  size_t at = 0;
  while (at < text.size()) {
    int rc = pcre2_match(code_->code.get(), Units(text), text.size(), at, kOptions, match.get(),
                         code_->context.get());
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its stack on the heap
      rc = pcre2_match(code_->code.get(), Units(text), text.size(), at, kOptions | PCRE2_NO_JIT,
                       match.get(), code_->context.get());
    }
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return absl::ResourceExhaustedError(absl::StrCat("regex '", code_->pattern, "' at byte ", at,
                                                       " of the text: ", PcreMessage(rc)));
    }
    if (ends[0] > at) pieces.push_back(text.substr(at, ends[0] - at));
    pieces.push_back(text.substr(ends[0], ends[1] - ends[0]));
    at = ends[1];
  }
  if (at < text.size()) pieces.push_back(text.substr(at));
  return absl::OkStatus();
}

}  // namespace evolora
