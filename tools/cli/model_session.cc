#include "model_session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/file_system.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/init_torch.h"

namespace evolora::cli {

absl::StatusOr<ModelSession> OpenModel(const GlobalOptions& global, const std::string& base_name,
                                       const EngineOptions& options) {
  RETURN_IF_ERROR(InitTorch(NumThreads(global)));
  ASSIGN_OR_RETURN(LoadedBase base, LoadStoredBase(PosixFileSystem(), global.home, base_name,
                                                   WeightStorage::kExact));
  ModelSession session{.base = std::move(base.stored), .weights = base.model.weights};
  ASSIGN_OR_RETURN(session.model, TextModel::Create(base.model, options));
  return session;
}

LoadAdapterFn AdapterLoader(ModelSession& session) {
  return [model = session.model.get()](const LoraAdapter& adapter) {
    return model->LoadAdapter(adapter).status();
  };
}

std::string ModelFingerprint(const ModelSession& session, const GlobalOptions& global) {
  (void)global;
  return absl::StrCat("fp32/", session.base.weights_fingerprint);
}

}  // namespace evolora::cli
