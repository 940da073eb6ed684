// N tokens, S rows, L places of a row, P keys, M head rows, T targets.
#include "device/device_tokens.h"

#include <algorithm>

namespace evolora {
namespace {

using Segment = TokenLayout::Segment;

enum ArrayIndex : size_t {
  kIds,
  kPositions,
  kRowBegin,
  kPredicting,
  kFirstPredicting,
  kPredictingPlaces,
  kFirstTarget,
  kTargetIds,
  kTargetCounts,
  kFactor,
  kDropoutKeys,
  kPredictingKeys,
  kKeyBegin,
  kKeyTokens,
  kFirstKey,
  kKeyPlaces,
  kOwnOfPlace,
};

// Whether the paths of rows are written down.
bool HasPaths(const BatchShape& shape, const TokenUpload::Parts& parts) {
  return parts.places || shape.keys > 0;
}

int64_t NumKeys(const BatchShape& shape, const TokenUpload::Parts& parts) {
  return parts.places ? shape.rows * shape.longest_row : shape.keys;
}

std::vector<ArrayUpload::Size> SizesOf(const BatchShape& s, const TokenUpload::Parts& parts) {
  const int64_t keyed = parts.dropout ? 1 : 0, keys = NumKeys(s, parts);
  const int64_t paths = HasPaths(s, parts) ? 1 : 0, begins = paths > 0 && !parts.places ? 1 : 0;
  return {{s.tokens, at::kInt},
          {s.tokens, at::kInt},
          {s.rows + 1, at::kInt},
          {s.predicting, at::kLong},
          {s.tokens + 1, at::kInt},
          {s.predicting, at::kInt},
          {s.predicting + 1, at::kInt},
          {s.targets, at::kInt},
          {s.targets, at::kInt},
          {1, at::kFloat},
          {keyed * s.tokens, at::kLong},
          {keyed * s.predicting, at::kLong},
          {begins * (s.rows + 1), at::kInt},
          {keys, at::kLong},
          {paths * (s.tokens + 1), at::kInt},
          {keys, at::kInt},
          {parts.places ? keys : 0, at::kLong}};
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

// Where the tokens stand in `list`, tokens from 0 on; others are left out.
template <typename T>
void FillPlaces(absl::Span<const T> list, absl::Span<int32_t> first, absl::Span<int32_t> places) {
  const auto tokens = static_cast<int64_t>(first.size()) - 1;
  for (const T token : list) {
    if (token < tokens) ++first[static_cast<size_t>(token) + 1];
  }
  for (size_t t = 1; t < first.size(); ++t) first[t] += first[t - 1];
  std::vector<int32_t> next(first.begin(), first.end());
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i] >= tokens) continue;
    places[static_cast<size_t>(next[static_cast<size_t>(list[i])]++)] = static_cast<int32_t>(i);
  }
}

void FillHeadRows(const TokenLayout& layout, const HeadRows& head,
                  const ArrayUpload::Staging& staging) {
  const auto predicting = staging.Array<int64_t>(kPredicting);
  const auto first_target = staging.Array<int32_t>(kFirstTarget);
  // Padding: any token. No target stands there, and no place of a token leads there.
  std::fill(predicting.begin(), predicting.end(), static_cast<int64_t>(layout.ids.size()) - 1);
  std::copy(head.tokens.begin(), head.tokens.end(), predicting.begin());
  FillPlaces(absl::MakeConstSpan(head.tokens), staging.Array<int32_t>(kFirstPredicting),
             staging.Array<int32_t>(kPredictingPlaces));
  std::fill(first_target.begin(), first_target.end(), head.first_target.back());
  std::copy(head.first_target.begin(), head.first_target.end(), first_target.begin());
  std::copy(head.ids.begin(), head.ids.end(), staging.Array<int32_t>(kTargetIds).begin());
  std::copy(head.counts.begin(), head.counts.end(), staging.Array<int32_t>(kTargetCounts).begin());
}

void FillDropoutKeys(const TokenUpload::MicroBatch& batch, const ArrayUpload::Staging& staging) {
  const absl::Span<const uint64_t> keys = batch.dropout_keys;
  std::copy(keys.begin(), keys.end(), staging.Array<uint64_t>(kDropoutKeys).begin());
  const auto predicting_keys = staging.Array<uint64_t>(kPredictingKeys);
  for (size_t m = 0; m < batch.head.tokens.size(); ++m) {
    predicting_keys[m] = keys[static_cast<size_t>(batch.head.tokens[m])];
  }
}

