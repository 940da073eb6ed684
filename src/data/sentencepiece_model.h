#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "evolora/data/tokenizer_spec.h"

namespace evolora {

// The ModelProto of `spec` in protobuf's wire format: what the library needs and nothing else.
std::string SerialiseSentencePieceModel(const TokenizerSpec& spec);

// Whether the library, which follows the table's offsets without looking, may read it.
//   charsmap = u32 trie_bytes, trie_bytes / 4 units of a Darts-clone double array, texts each ended
//              by NUL; little-endian
// Every unit that a lookup can reach must stay inside the array, and every value inside the texts.
// Errors: InvalidArgument.
absl::Status CheckCharsmap(absl::string_view charsmap);

}  // namespace evolora
