#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "token_layout.h"

namespace evolora {

// A token layout without shared prefixes on a device: rows one after the other. N tokens, S rows, M
// tokens that predict something, T targets. All int32 but `predicting`, in one transfer.
struct DeviceTokens {
  at::Tensor ids;           // [N]
  at::Tensor positions;     // [N]
  at::Tensor row_begin;     // [S + 1]
  at::Tensor predicting;    // [M] int64
  at::Tensor first_target;  // [M + 1]: of each predicting token, and T
  at::Tensor target_ids;    // [T]
  at::Tensor target_counts;
  std::vector<int64_t> row_lengths;  // [S], on the host, as all below
  int64_t longest_row = 0;
  int64_t num_all() const { return ids.size(0); }
  int64_t num_predicting() const { return predicting.size(0); }
};

// REQUIRES: every segment of `layout` is a row of its own (share_prefixes = false).
DeviceTokens MoveTokens(const TokenLayout& layout, const DeviceMath& math);

}  // namespace evolora
