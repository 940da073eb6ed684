#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "c10/core/Device.h"

namespace evolora {

// "cpu", "cuda" (the first device) or "cuda:N", checked. InvalidArgument: another name.
// FailedPrecondition: the program was built without CUDA, the driver finds no device, or there are
// not that many.
absl::StatusOr<c10::Device> OpenDevice(absl::string_view name);

}  // namespace evolora
