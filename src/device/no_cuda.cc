// Stands in for cuda_kernels.cu in a build without EVOLORA_CUDA.
#include "evolora/device/kernels.h"

namespace evolora {

const DeviceKernels* CudaKernels() { return nullptr; }

}  // namespace evolora
