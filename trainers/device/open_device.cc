#include "device/open_device.h"

#include "ATen/detail/CUDAHooksInterface.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "evolora/device/kernels.h"

namespace evolora {

absl::StatusOr<c10::Device> OpenDevice(absl::string_view name) {
  if (name == "cpu") return c10::Device(c10::kCPU);
  absl::string_view number = name;
  int index = 0;
  const bool numbered = absl::ConsumePrefix(&number, "cuda:") && !number.empty() &&
                        number.size() <= 3 && absl::SimpleAtoi(number, &index) && index >= 0 &&
                        absl::StrCat(index) == number && index <= 127;
  if (name != "cuda" && !numbered) {
    return absl::InvalidArgumentError(
        absl::StrCat("device '", name, "' is not one of cpu, cuda, cuda:0 to cuda:127"));
  }
  const auto& hooks = at::detail::getCUDAHooks();
  if (CudaKernels() == nullptr || !hooks.hasCUDART()) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", name, ": this program was built without CUDA (EVOLORA_CUDA=ON)"));
  }
  const int count = hooks.hasCUDA() ? hooks.deviceCount() : 0;
  if (count == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", name, ": the driver finds no CUDA device"));
  }
  if (index >= count) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", name, ": there are ", count, " CUDA devices"));
  }
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

}  // namespace evolora
