#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "evolora/model/text_model.h"
#include "evolora/pipeline/base_store.h"
#include "evolora/pipeline/version_store.h"
#include "options.h"

namespace evolora::cli {

// A base in memory, ready to generate.
struct ModelSession {
  StoredBase base;
  std::shared_ptr<const LlamaWeights> weights;
  std::unique_ptr<TextModel> model;
};
absl::StatusOr<ModelSession> OpenModel(const GlobalOptions& global, const std::string& base_name,
                                       const EngineOptions& options);

// For cases by the dozen. All commands that memoise answers take it: ModelFingerprint does not
// tell.
inline EngineOptions ManyRows() { return {.rows_of_steps = RowsOfSteps::kMany}; }

// Loads adapters of versions into the session's model.
LoadAdapterFn AdapterLoader(ModelSession& session);

// What names the model's numerics for memoised answers.
std::string ModelFingerprint(const ModelSession& session, const GlobalOptions& global);

}  // namespace evolora::cli
