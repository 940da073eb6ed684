// N tokens, S rows, L places of a row, M predicting tokens, T targets.
#include "device/device_tokens.h"

#include <algorithm>

namespace evolora {
namespace {

using Segment = TokenLayout::Segment;
using Target = TokenLayout::Target;

enum ArrayIndex : size_t {
  kIds,
  kPositions,
  kRowBegin,
  kPredicting,
  kFirstTarget,
  kTargetIds,
  kTargetCounts,
  kFactor,
  kDropoutKeys,
  kPredictingKeys,
  kTokenOfPlace,
};

std::vector<ArrayUpload::Size> SizesOf(const BatchShape& s, const TokenUpload::Parts& parts) {
  const int64_t keyed = parts.dropout ? 1 : 0, placed = parts.places ? 1 : 0;
  return {{s.tokens, at::kInt},
          {s.tokens, at::kInt},
          {s.rows + 1, at::kInt},
          {s.predicting, at::kLong},
          {s.predicting + 1, at::kInt},
          {s.targets, at::kInt},
          {s.targets, at::kInt},
          {1, at::kFloat},
          {keyed * s.tokens, at::kLong},
          {keyed * s.predicting, at::kLong},
          {placed * s.rows * s.longest_row, at::kLong}};
}

// Tokens, positions and the beginnings of rows: those of the layout, then padding.
void FillRows(const TokenLayout& layout, const BatchShape& shape,
              const ArrayUpload::Staging& staging) {
  const auto ids = staging.Array<int32_t>(kIds), positions = staging.Array<int32_t>(kPositions);
  const auto row_begin = staging.Array<int32_t>(kRowBegin);
  std::copy(layout.ids.begin(), layout.ids.end(), ids.begin());
  std::copy(layout.positions.begin(), layout.positions.end(), positions.begin());
  size_t row = 0;
  for (const Segment& segment : layout.segments) {
    row_begin[row++] = static_cast<int32_t>(segment.first_token);
  }
  const auto tokens = static_cast<int64_t>(layout.ids.size());
  for (int64_t t = tokens; t < shape.tokens; ++t) {
    const int64_t place = (t - tokens) % shape.longest_row;
    positions[static_cast<size_t>(t)] = static_cast<int32_t>(place);
    if (place == 0) row_begin[row++] = static_cast<int32_t>(t);
  }
  std::fill(row_begin.begin() + row, row_begin.end(), static_cast<int32_t>(shape.tokens));
}

void FillTargets(const TokenLayout& layout, const ArrayUpload::Staging& staging) {
  const auto predicting = staging.Array<int64_t>(kPredicting);
  const auto first_target = staging.Array<int32_t>(kFirstTarget);
  // The last token of a row predicts nothing.
  std::fill(predicting.begin(), predicting.end(), static_cast<int64_t>(layout.ids.size()) - 1);
  std::copy(layout.predicting.begin(), layout.predicting.end(), predicting.begin());
  std::fill(first_target.begin(), first_target.end(), static_cast<int32_t>(layout.targets.size()));
  for (size_t t = layout.targets.size(); t-- > 0;) {
    const Target& target = layout.targets[t];
    first_target[static_cast<size_t>(target.row)] = static_cast<int32_t>(t);
    staging.Array<int32_t>(kTargetIds)[t] = target.id;
    staging.Array<int32_t>(kTargetCounts)[t] = static_cast<int32_t>(target.count);
  }
}

void FillKeys(const TokenLayout& layout, absl::Span<const uint64_t> keys,
              const ArrayUpload::Staging& staging) {
  std::copy(keys.begin(), keys.end(), staging.Array<uint64_t>(kDropoutKeys).begin());
  const auto predicting_keys = staging.Array<uint64_t>(kPredictingKeys);
  for (size_t m = 0; m < layout.predicting.size(); ++m) {
    predicting_keys[m] = keys[static_cast<size_t>(layout.predicting[m])];
  }
}

void FillPlaces(const BatchShape& shape, const ArrayUpload::Staging& staging) {
  const auto row_begin = staging.Array<int32_t>(kRowBegin);
  const auto token_of_place = staging.Array<int64_t>(kTokenOfPlace);
  std::fill(token_of_place.begin(), token_of_place.end(), shape.tokens);
  for (int64_t row = 0; row < shape.rows; ++row) {
    const int64_t begin = row_begin[static_cast<size_t>(row)];
    for (int64_t t = begin; t < row_begin[static_cast<size_t>(row) + 1]; ++t) {
      token_of_place[static_cast<size_t>(row * shape.longest_row + t - begin)] = t;
    }
  }
}

}  // namespace

void TokenUpload::Move(const TokenLayout& layout, const BatchShape& shape, double factor,
                       absl::Span<const uint64_t> dropout_keys) {
  const ArrayUpload::Staging staging(SizesOf(shape, parts_), math_.device());
  FillRows(layout, shape, staging);
  FillTargets(layout, staging);
  staging.Array<float>(kFactor)[0] = static_cast<float>(factor);
  if (parts_.dropout) FillKeys(layout, dropout_keys, staging);
  if (parts_.places) FillPlaces(shape, staging);
  upload_.Move(staging, math_.device());
}

DeviceTokens TokenUpload::TokensOf(const BatchShape& shape) const {
  const std::vector<at::Tensor> arrays = upload_.Views(SizesOf(shape, parts_));
  DeviceTokens tokens = {.shape = shape,
                         .ids = arrays[kIds],
                         .positions = arrays[kPositions],
                         .row_begin = arrays[kRowBegin],
                         .predicting = arrays[kPredicting],
                         .first_target = arrays[kFirstTarget],
                         .target_ids = arrays[kTargetIds],
                         .target_counts = arrays[kTargetCounts],
                         .factor = arrays[kFactor]};
  if (parts_.dropout) {
    tokens.dropout_keys = arrays[kDropoutKeys];
    tokens.predicting_keys = arrays[kPredictingKeys];
  }
  if (parts_.places) tokens.token_of_place = arrays[kTokenOfPlace];
  return tokens;
}

}  // namespace evolora
