#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace at {
class Tensor;
}

namespace evolora {

// The processes that train one adapter together, one rank each. Every rank makes the same calls in
// the same order; a call returns when all ranks have made it.
//
// Errors of every call: Unavailable, when a rank is lost or does not answer within the time of the
// options; the group is of no use after that.
// Threads: one caller at a time.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;

  virtual int rank() const = 0;  // 0 .. size - 1
  virtual int size() const = 0;

  // values[i] becomes the sum of all ranks' values[i]: the same bits on every rank.
  virtual absl::Status Sum(absl::Span<float> values) = 0;
  virtual absl::Status Sum(absl::Span<double> values) = 0;
  // Of a contiguous fp32 tensor, where it is: on the CPU as above; on CUDA by NCCL, each rank on a
  // device of its own, or through the host in a build without NCCL. Waits for the sums.
  virtual absl::Status Sum(const at::Tensor& values);
};

struct ProcessGroupOptions {
  int rank = 0;
  int size = 1;
  std::string address = "127.0.0.1";  // where rank 0 listens
  int port = 29500;
  double timeout_seconds = 300;  // for all ranks to come, and for each call after that
};

// The options that torchrun, or a script in its place, gives by the environment variables RANK,
// WORLD_SIZE, MASTER_ADDR and MASTER_PORT. `get` returns the value of a variable or nullptr
// (std::getenv). Size 1 without WORLD_SIZE. InvalidArgument names the variable and its value.
absl::StatusOr<ProcessGroupOptions> ProcessGroupOptionsFromEnvironment(
    const char* (*get)(const char* name));

// Joins a group over TCP by c10d's Gloo backend; NCCL joins at the first sum on a device. Waits for
// the other ranks. Errors: Unavailable  not all ranks came in time, or rank 0 cannot listen
absl::StatusOr<std::unique_ptr<ProcessGroup>> JoinProcessGroup(const ProcessGroupOptions& options);

}  // namespace evolora
