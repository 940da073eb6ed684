#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "evolora/core/tokenizer.h"
#include "evolora/data/tokenizer_spec.h"

namespace evolora {

// The SentencePiece kinds. REQUIRES: `spec` passed CheckSpec. Errors: as MakeTokenizer.
absl::StatusOr<std::shared_ptr<const Tokenizer>> MakeSentencePieceTokenizer(
    const TokenizerSpec& spec);

}  // namespace evolora
