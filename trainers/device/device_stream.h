#pragma once

#include <optional>

#include "c10/core/Device.h"
#include "c10/core/StreamGuard.h"
#include "c10/core/impl/VirtualGuardImpl.h"

namespace evolora {

// While it lives, what this thread starts on a CUDA device goes to a stream of its own: the default
// stream can be recorded in no graph. Nothing for the CPU.
class DeviceStream {
 public:
  explicit DeviceStream(c10::Device device) {
    if (!device.is_cuda()) return;
    const c10::impl::VirtualGuardImpl impl(device.type());
    guard_.emplace(impl.getStreamFromGlobalPool(device));
  }

 private:
  std::optional<c10::StreamGuard> guard_;
};

}  // namespace evolora
