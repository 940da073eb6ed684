#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/tokenizer.h"

namespace evolora {

// Which blanks of a decoded text's beginning are the encoder's dummy prefix.
enum class StripBlanks {
  kNone,
  kFirstToken,  // one blank of the first token
  kWhileEmpty,  // one blank of each token until there is text
};

// What every tokenizer knows about its ids: bytes, and which are special. Immutable once filled.
class TokenTable {
 public:
  explicit TokenTable(size_t num_tokens)
      : bytes_(num_tokens), is_special_(num_tokens, 0), starts_word_(num_tokens, 0) {}

  // `starts_word`: the first byte is a blank that the tokenizer wrote as U+2581.
  void SetBytes(TokenId id, std::string bytes, bool starts_word = false);
  void SetSpecial(TokenId id, const std::string& text);

  int32_t size() const { return static_cast<int32_t>(bytes_.size()); }
  bool Has(TokenId id) const { return id >= 0 && id < size(); }
  bool IsSpecial(TokenId id) const { return Has(id) && is_special_[static_cast<size_t>(id)] != 0; }
  // "" for a special token. REQUIRES: Has(id).
  std::string Bytes(TokenId id) const;
  TokenId SpecialId(absl::string_view text) const;

  // Joined bytes without special tokens. InvalidArgument: an id outside the table.
  absl::StatusOr<std::string> Decode(absl::Span<const TokenId> ids, StripBlanks strip) const;

 private:
  std::vector<std::string> bytes_;
  std::vector<uint8_t> is_special_;
  std::vector<uint8_t> starts_word_;
  absl::flat_hash_map<std::string, TokenId> special_ids_;
};

// The runs of one Encode call as one text.
class JoinedRuns {
 public:
  // Errors: InvalidArgument: the text is not UTF-8 (byte offset); ResourceExhausted: over 1 GiB.
  static absl::StatusOr<JoinedRuns> Create(absl::Span<const TextRun> runs);

  const std::string& text() const { return text_; }
  // The run that holds the byte before `end`. REQUIRES: 1 <= end <= text().size().
  int32_t RunOfEnd(size_t end) const;
  // Whether [begin, end) lies inside one kAsTokens run. REQUIRES: begin < end.
  bool AllowsSpecial(size_t begin, size_t end) const;

 private:
  std::string text_;
  std::vector<size_t> ends_;      // of each run
  std::vector<uint8_t> special_;  // run is kAsTokens
};

}  // namespace evolora
