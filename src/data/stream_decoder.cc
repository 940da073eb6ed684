#include "evolora/data/stream_decoder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "utf8.h"

namespace evolora {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

// Appends the characters of `bytes` to `out`, invalid sequences as U+FFFD; returns the unfinished
// character at the end.
absl::string_view AppendComplete(absl::string_view bytes, std::string& out) {
  while (!bytes.empty()) {
    const Utf8Step step = DecodeUtf8(bytes);
    if (step.kind == Utf8Step::Kind::kIncomplete) return bytes;
    if (step.kind == Utf8Step::Kind::kInvalid) {
      out += kReplacement;
    } else {
      out.append(bytes.data(), step.num_bytes);
    }
    bytes.remove_prefix(step.num_bytes);
  }
  return bytes;
}

}  // namespace

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)) {}

absl::StatusOr<std::string> StreamDecoder::Push(TokenId id) {
  if (id < 0 || id >= tokenizer_->vocab_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("id ", id, " is outside the vocabulary of ", tokenizer_->vocab_size()));
  }
  if (tokenizer_->IsSpecial(id)) return std::string();
  std::string bytes = std::move(pending_);
  if (at_start_) {
    start_ids_.push_back(id);
    absl::StatusOr<std::string> first = tokenizer_->Decode(start_ids_);
    if (!first.ok()) return first.status();
    bytes = *first;
    at_start_ = bytes.empty();
    if (!at_start_) start_ids_.clear();
  } else {
    bytes += tokenizer_->TokenBytes(id);
  }
  std::string text;
  pending_ = std::string(AppendComplete(bytes, text));
  return text;
}

std::string StreamDecoder::Finish() {
  std::string text = pending_.empty() ? "" : kReplacement;
  pending_.clear();
  start_ids_.clear();
  at_start_ = true;
  return text;
}

}  // namespace evolora
