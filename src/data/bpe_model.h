#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/data/tokenizer_spec.h"

namespace evolora {

// Byte-pair encoding of one word (Sennrich et al. 2016) with Hugging Face's order of merges: the
// lowest rank first, of equal ranks the leftmost. Immutable, thread-safe.
class BpeModel {
 public:
  struct Symbol {
    TokenId id;
    uint32_t end;  // the symbol covers the word up to this byte
  };

  // Reads tokens, merges, unk_id, fuse_unk, byte_fallback and ignore_merges; `kind` says whether
  // words are bytes or characters. Special tokens can not come out of it.
  // Errors: InvalidArgument names the token or the merge.
  static absl::StatusOr<BpeModel> Create(const TokenizerSpec& spec);

  // Appends the symbols of `word`. REQUIRES: `word` is valid UTF-8, under 2^32 bytes.
  void Encode(absl::string_view word, std::vector<Symbol>& out) const;

 private:
  struct Merge {
    int32_t rank;
    TokenId id;
  };
  static constexpr int32_t kNoMerge = INT32_MAX;

  absl::Status AddTokens(const TokenizerSpec& spec);
  absl::Status AddMerges(const TokenizerSpec& spec);
  absl::Status AddByteTokens();
  void SplitBytes(absl::string_view word, std::vector<Symbol>& out) const;
  void SplitCharacters(absl::string_view word, std::vector<Symbol>& out) const;
  const Merge* Find(TokenId left, TokenId right) const;
  void MergeShort(std::vector<Symbol>& symbols, size_t first) const;
  void MergeLong(std::vector<Symbol>& symbols, size_t first) const;

  TokenizerKind kind_ = TokenizerKind::kByteLevelBpe;
  TokenId unk_id_ = -1;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  absl::flat_hash_map<std::string, TokenId> ids_;  // by text as in the vocabulary
  absl::flat_hash_map<uint64_t, Merge> merges_;    // by (left << 32) | right
  std::array<TokenId, 256> byte_ids_;              // of the byte's letter or "<0xNN>"; -1: none
};

}  // namespace evolora
