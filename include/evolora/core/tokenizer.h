#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace evolora {

using TokenId = int32_t;

// How special-token text inside the input is read.
enum class SpecialText {
  kAsText,    // "<|im_end|>" is plain characters: for content that came from outside
  kAsTokens,  // "<|im_end|>" becomes the special id: for rendered chat templates
};

// Text <-> token ids of one base model. Implementations are immutable and thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of `text`, no BOS or EOS added. Errors: InvalidArgument for invalid UTF-8 where the
  // tokenizer cannot represent it.
  virtual absl::StatusOr<std::vector<TokenId>> Encode(absl::string_view text,
                                                      SpecialText special) const = 0;
  // The exact bytes of the ids; special tokens (BOS, EOS, chat marks) are left out.
  // Ids outside the vocabulary give InvalidArgument.
  virtual absl::StatusOr<std::string> Decode(absl::Span<const TokenId> ids) const = 0;
  // Bytes of one token in running text (a SentencePiece word start carries its space).
  virtual std::string TokenBytes(TokenId id) const = 0;

  virtual int32_t vocab_size() const = 0;
  virtual bool IsSpecial(TokenId id) const = 0;
  // -1 when the model has none.
  virtual TokenId bos_id() const = 0;
  virtual TokenId eos_id() const = 0;
  // Whether the reference adds BOS in front of a plain prompt.
  virtual bool adds_bos() const = 0;
  // The id of a special token by its exact text, -1 when there is none.
  virtual TokenId SpecialId(absl::string_view text) const = 0;
};

}  // namespace evolora
