#pragma once

#include <memory>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "c10/util/intrusive_ptr.h"

namespace c10d {
class Store;
}

namespace evolora {

// Sums over the ranks of a group where the values are, by NCCL.
class NcclSum {
 public:
  virtual ~NcclSum() = default;
  // values, contiguous on a CUDA device of this rank's own, become the sums: the same bits on every
  // rank. Waits for them. Unavailable: a rank is lost, or does not answer in time; the values are
  // of no use then.
  virtual absl::Status Sum(const at::Tensor& values) = 0;
};

// `store`: of the group. Null in a build without CUDA or NCCL's header.
std::unique_ptr<NcclSum> MakeNcclSum(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                     int size, double timeout_seconds);

}  // namespace evolora
