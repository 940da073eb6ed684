#include "train_full.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora::cli {

absl::StatusOr<HfFolderExtras> PrepareFolder(const std::string& home, const LoadedBase& base,
                                             std::vector<std::string>& warnings) {
  RETURN_IF_ERROR(HfConfigJson(base.model.config()).status());
  HfFolderExtras extras;
  absl::StatusOr<std::map<std::string, std::string>> files =
      StoredTokenizerFiles(PosixFileSystem(), home, base.stored);
  if (absl::IsUnimplemented(files.status())) {
    warnings.push_back(absl::StrCat("the folder will have no tokenizer (", files.status().message(),
                                    "); give one to base add --tokenizer"));
  } else if (!files.ok()) {
    return files.status();
  } else {
    extras.files = *std::move(files);
  }
  if (base.model.tokenizer == nullptr) return extras;
  extras.bos_id = base.model.tokenizer->bos_id();
  extras.eos_id = base.model.tokenizer->eos_id();
  return extras;
}

absl::Status WriteResult(const JobFiles& files, const TrainedBase& trained,
                         const HfFolderExtras& extras) {
  RETURN_IF_ERROR(WriteSummary(WorkFolder(files), trained.history, trained.total_flops));
  return WriteHfFolder(PosixFileSystem(), files.out, *trained.weights, extras);
}

}  // namespace evolora::cli
