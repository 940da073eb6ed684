#include "evolora/model/init_torch.h"

#include <atomic>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "evolora/model/torch_status.h"

namespace evolora {

absl::Status InitTorch(int num_threads) {
  if (num_threads < 1 || num_threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("InitTorch: num_threads = ", num_threads, " is not in [1, 1024]"));
  }
  return CatchTorch("InitTorch", [&] {
    at::set_num_threads(num_threads);
    // LibTorch allows this once per process only.
    static std::atomic<bool> interop_is_set{false};
    if (!interop_is_set.exchange(true)) at::set_num_interop_threads(1);
    return absl::OkStatus();
  });
}

}  // namespace evolora
