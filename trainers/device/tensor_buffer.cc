#include "device/tensor_buffer.h"

#include "ATen/ops/empty.h"
#include "c10/util/accumulate.h"

namespace evolora {

const at::Tensor& TensorBuffer::Reserve(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const int64_t size = c10::multiply_integers(sizes);
  tensor_ = at::Tensor();
  if (!flat_.defined() || size > flat_.numel()) {
    flat_ = at::Tensor();  // before the next allocation: the peak holds one of them
    flat_ = at::empty({size}, options);
  }
  tensor_ = flat_.narrow(0, 0, size).view(sizes);
  return tensor_;
}

}  // namespace evolora
