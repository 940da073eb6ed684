#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "device/tensor_buffer.h"

namespace evolora {

// Arrays of several types that go to a device in one transfer, into memory that is kept.
class ArrayUpload {
 public:
  struct Size {
    int64_t count = 0;
    at::ScalarType type = at::kInt;
  };

  // Host memory of these arrays, to be filled; then Move. Pinned for a CUDA device, so that the
  // copy runs beside the host.
  class Staging {
   public:
    Staging(absl::Span<const Size> sizes, at::Device device);
    template <typename T>
    absl::Span<T> Array(size_t i) const {
      return {reinterpret_cast<T*>(bytes_.mutable_data_ptr<uint8_t>() + begins_[i]),
              static_cast<size_t>(sizes_[i].count)};
    }

   private:
    friend class ArrayUpload;
    std::vector<Size> sizes_;
    std::vector<int64_t> begins_;
    at::Tensor bytes_;
  };
  void Move(const Staging& staging, at::Device device);

  // The arrays of the last Move, which had these sizes.
  std::vector<at::Tensor> Views(absl::Span<const Size> sizes) const;

 private:
  TensorBuffer buffer_;
};

}  // namespace evolora
