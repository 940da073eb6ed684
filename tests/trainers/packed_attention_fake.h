#pragma once

#include <memory>

#include "device/packed_attention.h"

namespace evolora::testing {

// What PackedAttention promises, sequence by sequence in plain fp32 products on the CPU. What it
// does not promise to write is NaN.
std::shared_ptr<const PackedAttention> PlainPackedAttention();

}  // namespace evolora::testing
