#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/status_macros.h"
#include "evolora/core/tokenizer.h"
#include "token_table.h"

namespace evolora {

// What all tokenizers with a token table share: everything but the way text is cut (EncodeRuns).
class TableTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<TokenId>> Encode(absl::string_view text,
                                              SpecialText special) const final {
    const TextRun run{text, special};
    ASSIGN_OR_RETURN(EncodedRuns encoded, EncodeRuns({&run, 1}));
    return std::move(encoded.ids);
  }
  absl::StatusOr<std::string> Decode(absl::Span<const TokenId> ids) const final {
    return table_.Decode(ids, strip_);
  }
  std::string TokenBytes(TokenId id) const final { return table_.Bytes(id); }
  int32_t vocab_size() const final { return table_.size(); }
  bool IsSpecial(TokenId id) const final { return table_.IsSpecial(id); }
  TokenId bos_id() const final { return bos_id_; }
  TokenId eos_id() const final { return eos_id_; }
  bool adds_bos() const final { return adds_bos_; }
  TokenId SpecialId(absl::string_view text) const final { return table_.SpecialId(text); }

 protected:
  explicit TableTokenizer(TokenTable table) : table_(std::move(table)) {}

  TokenTable table_;
  StripBlanks strip_ = StripBlanks::kNone;
  TokenId bos_id_ = -1;
  TokenId eos_id_ = -1;
  bool adds_bos_ = false;
};

}  // namespace evolora
