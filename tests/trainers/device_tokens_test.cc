// What a micro-batch is on a device, with and without padding; the CPU stands in for it.
#include "device/device_tokens.h"

#include <numeric>
#include <vector>

#include "ATen/ATen.h"
#include "device/array_upload.h"
#include "gmock/gmock.h"

namespace evolora {
namespace {

using ::testing::ElementsAre;

template <typename T>
std::vector<T> Values(const at::Tensor& tensor) {
  const T* data = tensor.const_data_ptr<T>();
  return {data, data + tensor.numel()};
}

// Rows of 3 and 2 tokens; the second and third of the first row and the second of the second one
// are to be predicted.
TokenLayout TwoRows() {
  static const std::vector<TrainingRow> rows = {
      {.ids = {5, 6, 7}, .labels = {kIgnoreLabel, 6, 7}},
      {.ids = {8, 9}, .labels = {8, 9}},
  };
  return LayOutTokens(rows, {0, 1}, /*share_prefixes=*/false);
}

class TokenUploadTest : public ::testing::Test {
 protected:
  DeviceTokens Move(const BatchShape& shape, const TokenUpload::Parts& parts = {}) {
    TokenUpload upload(math_, parts);
    upload.Move(TwoRows(), shape, 0.5, keys_);
    return upload.TokensOf(shape);
  }
  const DeviceMath math_{at::kCPU, at::kFloat};
  const std::vector<uint64_t> keys_ = {11, 12, 13, 14, 15};
};

TEST_F(TokenUploadTest, WithoutPaddingHasTheLayoutsArrays) {
  const BatchShape shape = ShapeOf(TwoRows());
  EXPECT_EQ(shape, (BatchShape{5, 2, 3, 3, 3}));
  const DeviceTokens tokens = Move(shape, {.places = true, .dropout = true});
  EXPECT_THAT(Values<int32_t>(tokens.ids), ElementsAre(5, 6, 7, 8, 9));
  EXPECT_THAT(Values<int32_t>(tokens.positions), ElementsAre(0, 1, 2, 0, 1));
  EXPECT_THAT(Values<int32_t>(tokens.row_begin), ElementsAre(0, 3, 5));
  EXPECT_THAT(Values<int64_t>(tokens.predicting), ElementsAre(0, 1, 3));
  EXPECT_THAT(Values<int32_t>(tokens.first_target), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Values<int32_t>(tokens.target_ids), ElementsAre(6, 7, 9));
  EXPECT_THAT(Values<int32_t>(tokens.target_counts), ElementsAre(1, 1, 1));
  EXPECT_THAT(Values<float>(tokens.factor), ElementsAre(0.5f));
  EXPECT_THAT(Values<int64_t>(tokens.dropout_keys), ElementsAre(11, 12, 13, 14, 15));
  EXPECT_THAT(Values<int64_t>(tokens.predicting_keys), ElementsAre(11, 12, 14));
  EXPECT_THAT(Values<int64_t>(tokens.token_of_place), ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST_F(TokenUploadTest, PaddingIsRowsThatPredictNothing) {
  const BatchShape shape = {
      .tokens = 9, .rows = 6, .longest_row = 3, .predicting = 5, .targets = 4};
  const DeviceTokens tokens = Move(shape, {.places = true, .dropout = true});
  EXPECT_THAT(Values<int32_t>(tokens.ids), ElementsAre(5, 6, 7, 8, 9, 0, 0, 0, 0));
  EXPECT_THAT(Values<int32_t>(tokens.positions), ElementsAre(0, 1, 2, 0, 1, 0, 1, 2, 0));
  EXPECT_THAT(Values<int32_t>(tokens.row_begin), ElementsAre(0, 3, 5, 8, 9, 9, 9));
  // The last token of a row predicts nothing.
  EXPECT_THAT(Values<int64_t>(tokens.predicting), ElementsAre(0, 1, 3, 4, 4));
  EXPECT_THAT(Values<int32_t>(tokens.first_target), ElementsAre(0, 1, 2, 3, 3, 3));
  EXPECT_THAT(Values<int32_t>(tokens.target_counts), ElementsAre(1, 1, 1, 0));
  EXPECT_THAT(Values<int64_t>(tokens.token_of_place),
              ElementsAre(0, 1, 2, 3, 4, 9, 5, 6, 7, 8, 9, 9, 9, 9, 9, 9, 9, 9));
}

TEST_F(TokenUploadTest, WhatIsNotAskedForIsUndefined) {
  const DeviceTokens tokens = Move(ShapeOf(TwoRows()));
  EXPECT_FALSE(tokens.dropout_keys.defined());
  EXPECT_FALSE(tokens.predicting_keys.defined());
  EXPECT_FALSE(tokens.token_of_place.defined());
}

// A recorded graph holds the addresses.
TEST_F(TokenUploadTest, BatchesOfAShapeLieAtOnePlace) {
  TokenUpload upload(math_, {});
  const BatchShape large = {16, 4, 8, 8, 8}, small = {8, 4, 8, 8, 8};
  upload.Move(TwoRows(), large, 1, {});
  const void* const place = upload.TokensOf(large).target_ids.const_data_ptr();
  upload.Move(TwoRows(), small, 1, {});
  upload.Move(TwoRows(), large, 1, {});
  EXPECT_EQ(upload.TokensOf(large).target_ids.const_data_ptr(), place);
}

TEST(ArrayUpload, ArraysOfAnyTypeAndLengthArriveWhole) {
  const std::vector<ArrayUpload::Size> sizes = {
      {3, at::kInt}, {0, at::kDouble}, {5, at::kFloat}, {1, at::kLong}, {2, at::kDouble}};
  const ArrayUpload::Staging staging(sizes, at::kCPU);
  std::iota(staging.Array<int32_t>(0).begin(), staging.Array<int32_t>(0).end(), 1);
  std::iota(staging.Array<float>(2).begin(), staging.Array<float>(2).end(), 10.0f);
  staging.Array<int64_t>(3)[0] = int64_t{1} << 40;
  staging.Array<double>(4)[1] = 0.5;
  ArrayUpload upload;
  upload.Move(staging, at::kCPU);
  const std::vector<at::Tensor> arrays = upload.Views(sizes);
  EXPECT_THAT(Values<int32_t>(arrays[0]), ElementsAre(1, 2, 3));
  EXPECT_EQ(arrays[1].numel(), 0);
  EXPECT_THAT(Values<float>(arrays[2]), ElementsAre(10, 11, 12, 13, 14));
  EXPECT_THAT(Values<int64_t>(arrays[3]), ElementsAre(int64_t{1} << 40));
  EXPECT_THAT(Values<double>(arrays[4]), ElementsAre(0, 0.5));
}

}  // namespace
}  // namespace evolora
