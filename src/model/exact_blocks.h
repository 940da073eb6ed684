#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "evolora/adapters/gguf.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/model/block_form.h"

namespace evolora {

// Blocks of a CompactMatrix that give the values of a file's tensor back, number by number.
struct ExactBlocks {
  std::vector<BlockForm> forms;  // that they may have, the smallest first; empty: none
  // Writes those of all rows, one behind the other, in one of these forms. False: a value is not
  // finite, or has no such form after all. May be called from any thread.
  std::function<bool(BlockForm form, uint8_t* blocks)> write;
};

// Of tensors with two axes, whole blocks of 32 in a row, and a type that DequantizeToFloat knows,
// but F32. The bytes outlive the result.
ExactBlocks ExactBlocksOf(const GgufTensor& tensor);
// Of F16 and BF16 ones likewise.
ExactBlocks ExactBlocksOf(const TensorView& tensor);

// The smallest form that all of them may have, if there is one.
std::optional<BlockForm> CommonForm(absl::Span<const ExactBlocks* const> tensors);

}  // namespace evolora
