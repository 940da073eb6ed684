#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/core/language_model.h"
#include "evolora/pipeline/home.h"
#include "evolora/pipeline/version_store.h"

namespace evolora {

struct ExportedAdapter {
  std::string slot;
  std::string serving_name;  // name to give it on a server
  std::string directory;     // the PEFT folder
  std::string digest;
};

// Writes each adapter of a version as a PEFT folder with effect_proof.json: prompts inside the
// adapter's scope (the version's validation cases first, else fixed ones) with the base's and the
// adapter's top logits. One adapter goes to `directory` itself, several to `directory`/<slot>.
// `model` needs the version's adapters loaded (OpenVersion).
// Errors: FailedPrecondition the version has no adapter, or the folder exists.
absl::StatusOr<std::vector<ExportedAdapter>> ExportPeft(Home& home, LanguageModel& model,
                                                        const OpenedVersion& version,
                                                        const std::string& directory);

}  // namespace evolora
