#include "device/nccl_sum.h"

#include <chrono>
#include <cstdlib>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/model/torch_status.h"
#include "torch/csrc/distributed/c10d/PrefixStore.hpp"
#include "torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp"

namespace evolora {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

class C10dNcclSum : public NcclSum {
 public:
  C10dNcclSum(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
              milliseconds timeout)
      : rank_(rank), size_(size), timeout_(timeout) {
    // A lost rank is this class's error to tell: c10d's own threads would end the process.
    for (const char* name : {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ENABLE_MONITORING",
                             "TORCH_NCCL_DUMP_ON_TIMEOUT"}) {
      setenv(name, "0", /*overwrite=*/0);
    }
    const auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    backend_ = c10::make_intrusive<c10d::ProcessGroupNCCL>(
        c10::make_intrusive<c10d::PrefixStore>("nccl", store), rank, size, options);
  }

  absl::Status Sum(const at::Tensor& values) override {
    const absl::Status status = CatchTorch("sum over ranks by NCCL", [&]() -> absl::Status {
      std::vector<at::Tensor> tensors = {values};
      const c10::intrusive_ptr<c10d::Work> work = backend_->allreduce(tensors);
      if (!Completes(*work)) return absl::DeadlineExceededError("no answer in time");
      if (const std::exception_ptr error = work->exception()) std::rethrow_exception(error);
      work->wait();  // the values' stream goes on after it
      return absl::OkStatus();
    });
    if (status.ok()) return status;
    // Ends the kernel that still waits for the others.
    CatchTorch("abort", [&]() -> absl::Status {
      backend_->abort();
      return absl::OkStatus();
    }).IgnoreError();
    return absl::UnavailableError(
        absl::StrCat("rank ", rank_, " of ", size_, ": another rank is lost: ", status.message()));
  }

 private:
  // The host looks again and again: it has nothing else to do before the update.
  bool Completes(c10d::Work& work) const {
    const steady_clock::time_point end = steady_clock::now() + timeout_;
    while (!work.isCompleted()) {
      if (steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    return true;
  }

  const int rank_, size_;
  const milliseconds timeout_;
  c10::intrusive_ptr<c10d::ProcessGroupNCCL> backend_;
};

}  // namespace

std::unique_ptr<NcclSum> MakeNcclSum(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                     int size, double timeout_seconds) {
  return std::make_unique<C10dNcclSum>(store, rank, size,
                                       milliseconds(static_cast<int64_t>(timeout_seconds * 1e3)));
}

}  // namespace evolora
