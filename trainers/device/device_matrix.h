#pragma once

#include <cstdint>
#include <memory>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "device/tensor_buffer.h"
#include "evolora/device/kernels.h"
#include "evolora/model/compact_matrix.h"

namespace evolora {

// Where matrices in few bits are widened to, one after the other: all that share it use it in the
// order of the device's stream.
struct WideBuffer {
  TensorBuffer buffer;
  int64_t values_at_once = 0;  // of a matrix that is used in parts
};

// A matrix W [out, in] on a device: in the math's dtype, or frozen in few bits and widened whenever
// it is used. What is computed is what WidenedCopy (model/compact_weights.h) gives, rounded to the
// math's dtype.
class DeviceMatrix {
 public:
  DeviceMatrix() = default;  // no matrix
  explicit DeviceMatrix(at::Tensor dense);
  // Copies the blocks. `math` outlives the object. bf16 for a math of bf16 is dense.
  DeviceMatrix(const DeviceMath& math, const CompactMatrix& from, std::shared_ptr<WideBuffer> wide);

  int64_t out_features() const { return out_; }
  int64_t in_features() const { return in_; }

  // W, or some of its rows. Of one in few bits in the buffer: until the next call.
  at::Tensor Wide() const { return Rows(0, out_); }
  at::Tensor Rows(int64_t first, int64_t count) const;
  // Rows `ids` [n] int32, [n, in].
  at::Tensor Lookup(const at::Tensor& ids) const;

  // y [n, out] = x W^T, and dx [n, in] = dy W. Of one in few bits no more than about
  // values_at_once stand in the buffer.
  void Outputs(const at::Tensor& x, const at::Tensor& y) const;
  void Inputs(const at::Tensor& dy, const at::Tensor& dx) const;

 private:
  int64_t rows_at_once() const;
  void WidenInto(const at::Tensor& y, int64_t first, const int32_t* ids) const;

  int64_t out_ = 0;
  int64_t in_ = 0;
  at::Tensor dense_;  // undefined: in few bits
  const DeviceMath* math_ = nullptr;
  BlockStorage storage_ = BlockStorage::kInt8;
  at::Tensor blocks_;  // [out * bytes of a row] bytes
  std::shared_ptr<WideBuffer> wide_;
};

}  // namespace evolora
