#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "evolora/core/file_system.h"
#include "evolora/data/chat_format.h"
#include "evolora/data/tokenizer_spec.h"

namespace evolora {

// A tokenizer and the text of its chat template ("" = none).
struct BaseTokenizer {
  std::shared_ptr<const Tokenizer> tokenizer;  // null: none found
  TokenizerSpec spec;                          // tokens and merges are dropped
};

absl::StatusOr<BaseTokenizer> MakeBaseTokenizer(TokenizerSpec spec);

// Reads a .model file, a .json file (tokenizer_config.json and chat_template.jinja beside it are
// used), or the one of a folder: tokenizer.json first, then tokenizer.model. NotFound: no such
// file, or a folder without either.
absl::StatusOr<BaseTokenizer> ReadBaseTokenizer(const FileSystem& fs, const std::string& path);

// The chat format called `name`, or the one of the template when `name` is empty.
absl::StatusOr<ChatFormat> FindChatFormat(const BaseTokenizer& tokenizer, const std::string& name);

}  // namespace evolora
