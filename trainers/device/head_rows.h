#pragma once

#include <cstdint>
#include <vector>

#include "token_layout.h"

namespace evolora {

// The rows of logits that the head of the device path computes for a micro-batch: which token each
// one is of, and what it has to predict.
struct HeadRows {
  std::vector<int64_t> tokens;             // [M]; the same one more than once by label
  std::vector<int32_t> first_target;       // [M + 1]: a row's entries in the next two
  std::vector<int32_t> ids;                // [T] different within a row
  std::vector<int32_t> counts;             // [T] how often
  std::vector<TokenLayout::Label> labels;  // [M] of each row; by label alone
};

// One row for each predicting token, for losses that add up over its targets.
HeadRows RowsByToken(const TokenLayout& layout);

// One row for each label, for losses that treat labels differently: where rows of training share a
// predicting token, it stands here once for each of them. Ascending by sequence; the labels of a
// sequence that stands in the micro-batch more than once come one whole copy after the other.
HeadRows RowsByLabel(const TokenLayout& layout);

}  // namespace evolora
