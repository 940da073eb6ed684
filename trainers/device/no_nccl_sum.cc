// Stands in for nccl_sum.cc in a build without CUDA or NCCL's header.
#include "device/nccl_sum.h"
#include "torch/csrc/distributed/c10d/Store.hpp"

namespace evolora {

std::unique_ptr<NcclSum> MakeNcclSum(const c10::intrusive_ptr<c10d::Store>& /*store*/, int /*rank*/,
                                     int /*size*/, double /*timeout_seconds*/) {
  return nullptr;
}

}  // namespace evolora
