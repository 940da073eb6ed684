#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "device/array_upload.h"
#include "device/batch_shape.h"
#include "device/device_math.h"
#include "token_layout.h"

namespace evolora {

// A micro-batch on a device, padded to a shape: rows one after the other, then rows of padding,
// then rows of no token. Padding predicts nothing, so that no gradient comes from it.
struct DeviceTokens {
  BatchShape shape;
  at::Tensor ids;              // [N] int32, as all but what is said
  at::Tensor positions;        // [N]
  at::Tensor row_begin;        // [S + 1]
  at::Tensor predicting;       // [M] int64; padding: a token that predicts nothing
  at::Tensor first_target;     // [M + 1]: of each predicting token; padding has no targets
  at::Tensor target_ids;       // [T]
  at::Tensor target_counts;    // [T]
  at::Tensor factor;           // [1] fp32: what the losses are multiplied with for the gradient
  at::Tensor dropout_keys;     // [N] int64, the bits of uint64: DropoutTokenKey; undefined: none
  at::Tensor predicting_keys;  // [M]
  // Row s, place t -> its token, N where row s has no such place. [S * L] int64; undefined when
  // not asked for.
  at::Tensor token_of_place;
};

// Where the micro-batches of a run lie on the device, one after the other.
class TokenUpload {
 public:
  struct Parts {
    bool places = false;
    bool dropout = false;
  };
  // `math` outlives the object.
  TokenUpload(const DeviceMath& math, const Parts& parts) : math_(math), parts_(parts) {}

  // Moves a layout that shares no prefixes, in one transfer which the host does not wait for.
  // `dropout_keys`: of the layout's tokens, with parts.dropout. REQUIRES: it fits into `shape` with
  // rows of padding.
  void Move(const TokenLayout& layout, const BatchShape& shape, double factor,
            absl::Span<const uint64_t> dropout_keys);
  // The arrays of the last Move, which had this shape. Every Move of a shape gives the same memory,
  // until one comes whose shape does not fit into those before.
  DeviceTokens TokensOf(const BatchShape& shape) const;

 private:
  const DeviceMath& math_;
  const Parts parts_;
  ArrayUpload upload_;
};

}  // namespace evolora
