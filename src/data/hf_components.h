#pragma once

#include <string>

#include "absl/status/status.h"
#include "evolora/core/json.h"
#include "evolora/data/tokenizer_spec.h"

namespace evolora {

// The parts of a tokenizer.json around its model, each read into `spec`. `path` names the part in
// errors. A part that is null is a part that does nothing.
// Errors: Unimplemented (path, what), InvalidArgument.

// NFC; or Prepend U+2581 and Replace " " by U+2581 (Llama 2).
absl::Status ReadHfNormalizer(const Json& json, const std::string& path, TokenizerSpec& spec);
// ByteLevel, Split, Digits, Sequence of them (a byte-level model; `is_byte_level` becomes true); or
// Metaspace.
absl::Status ReadHfPreTokenizer(const Json& json, const std::string& path, TokenizerSpec& spec,
                                bool& is_byte_level);
// ByteLevel does nothing to ids; TemplateProcessing may put one token in front: `bos_text`.
absl::Status ReadHfPostProcessor(const Json& json, const std::string& path, std::string& bos_text);
// Must undo what the encoder does. REQUIRES: spec.kind and spec.space_mark are set.
absl::Status ReadHfDecoder(const Json& json, const std::string& path, TokenizerSpec& spec);

// Unimplemented "<path>: <what>".
absl::Status HfUnimplemented(const std::string& path, const std::string& what);

}  // namespace evolora
