#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/adapters/manifest.h"
#include "evolora/core/file_system.h"
#include "evolora/model/base_model.h"

namespace evolora {

// An imported base: <home>/bases/<name>/base.json beside copies of the model's files.
struct StoredBase {
  std::string name;          // IsSlotName
  std::string source;        // gguf, hf or llama2c
  std::string architecture;  // llama, mistral, qwen2, qwen3
  int64_t parameters = 0;
  std::string shape_fingerprint;
  std::string weights_fingerprint;
  bool has_tokenizer = false;
  std::string chat_format;  // "" = none recognised
  std::string model_path;   // below the base's folder
  std::string tokenizer_path;
  std::string chat_override;  // --chat-format at import

  BaseReference Reference() const {
    return {.name = name,
            .shape_fingerprint = shape_fingerprint,
            .weights_fingerprint = weights_fingerprint};
  }
};

struct AddBaseOptions {
  std::string path;  // GGUF file, Hugging Face folder or llama2.c file
  std::string name;
  std::string tokenizer_path;  // "" = what the model brings
  std::string chat_format;     // "" = recognised from the model's template
};

// Imports a base: loads it strictly once (so that what is kept is known to work), copies its files.
// Complete or absent. Adding the same weights under the same name again is OK.
// Errors: AlreadyExists the name stands for other weights; those of LoadBase.
absl::StatusOr<StoredBase> AddBase(FileSystem& files, const std::string& home,
                                   const AddBaseOptions& options);

// By name, sorted.
absl::StatusOr<std::vector<StoredBase>> ListBases(const FileSystem& files, const std::string& home);

struct LoadedBase {
  StoredBase stored;
  BaseModel model;
};
// `storage`: how the weights are kept (weight_storage.h).
// Errors: NotFound names the bases there are; DataLoss the copied files changed.
absl::StatusOr<LoadedBase> LoadStoredBase(FileSystem& files, const std::string& home,
                                          const std::string& name,
                                          WeightStorage storage = WeightStorage::kFp32);

// The base's tokenizer as files of a Hugging Face folder (TokenizerFiles of model/hf_folder.h).
absl::StatusOr<std::map<std::string, std::string>> StoredTokenizerFiles(FileSystem& files,
                                                                        const std::string& home,
                                                                        const StoredBase& base);

}  // namespace evolora
