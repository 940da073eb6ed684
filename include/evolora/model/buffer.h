#pragma once

#include <cstdint>

#include "evolora/core/float_memory.h"

namespace evolora {

// Uninitialised fp32 memory that grows to the largest size asked for and is kept: no allocation
// once the largest micro-batch was seen. 32 floats behind the last may be read (kernels load whole
// vectors).
class Buffer {
 public:
  // Room for `size` floats. The contents are lost when the buffer grows.
  float* Reserve(int64_t size);
  float* data() const { return data_.get(); }

 private:
  FloatMemory data_;
  int64_t capacity_ = 0;
};

}  // namespace evolora
