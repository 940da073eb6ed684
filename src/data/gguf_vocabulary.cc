#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/tokenizer_spec.h"
#include "pre_tokenizers.h"

namespace evolora {
namespace {

// tokenizer.ggml.pre names the pre-tokenizer that the model was converted with.
absl::Status SetPreTokenizer(absl::string_view pre, TokenizerSpec& spec) {
  if (pre == "gpt-2") {
    spec.split_patterns = {kGpt2Split};
  } else if (pre == "smollm" || pre == "starcoder" || pre == "refact" || pre == "command-r") {
    spec.split_patterns = {kDigitSplit, kGpt2Split};
  } else if (pre == "qwen2") {
    spec.split_patterns = {kQwen2Split};
    spec.nfc = true;
  } else if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") {
    spec.split_patterns = {kLlama3Split};
    spec.ignore_merges = true;
    spec.adds_bos = true;
  } else {
    return absl::UnimplementedError(absl::StrCat(
        "tokenizer.ggml.pre '", pre, "'; known are gpt-2, smollm, starcoder, refact, command-r, ",
        "qwen2, llama-bpe"));
  }
  return absl::OkStatus();
}

absl::Status SetMerges(const std::vector<std::string>& merges, TokenizerSpec& spec) {
  spec.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t blank = merges[i].find(' ', 1);
    if (blank == std::string::npos || blank + 1 == merges[i].size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.ggml.merges[", i, "]: '", merges[i], "' is not two tokens"));
    }
    spec.merges.emplace_back(merges[i].substr(0, blank), merges[i].substr(blank + 1));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenType>> ReadTypes(const GgufVocabulary& vocabulary) {
  if (vocabulary.token_types.empty()) {
    return std::vector<TokenType>(vocabulary.tokens.size(), TokenType::kNormal);
  }
  if (vocabulary.token_types.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.token_type has ",
                                                   vocabulary.token_types.size(), " entries for ",
                                                   vocabulary.tokens.size(), " tokens"));
  }
  std::vector<TokenType> types;
  for (size_t i = 0; i < vocabulary.token_types.size(); ++i) {
    const int32_t type = vocabulary.token_types[i];
    if (type < 1 || type > 6) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.ggml.token_type[", i, "] = ", type));
    }
    types.push_back(static_cast<TokenType>(type));
  }
  return types;
}

absl::Status FillByteLevel(const GgufVocabulary& vocabulary, TokenizerSpec& spec) {
  spec.kind = TokenizerKind::kByteLevelBpe;
  spec.unk_id = -1;  // byte-level models drop what has no token
  RETURN_IF_ERROR(SetPreTokenizer(vocabulary.pre, spec));
  RETURN_IF_ERROR(SetMerges(vocabulary.merges, spec));
  for (size_t i = 0; i < spec.types.size(); ++i) {
    const bool is_special = spec.types[i] == TokenType::kControl;
    if (!is_special && spec.types[i] != TokenType::kUserDefined) continue;
    spec.added_tokens.push_back(
        {.id = static_cast<TokenId>(i), .text = spec.tokens[i], .is_special = is_special});
  }
  return absl::OkStatus();
}

absl::Status FillSentencePiece(GgufVocabulary& vocabulary, TokenizerSpec& spec) {
  if (vocabulary.scores.size() != spec.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.scores has ",
                                                   vocabulary.scores.size(), " entries for ",
                                                   spec.tokens.size(), " tokens"));
  }
  spec.kind = TokenizerKind::kSentencePieceBpe;
  spec.scores = std::move(vocabulary.scores);
  spec.add_dummy_prefix = vocabulary.add_space_prefix.value_or(true);
  spec.remove_extra_whitespaces = vocabulary.remove_extra_whitespaces.value_or(false);
  spec.precompiled_charsmap = std::move(vocabulary.precompiled_charsmap);
  spec.adds_bos = spec.bos_id >= 0;
  for (size_t i = 0; i < spec.types.size(); ++i) {
    if (spec.types[i] == TokenType::kByte) spec.byte_fallback = true;
    if (spec.types[i] == TokenType::kUnknown) spec.unk_id = static_cast<TokenId>(i);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> TokenizerSpecFromGguf(GgufVocabulary vocabulary) {
  TokenizerSpec spec;
  ASSIGN_OR_RETURN(spec.types, ReadTypes(vocabulary));
  spec.tokens = std::move(vocabulary.tokens);
  spec.bos_id = vocabulary.bos_id;
  spec.eos_id = vocabulary.eos_id;
  spec.unk_id = vocabulary.unk_id;
  spec.chat_template = std::move(vocabulary.chat_template);
  if (vocabulary.model == "gpt2") {
    RETURN_IF_ERROR(FillByteLevel(vocabulary, spec));
  } else if (vocabulary.model == "llama") {
    RETURN_IF_ERROR(FillSentencePiece(vocabulary, spec));
  } else {
    return absl::UnimplementedError(
        absl::StrCat("tokenizer.ggml.model '", vocabulary.model, "'; known are gpt2 and llama"));
  }
  if (vocabulary.add_bos.has_value()) spec.adds_bos = *vocabulary.add_bos;
  return spec;
}

}  // namespace evolora
