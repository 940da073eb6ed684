#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/core/file_system.h"
#include "evolora/core/json.h"
#include "evolora/core/tokenizer.h"
#include "evolora/model/llama_config.h"

namespace evolora {

struct LlamaWeights;  // llama_weights.h, which brings in LibTorch

// The config.json from which LoadBase and transformers make this config. Unimplemented when there
// is none: factors of single RoPE frequencies (GGUF files of Llama 3), or biases, norms and windows
// that no class of transformers has in this combination.
absl::StatusOr<Json> HfConfigJson(const LlamaConfig& config);

// What a folder holds beside the weights.
struct HfFolderExtras {
  TokenId bos_id = -1;  // into config.json; -1: none
  TokenId eos_id = -1;
  std::map<std::string, std::string> files;  // contents by name: the tokenizer's
};

// Writes a Hugging Face folder: config.json, model.safetensors in fp32 and the extra files.
// Complete or absent (a folder `dir`.tmp, renamed). LoadBase of it gives the weights back to the
// bit. REQUIRES: !weights.compact.
// Errors: FailedPrecondition `dir` is there; those of HfConfigJson and of the file system
absl::Status WriteHfFolder(FileSystem& fs, const std::string& dir, const LlamaWeights& weights,
                           const HfFolderExtras& extras);

// The tokenizer of a base as files of such a folder, contents by name; the paths are as LoadBase
// takes them, `tokenizer_path` "" for the model's own. Files of Hugging Face and SentencePiece as
// they are; of a GGUF file's byte-level BPE tokenizer.json and tokenizer_config.json, written anew.
// Empty: the base has none.
// Errors: Unimplemented a GGUF file's SentencePiece vocabulary; those of reading
absl::StatusOr<std::map<std::string, std::string>> TokenizerFiles(
    const FileSystem& fs, const std::string& model_path, const std::string& tokenizer_path);

}  // namespace evolora
