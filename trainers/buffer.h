#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace evolora {

// Uninitialised fp32 memory that grows to the largest size asked for and is kept: no allocation
// once the largest micro-batch was seen. Aligned to 64 bytes, large ones on huge pages where the
// system gives them. 32 floats behind the last may be read (kernels load whole vectors).
class Buffer {
 public:
  // Room for `size` floats. The contents are lost when the buffer grows.
  float* Reserve(int64_t size);
  float* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(float* data) const;
  };
  std::unique_ptr<float[], Free> data_;
  int64_t capacity_ = 0;
};

}  // namespace evolora
