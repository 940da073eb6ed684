#pragma once

#include "evolora/device/kernels.h"

namespace evolora {

// HostKernels with the threads of a group in descending order, for tests: results that change with
// the order show that a thread reads what another one writes, which on CUDA is a race.
const DeviceKernels& HostKernelsDescending();

}  // namespace evolora
