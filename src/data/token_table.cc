#include "token_table.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "utf8.h"

namespace evolora {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

}  // namespace

void TokenTable::SetBytes(TokenId id, std::string bytes, bool starts_word) {
  bytes_[static_cast<size_t>(id)] = std::move(bytes);
  starts_word_[static_cast<size_t>(id)] = starts_word ? 1 : 0;
}

void TokenTable::SetSpecial(TokenId id, const std::string& text) {
  is_special_[static_cast<size_t>(id)] = 1;
  special_ids_.emplace(text, id);
}

std::string TokenTable::Bytes(TokenId id) const {
  return IsSpecial(id) ? std::string() : bytes_[static_cast<size_t>(id)];
}

TokenId TokenTable::SpecialId(absl::string_view text) const {
  const auto it = special_ids_.find(text);
  return it == special_ids_.end() ? -1 : it->second;
}

absl::StatusOr<std::string> TokenTable::Decode(absl::Span<const TokenId> ids,
                                               StripBlanks strip) const {
  std::string text;
  bool strips = strip != StripBlanks::kNone;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!Has(ids[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("ids[", i, "] = ", ids[i], " is outside the vocabulary of ", size()));
    }
    if (IsSpecial(ids[i])) continue;
    absl::string_view bytes = bytes_[static_cast<size_t>(ids[i])];
    if (strips && starts_word_[static_cast<size_t>(ids[i])] != 0) bytes.remove_prefix(1);
    absl::StrAppend(&text, bytes);
    strips = strips && strip == StripBlanks::kWhileEmpty && text.empty();
  }
  return text;
}

absl::StatusOr<JoinedRuns> JoinedRuns::Create(absl::Span<const TextRun> runs) {
  JoinedRuns joined;
  size_t num_bytes = 0;
  for (const TextRun& run : runs) num_bytes += run.text.size();
  if (num_bytes > kMaxTextBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a text of ", num_bytes, " bytes; the limit is ", kMaxTextBytes));
  }
  joined.text_.reserve(num_bytes);
  for (const TextRun& run : runs) {
    absl::StrAppend(&joined.text_, run.text);
    joined.ends_.push_back(joined.text_.size());
    joined.special_.push_back(run.special == SpecialText::kAsTokens ? 1 : 0);
  }
  const size_t valid = ValidUtf8Prefix(joined.text_);
  if (valid != joined.text_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("text is not UTF-8 at byte ", valid));
  }
  return joined;
}

int32_t JoinedRuns::RunOfEnd(size_t end) const {
  return static_cast<int32_t>(std::lower_bound(ends_.begin(), ends_.end(), end) - ends_.begin());
}

bool JoinedRuns::AllowsSpecial(size_t begin, size_t end) const {
  const int32_t run = RunOfEnd(begin + 1);
  return special_[static_cast<size_t>(run)] != 0 && end <= ends_[static_cast<size_t>(run)];
}

}  // namespace evolora
