#pragma once

#include <cstddef>
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

// One run of text with its own reading of special-token text. Does not own the text.
struct TextRun {
  absl::string_view text;
  SpecialText special = SpecialText::kAsText;
};

struct EncodedRuns {
  std::vector<TokenId> ids;
  std::vector<int32_t> run_of_id;  // [ids]: the run in which the text of the id ends, ascending
};

// Text <-> token ids of one base model. Implementations are immutable and thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of `text`, no BOS or EOS added. Errors: InvalidArgument for invalid UTF-8 where the
  // tokenizer cannot represent it; DataLoss when its file turns out to be broken.
  virtual absl::StatusOr<std::vector<TokenId>> Encode(absl::string_view text,
                                                      SpecialText special) const = 0;
  // Ids of the runs' joined text, no BOS or EOS added. Special-token text counts only where it lies
  // wholly inside one kAsTokens run; plain text joins across runs, so that cutting a text into
  // kAsText runs leaves its ids as they are. Errors: as Encode.
  // This default encodes run by run without joining: for fakes whose ids need no context.
  virtual absl::StatusOr<EncodedRuns> EncodeRuns(absl::Span<const TextRun> runs) const {
    EncodedRuns encoded;
    for (size_t r = 0; r < runs.size(); ++r) {
      absl::StatusOr<std::vector<TokenId>> ids = Encode(runs[r].text, runs[r].special);
      if (!ids.ok()) return ids.status();
      encoded.ids.insert(encoded.ids.end(), ids->begin(), ids->end());
      encoded.run_of_id.resize(encoded.ids.size(), static_cast<int32_t>(r));
    }
    return encoded;
  }
  // The exact bytes of the ids; special tokens (BOS, EOS, chat marks) are left out.
  // Ids outside the vocabulary give InvalidArgument.
  virtual absl::StatusOr<std::string> Decode(absl::Span<const TokenId> ids) const = 0;
  // Bytes of one token in running text (a SentencePiece word start carries its space); "" for a
  // special token. REQUIRES: 0 <= id < vocab_size().
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
