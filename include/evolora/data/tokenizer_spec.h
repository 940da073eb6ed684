#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/core/tokenizer.h"

namespace evolora {

enum class TokenizerKind {
  kByteLevelBpe,          // GPT-2 and its children: merges over bytes written as letters
  kCharacterBpe,          // Llama 2 / Mistral tokenizer.json: merges over characters, byte fallback
  kSentencePieceBpe,      // pieces with scores; the best score merges first
  kSentencePieceUnigram,  // pieces with log probabilities; the best path wins
};

// Numbered as in SentencePiece models and in GGUF's tokenizer.ggml.token_type.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// A token that is cut out of the text before the model sees it. BPE kinds only.
struct AddedToken {
  TokenId id = -1;
  std::string text;
  bool is_special = true;       // read under SpecialText::kAsTokens only, left out by Decode
  bool is_normalized = false;   // looked for after normalisation instead of before
  bool is_single_word = false;  // only where no word character touches it
  bool strips_left = false;     // takes the white space before it
  bool strips_right = false;    // takes the white space after it
};

// How a character BPE writes blanks as U+2581.
enum class SpaceMark {
  kNone,             // blanks stay blanks
  kPrependPiece,     // U+2581 in front of every piece between added tokens (normalizer Prepend)
  kMetaspaceAlways,  // as kPrependPiece, unless the piece starts with one (pre-tokenizer Metaspace)
  kMetaspaceFirst,   // ... and only at the start of the text
  kMetaspaceNever,   // no prefix
};

// All that defines a tokenizer, free of any file format. MakeTokenizer checks it; a spec by itself
// promises nothing. Fields that a kind does not name are ignored by it.
struct TokenizerSpec {
  TokenizerKind kind = TokenizerKind::kByteLevelBpe;
  // By id, written as in the file: byte-level pieces in GPT-2's letters, SentencePiece's with
  // U+2581. An added token stands here with its plain text. "" = an id without a token (BPE only).
  std::vector<std::string> tokens;
  TokenId bos_id = -1;
  TokenId eos_id = -1;
  TokenId unk_id = -1;  // what a character without a token becomes; -1: it is dropped
  bool adds_bos = false;
  std::string chat_template;  // Jinja text, "" = none

  // BPE kinds.
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::vector<AddedToken> added_tokens;
  bool nfc = false;                         // normalise to NFC first
  std::vector<std::string> split_patterns;  // regexes; each isolates its matches, one after another
  bool ignore_merges = false;               // a pre-token that is a token is taken as it is
  bool fuse_unk = false;                    // neighbouring unknown characters become one unk
  SpaceMark space_mark = SpaceMark::kNone;  // kCharacterBpe

  // kCharacterBpe and SentencePiece: characters without a token become "<0xNN>" tokens.
  bool byte_fallback = false;

  // SentencePiece kinds.
  std::vector<float> scores;     // by id
  std::vector<TokenType> types;  // by id
  bool add_dummy_prefix = true;  // kCharacterBpe: Decode removes the first blank
  bool remove_extra_whitespaces = false;
  bool escape_whitespaces = true;
  std::string precompiled_charsmap;            // SentencePiece's normalisation table, "" = identity
  std::string unk_surface = " \xE2\x81\x87 ";  // what Decode writes for unk
};

// The values of a GGUF file's tokenizer.ggml.* keys, for loaders that read GGUF.
struct GgufVocabulary {
  std::string model;  // "gpt2" or "llama"
  std::string pre;    // pre-tokenizer name, "gpt2" only
  std::vector<std::string> tokens;
  std::vector<std::string> merges;   // "left right"
  std::vector<float> scores;         // "llama" only
  std::vector<int32_t> token_types;  // may be empty: all normal
  std::string precompiled_charsmap;
  TokenId bos_id = -1;
  TokenId eos_id = -1;
  TokenId unk_id = -1;
  std::optional<bool> add_bos;           // absent: true for "llama" and Llama 3, else false
  std::optional<bool> add_space_prefix;  // absent: true; "llama" only
  std::optional<bool> remove_extra_whitespaces;
  std::string chat_template;
};

// Errors: Unimplemented       unknown `model` or `pre`; the message names it
//         InvalidArgument     array lengths disagree, a token type is unknown, a merge has no blank
absl::StatusOr<TokenizerSpec> TokenizerSpecFromGguf(GgufVocabulary vocabulary);

// Reads a Hugging Face fast tokenizer. `tokenizer_config` gives bos, eos, add_bos_token and
// chat_template and may be empty. Understood: model BPE, byte-level (GPT-2, SmolLM2, Qwen2, Llama
// 3) and character BPE with byte fallback (Llama 2, Mistral). A field whose meaning is not
// implemented is never skipped. Errors: Unimplemented       a component or a value not understood;
// names the JSON path
//         InvalidArgument     malformed JSON, wrong type, unknown key, duplicate id, an id that the
//                             reference would not give; names the JSON path
absl::StatusOr<TokenizerSpec> TokenizerSpecFromHfJson(absl::string_view tokenizer_json,
                                                      absl::string_view tokenizer_config);

// The files of a Hugging Face folder, contents by name, that give a byte-level BPE back:
// tokenizer.json and tokenizer_config.json. REQUIRES: MakeTokenizer takes the spec.
// Errors: Unimplemented       another kind
//         InvalidArgument     two tokens of one text
absl::StatusOr<std::map<std::string, std::string>> HfTokenizerFiles(const TokenizerSpec& spec);

// Reads the bytes of a SentencePiece .model file (types BPE and unigram). The file does not say
// whether prompts start with BOS: adds_bos is set when it has one, as Llama's tokenizers do.
// Errors: InvalidArgument     not a well-formed model; names the byte offset
//         Unimplemented       model types word and char, white space as suffix
absl::StatusOr<TokenizerSpec> TokenizerSpecFromSentencePiece(absl::string_view model);

// Checks `spec` and builds its tokenizer: immutable, thread-safe, deterministic.
//
// Limits:   2^22 tokens, 2^22 merges, 64 KiB a token, 16 KiB a pattern.
// Encode:   exact Hugging Face `tokenizers` / SentencePiece semantics for valid UTF-8. A character
//           that has neither a token nor a fallback is dropped when unk_id is -1, as there.
//           Invalid UTF-8 gives InvalidArgument with its byte offset (SentencePiece itself would
//           replace it and lose it).
// Decode:   bytes as they are, no clean-up of blanks; the dummy prefix of the first token is
// removed. Errors:   InvalidArgument     the spec contradicts itself; the message names token or
// merge
//           Unimplemented       a split pattern uses a construct outside the common subset
absl::StatusOr<std::shared_ptr<const Tokenizer>> MakeTokenizer(const TokenizerSpec& spec);

}  // namespace evolora
