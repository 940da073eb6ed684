#include <cmath>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bpe_tokenizer.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/tokenizer_spec.h"
#include "sentencepiece_tokenizer.h"
#include "utf8.h"

namespace evolora {
namespace {

constexpr size_t kMaxTokens = size_t{1} << 22;
constexpr size_t kMaxTokenBytes = size_t{64} << 10;

bool IsSentencePiece(const TokenizerSpec& spec) {
  return spec.kind == TokenizerKind::kSentencePieceBpe ||
         spec.kind == TokenizerKind::kSentencePieceUnigram;
}

absl::Status Bad(absl::string_view a, const absl::AlphaNum& b, const absl::AlphaNum& c = "",
                 const absl::AlphaNum& d = "") {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", absl::StrCat(a, b, c, d)));
}

absl::Status CheckTokens(const TokenizerSpec& spec) {
  if (spec.tokens.empty()) return Bad("no tokens", "");
  if (spec.tokens.size() > kMaxTokens) return Bad("", spec.tokens.size(), " tokens");
  if (spec.merges.size() > kMaxTokens) return Bad("", spec.merges.size(), " merges");
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const std::string& token = spec.tokens[i];
    if (token.size() > kMaxTokenBytes) return Bad("token ", i, " has bytes: ", token.size());
    if (ValidUtf8Prefix(token) != token.size()) return Bad("token ", i, " is not UTF-8");
  }
  const struct {
    const char* name;
    TokenId id;
  } ids[] = {{"bos", spec.bos_id}, {"eos", spec.eos_id}, {"unk", spec.unk_id}};
  for (const auto& [name, id] : ids) {
    if (id < -1 || id >= static_cast<TokenId>(spec.tokens.size())) return Bad(name, " id ", id);
  }
  if (spec.adds_bos && spec.bos_id < 0) return Bad("adds BOS", " but has none");
  return absl::OkStatus();
}

absl::Status CheckAddedTokens(const TokenizerSpec& spec) {
  absl::flat_hash_set<std::string> texts;
  absl::flat_hash_set<TokenId> ids;
  for (const AddedToken& token : spec.added_tokens) {
    if (token.id < 0 || token.id >= static_cast<TokenId>(spec.tokens.size())) {
      return Bad("added token '", token.text, "' has id ", token.id);
    }
    if (token.text.empty()) return Bad("added token ", token.id, " is empty");
    if (token.text.size() > kMaxTokenBytes) return Bad("added token ", token.id, " is too long");
    if (ValidUtf8Prefix(token.text) != token.text.size()) {
      return Bad("added token ", token.id, " is not UTF-8");
    }
    if (!texts.insert(token.text).second) return Bad("added token '", token.text, "' twice");
    if (!ids.insert(token.id).second) return Bad("added token id ", token.id, " twice");
    const bool rewritten = token.is_normalized && spec.space_mark == SpaceMark::kPrependPiece;
    if (rewritten) {
      return absl::UnimplementedError(absl::StrCat("tokenizer: added token '", token.text,
                                                   "' is normalised by a Prepend normaliser"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPieces(const TokenizerSpec& spec) {
  if (spec.scores.size() != spec.tokens.size() || spec.types.size() != spec.tokens.size()) {
    return Bad("", absl::StrCat(spec.tokens.size(), " pieces, ", spec.scores.size(), " scores, "),
               spec.types.size(), " types");
  }
  absl::flat_hash_set<absl::string_view> texts;
  int num_unknown = 0;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const std::string& piece = spec.tokens[i];
    if (piece.empty()) return Bad("piece ", i, " is empty");
    if (piece.find('\0') != std::string::npos) return Bad("piece ", i, " holds NUL");
    if (!texts.insert(piece).second) return Bad("piece ", i, " stands twice: ", piece);
    if (!std::isfinite(spec.scores[i])) return Bad("piece ", i, " has a score that is not finite");
    if (spec.types[i] == TokenType::kUnknown) ++num_unknown;
  }
  if (num_unknown != 1) return Bad("", num_unknown, " unknown pieces instead of 1");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> MakeTokenizer(const TokenizerSpec& spec) {
  RETURN_IF_ERROR(CheckTokens(spec));
  if (IsSentencePiece(spec)) {
    RETURN_IF_ERROR(CheckPieces(spec));
    return MakeSentencePieceTokenizer(spec);
  }
  RETURN_IF_ERROR(CheckAddedTokens(spec));
  return MakeBpeTokenizer(spec);
}

}  // namespace evolora