// The tokens that `row` sees, into the front of `path`; returns how many.
int64_t FillPath(const TokenLayout& layout, absl::Span<const int32_t> row_begin, int64_t row,
                 absl::Span<int64_t> path) {
  const int64_t begin = row_begin[static_cast<size_t>(row)];
  const int64_t own = row_begin[static_cast<size_t>(row) + 1] - begin;
  const bool padding = row >= static_cast<int64_t>(layout.segments.size());
  const auto segment_at = [&](int64_t i) { return layout.segments[static_cast<size_t>(i)]; };
  const int64_t above = padding ? 0 : segment_at(row).first_position;
  for (int64_t t = 0; t < own; ++t) path[static_cast<size_t>(above + t)] = begin + t;
  for (int64_t i = padding ? -1 : segment_at(row).parent; i >= 0; i = segment_at(i).parent) {
    const Segment segment = segment_at(i);
    for (int64_t t = 0; t < segment.num_tokens; ++t) {
      path[static_cast<size_t>(segment.first_position + t)] = segment.first_token + t;
    }
  }
  return own == 0 ? 0 : above + own;
}

// Paths one after the other; behind the last one any token.
void FillPaths(const TokenLayout& layout, const BatchShape& shape,
               const ArrayUpload::Staging& staging) {
  const auto row_begin = staging.Array<int32_t>(kRowBegin);
  const auto key_begin = staging.Array<int32_t>(kKeyBegin);
  const auto key_tokens = staging.Array<int64_t>(kKeyTokens);
  int64_t keys = 0;
  for (int64_t row = 0; row < shape.rows; ++row) {
    keys += FillPath(layout, row_begin, row, key_tokens.subspan(static_cast<size_t>(keys)));
    key_begin[static_cast<size_t>(row) + 1] = static_cast<int32_t>(keys);
  }
  FillPlaces<int64_t>(key_tokens.first(static_cast<size_t>(keys)),
                      staging.Array<int32_t>(kFirstKey), staging.Array<int32_t>(kKeyPlaces));
}

// Paths in rows of longest_row places.
void FillGrid(const TokenLayout& layout, const BatchShape& shape,
              const ArrayUpload::Staging& staging) {
  const auto row_begin = staging.Array<int32_t>(kRowBegin);
  const auto key_tokens = staging.Array<int64_t>(kKeyTokens);
  const auto own_of_place = staging.Array<int64_t>(kOwnOfPlace);
  std::fill(key_tokens.begin(), key_tokens.end(), shape.tokens);
  std::fill(own_of_place.begin(), own_of_place.end(), shape.tokens);
  const auto length = static_cast<size_t>(shape.longest_row);
  for (int64_t row = 0; row < shape.rows; ++row) {
    const auto first = static_cast<size_t>(row) * length;
    const auto path = key_tokens.subspan(first, length);
    FillPath(layout, row_begin, row, path);
    for (size_t t = 0; t < length; ++t) {
      const bool own = path[t] >= row_begin[static_cast<size_t>(row)] &&
                       path[t] < row_begin[static_cast<size_t>(row) + 1];
      if (own) own_of_place[first + t] = path[t];
    }
  }
  FillPlaces<int64_t>(key_tokens, staging.Array<int32_t>(kFirstKey),
                      staging.Array<int32_t>(kKeyPlaces));
}

}  // namespace

int64_t TokenUpload::Bytes(const BatchShape& shape, const Parts& parts) {
  int64_t bytes = 0;
  for (const ArrayUpload::Size& size : SizesOf(shape, parts)) {
    bytes += size.count * static_cast<int64_t>(c10::elementSize(size.type));
  }
  return bytes;
}

void TokenUpload::Move(const MicroBatch& batch, const BatchShape& shape) {
  const ArrayUpload::Staging staging(SizesOf(shape, parts_), math_.device());
  FillRows(batch.layout, shape, staging);
  FillHeadRows(batch.layout, batch.head, staging);
  staging.Array<float>(kFactor)[0] = static_cast<float>(batch.factor);
  if (parts_.dropout) FillDropoutKeys(batch, staging);
  if (parts_.places) {
    FillGrid(batch.layout, shape, staging);
  } else if (HasPaths(shape, parts_)) {
    FillPaths(batch.layout, shape, staging);
  }
  upload_.Move(staging, math_.device());
}

DeviceTokens TokenUpload::TokensOf(const BatchShape& shape) const {
  const std::vector<at::Tensor> arrays = upload_.Views(SizesOf(shape, parts_));
  DeviceTokens tokens = {
      .shape = shape,
      .ids = arrays[kIds],
      .positions = arrays[kPositions],
      .row_begin = arrays[kRowBegin],
      .predicting = arrays[kPredicting],
      .places_of_predicting = {arrays[kFirstPredicting], arrays[kPredictingPlaces]},
      .first_target = arrays[kFirstTarget],
      .target_ids = arrays[kTargetIds],
      .target_counts = arrays[kTargetCounts],
      .factor = arrays[kFactor]};
  if (parts_.dropout) {
    tokens.dropout_keys = arrays[kDropoutKeys];
    tokens.predicting_keys = arrays[kPredictingKeys];
  }
  if (!HasPaths(shape, parts_)) return tokens;
  tokens.key_tokens = arrays[kKeyTokens];
  tokens.places_of_keys = {arrays[kFirstKey], arrays[kKeyPlaces]};
  if (parts_.places) {
    tokens.own_of_place = arrays[kOwnOfPlace];
  } else {
    tokens.key_begin = arrays[kKeyBegin];
  }
  return tokens;
}

}  // namespace evolora
