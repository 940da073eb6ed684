#include "evolora/trainers/process_group.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/from_blob.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "device/nccl_sum.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/torch_status.h"
#include "torch/csrc/distributed/c10d/ProcessGroupGloo.hpp"
#include "torch/csrc/distributed/c10d/TCPStore.hpp"

namespace evolora {
namespace {

constexpr int kMaxRanks = 4096;

class GlooGroup : public ProcessGroup {
 public:
  explicit GlooGroup(const ProcessGroupOptions& options) : options_(options) {
    const auto timeout =
        std::chrono::milliseconds(static_cast<int64_t>(options.timeout_seconds * 1e3));
    c10d::TCPStoreOptions store_options;
    store_options.port = static_cast<uint16_t>(options.port);
    store_options.isServer = options.rank == 0;
    store_options.numWorkers = static_cast<size_t>(options.size);
    store_options.waitWorkers = true;
    store_options.timeout = timeout;
    store_ = c10::make_intrusive<c10d::TCPStore>(options.address, store_options);
    const auto gloo = c10d::ProcessGroupGloo::Options::create_default(timeout);
    gloo->devices.push_back(LocalDevice(options));
    backend_ = std::make_unique<c10d::ProcessGroupGloo>(store_, options.rank, options.size, gloo);
  }

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }

  absl::Status Sum(absl::Span<float> values) override { return Sum(values, at::kFloat); }
  absl::Status Sum(absl::Span<double> values) override { return Sum(values, at::kDouble); }
  absl::Status Sum(const at::Tensor& values) override {
    if (values.is_cuda() && nccl_ == nullptr) RETURN_IF_ERROR(JoinNccl());
    return values.is_cuda() && nccl_ != nullptr ? nccl_->Sum(values) : ProcessGroup::Sum(values);
  }

 private:
  // Leaves nccl_ null where there is none.
  absl::Status JoinNccl() {
    const absl::Status joined = CatchTorch("join by NCCL", [&]() -> absl::Status {
      nccl_ = MakeNcclSum(store_, rank(), size(), options_.timeout_seconds);
      return absl::OkStatus();
    });
    if (joined.ok()) return joined;
    return absl::UnavailableError(
        absl::StrCat("rank ", rank(), " of ", size(), ": ", joined.message()));
  }

  // On one machine by the loopback device: a host's own name need not lead back to it.
  static std::shared_ptr<::gloo::transport::Device> LocalDevice(
      const ProcessGroupOptions& options) {
    const bool local = options.address == "127.0.0.1" || options.address == "localhost";
    return local ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                 : c10d::ProcessGroupGloo::createDefaultDevice();
  }

  template <typename T>
  absl::Status Sum(absl::Span<T> values, at::ScalarType type) {
    const absl::Status status = CatchTorch("sum over ranks", [&]() -> absl::Status {
      std::vector<at::Tensor> tensors = {
          at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, type)};
      backend_->allreduce(tensors)->wait();
      return absl::OkStatus();
    });
    if (status.ok()) return status;
    return absl::UnavailableError(absl::StrCat("rank ", rank(), " of ", size(),
                                               ": another rank is lost: ", status.message()));
  }

  const ProcessGroupOptions options_;
  c10::intrusive_ptr<c10d::Store> store_;
  std::unique_ptr<c10d::ProcessGroupGloo> backend_;
  std::unique_ptr<NcclSum> nccl_;  // null: not joined
};

absl::StatusOr<int> ReadNumber(const char* (*get)(const char*), const char* name, int low,
                               int high) {
  const char* text = get(name);
  int value = 0;
  if (text == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is not set, but WORLD_SIZE is"));
  }
  if (!absl::SimpleAtoi(text, &value) || value < low || value > high) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is '", text, "', not a number in [", low, ", ", high, "]"));
  }
  return value;
}

}  // namespace

absl::Status ProcessGroup::Sum(const at::Tensor& values) {
  const at::NoGradGuard no_grad;
  const at::Tensor host = values.cpu();  // itself, when it is there
  RETURN_IF_ERROR(
      Sum(absl::MakeSpan(host.mutable_data_ptr<float>(), static_cast<size_t>(host.numel()))));
  if (!values.is_cpu()) at::Tensor(values).copy_(host);
  return absl::OkStatus();
}

absl::StatusOr<ProcessGroupOptions> ProcessGroupOptionsFromEnvironment(
    const char* (*get)(const char* name)) {
  ProcessGroupOptions options;
  if (get("WORLD_SIZE") == nullptr) return options;
  ASSIGN_OR_RETURN(options.size, ReadNumber(get, "WORLD_SIZE", 1, kMaxRanks));
  ASSIGN_OR_RETURN(options.rank, ReadNumber(get, "RANK", 0, options.size - 1));
  if (options.size == 1) return options;
  ASSIGN_OR_RETURN(options.port, ReadNumber(get, "MASTER_PORT", 1, 65535));
  const char* address = get("MASTER_ADDR");
  if (address == nullptr || *address == '\0') {
    return absl::InvalidArgumentError("MASTER_ADDR is not set, but WORLD_SIZE is");
  }
  options.address = address;
  return options;
}

absl::StatusOr<std::unique_ptr<ProcessGroup>> JoinProcessGroup(const ProcessGroupOptions& options) {
  using Result = absl::StatusOr<std::unique_ptr<ProcessGroup>>;
  Result joined = CatchTorch(
      "join", [&]() -> Result { return std::unique_ptr<ProcessGroup>(new GlooGroup(options)); });
  if (joined.ok()) return joined;
  return absl::UnavailableError(absl::StrCat("rank ", options.rank, " of ", options.size, " at ",
                                             options.address, ":", options.port, ": ",
                                             joined.status().message()));
}

}  // namespace evolora
