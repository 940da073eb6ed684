#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "device/array_upload.h"
#include "device/batch_shape.h"
#include "device/device_math.h"
#include "device/head_rows.h"
#include "token_layout.h"

namespace evolora {

// A micro-batch on a device, padded to a shape: rows one after the other, then rows of padding,
// then rows of no token. Padding predicts nothing, so that no gradient comes from it. A row sees
// its path: the tokens of the segments above it, and its own.
struct DeviceTokens {
  BatchShape shape;
  at::Tensor ids;                    // [N] int32, as all but what is said
  at::Tensor positions;              // [N]
  at::Tensor row_begin;              // [S + 1]
  at::Tensor predicting;             // [M] int64, of head rows; padding: any token
  TokenPlaces places_of_predicting;  // without the padding
  at::Tensor first_target;           // [M + 1]: of each head row; padding has no targets
  at::Tensor target_ids;             // [T]
  at::Tensor target_counts;          // [T]
  at::Tensor factor;           // [1] fp32: what the losses are multiplied with for the gradient
  at::Tensor dropout_keys;     // [N] int64, the bits of uint64: DropoutTokenKey; undefined: none
  at::Tensor predicting_keys;  // [M]
  // The paths of the rows one after the other, where shape.keys is above 0: token by token, and
  // where each begins. Undefined when places are asked for.
  at::Tensor key_begin;  // [S + 1]
  // [P] int64, any token behind the last path. When places are asked for [S * L]: row s, place t ->
  // the token at position t of its path, N where there is none.
  at::Tensor key_tokens;
  TokenPlaces places_of_keys;
  // [S * L] int64: key_tokens where the token is the row's own, else N; when asked for.
  at::Tensor own_of_place;
};

// Where the micro-batches of a run lie on the device, one after the other.
class TokenUpload {
 public:
  struct Parts {
    bool places = false;
    bool dropout = false;
  };
  // Of the arrays of a shape.
  static int64_t Bytes(const BatchShape& shape, const Parts& parts);

  // `math` outlives the object.
  TokenUpload(const DeviceMath& math, const Parts& parts) : math_(math), parts_(parts) {}

  struct MicroBatch {
    const TokenLayout& layout;
    const HeadRows& head;
    double factor = 1;
    absl::Span<const uint64_t> dropout_keys = {};  // of the layout's tokens, with parts.dropout
  };
  // Moves a micro-batch in one transfer which the host does not wait for. REQUIRES: it fits into
  // `shape` with rows of padding.
  void Move(const MicroBatch& batch, const BatchShape& shape);
  // The arrays of the last Move, which had this shape. Every Move of a shape gives the same memory,
  // until one comes whose shape does not fit into those before.
  DeviceTokens TokensOf(const BatchShape& shape) const;

 private:
  const DeviceMath& math_;
  const Parts parts_;
  ArrayUpload upload_;
};

}  // namespace evolora
