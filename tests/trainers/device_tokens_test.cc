// What a micro-batch is on a device, with and without padding; the CPU stands in for it.
#include "device/device_tokens.h"

#include <numeric>
#include <vector>

#include "ATen/ATen.h"
#include "device/array_upload.h"
#include "device/head_rows.h"
#include "gmock/gmock.h"

namespace evolora {
namespace {

using ::testing::ElementsAre;

template <typename T>
std::vector<T> Values(const at::Tensor& tensor) {
  const T* data = tensor.const_data_ptr<T>();
  return {data, data + tensor.numel()};
}

// Rows of 3 and 2 tokens and one more that is predicted alone. The first and the third predict in
// the first row, the second in the second one.
TokenLayout TwoRows() {
  static const std::vector<TrainingRow> rows = {
      {.ids = {5, 6, 7, 3}, .labels = {kIgnoreLabel, 6, kIgnoreLabel, 3}},
      {.ids = {8, 9, 4}, .labels = {8, kIgnoreLabel, 4}},
  };
  return LayOutTokens(rows, {0, 1}, /*share_prefixes=*/false);
}

class TokenUploadTest : public ::testing::Test {
 protected:
  DeviceTokens Move(const BatchShape& shape, const TokenUpload::Parts& parts = {}) {
    TokenUpload upload(math_, parts);
    const TokenLayout layout = TwoRows();
    const HeadRows head = RowsByToken(layout);
    upload.Move({.layout = layout, .head = head, .factor = 0.5, .dropout_keys = keys_}, shape);
    return upload.TokensOf(shape);
  }
  const DeviceMath math_{at::kCPU, at::kFloat};
  const std::vector<uint64_t> keys_ = {11, 12, 13, 14, 15};
};

TEST_F(TokenUploadTest, WithoutPaddingHasTheLayoutsArrays) {
  const BatchShape shape = ShapeOf(TwoRows(), RowsByToken(TwoRows()));
  EXPECT_EQ(shape,
            (BatchShape{.tokens = 5, .rows = 2, .longest_row = 3, .predicting = 3, .targets = 3}));
  const DeviceTokens tokens = Move(shape, {.places = true, .dropout = true});
  EXPECT_THAT(Values<int32_t>(tokens.ids), ElementsAre(5, 6, 7, 8, 9));
  EXPECT_THAT(Values<int32_t>(tokens.positions), ElementsAre(0, 1, 2, 0, 1));
  EXPECT_THAT(Values<int32_t>(tokens.row_begin), ElementsAre(0, 3, 5));
  EXPECT_THAT(Values<int64_t>(tokens.predicting), ElementsAre(0, 2, 4));
  EXPECT_THAT(Values<int32_t>(tokens.first_target), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Values<int32_t>(tokens.target_ids), ElementsAre(6, 3, 4));
  EXPECT_THAT(Values<int32_t>(tokens.target_counts), ElementsAre(1, 1, 1));
  EXPECT_THAT(Values<float>(tokens.factor), ElementsAre(0.5f));
  EXPECT_THAT(Values<int64_t>(tokens.dropout_keys), ElementsAre(11, 12, 13, 14, 15));
  EXPECT_THAT(Values<int64_t>(tokens.predicting_keys), ElementsAre(11, 13, 15));
  EXPECT_THAT(Values<int32_t>(tokens.places_of_predicting.first), ElementsAre(0, 1, 1, 2, 2, 3));
  EXPECT_THAT(Values<int32_t>(tokens.places_of_predicting.places), ElementsAre(0, 1, 2));
  EXPECT_THAT(Values<int64_t>(tokens.key_tokens), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(Values<int64_t>(tokens.own_of_place), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(Values<int32_t>(tokens.places_of_keys.first), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(Values<int32_t>(tokens.places_of_keys.places), ElementsAre(0, 1, 2, 3, 4, 0));
}

TEST_F(TokenUploadTest, PaddingIsRowsThatPredictNothing) {
  const BatchShape shape = {
      .tokens = 9, .rows = 6, .longest_row = 3, .predicting = 5, .targets = 4};
  const DeviceTokens tokens = Move(shape, {.places = true, .dropout = true});
  EXPECT_THAT(Values<int32_t>(tokens.ids), ElementsAre(5, 6, 7, 8, 9, 0, 0, 0, 0));
  EXPECT_THAT(Values<int32_t>(tokens.positions), ElementsAre(0, 1, 2, 0, 1, 0, 1, 2, 0));
  EXPECT_THAT(Values<int32_t>(tokens.row_begin), ElementsAre(0, 3, 5, 8, 9, 9, 9));
  // Rows of the head without a target; no place of token 4 leads to them.
  EXPECT_THAT(Values<int64_t>(tokens.predicting), ElementsAre(0, 2, 4, 4, 4));
  EXPECT_THAT(Values<int32_t>(tokens.first_target), ElementsAre(0, 1, 2, 3, 3, 3));
  EXPECT_THAT(Values<int32_t>(tokens.target_counts), ElementsAre(1, 1, 1, 0));
  EXPECT_THAT(Values<int32_t>(tokens.places_of_predicting.first),
              ElementsAre(0, 1, 1, 2, 2, 3, 3, 3, 3, 3));
  EXPECT_THAT(Values<int64_t>(tokens.key_tokens),
              ElementsAre(0, 1, 2, 3, 4, 9, 5, 6, 7, 8, 9, 9, 9, 9, 9, 9, 9, 9));
}

TEST_F(TokenUploadTest, WhatIsNotAskedForIsUndefined) {
  const DeviceTokens tokens = Move(ShapeOf(TwoRows(), RowsByToken(TwoRows())));
  EXPECT_FALSE(tokens.dropout_keys.defined());
  EXPECT_FALSE(tokens.predicting_keys.defined());
  EXPECT_FALSE(tokens.key_begin.defined());
  EXPECT_FALSE(tokens.key_tokens.defined());
  EXPECT_FALSE(tokens.own_of_place.defined());
}

// A recorded graph holds the addresses.
TEST_F(TokenUploadTest, BatchesOfAShapeLieAtOnePlace) {
  TokenUpload upload(math_, {});
  BatchShape large = {.tokens = 16, .rows = 4, .longest_row = 8, .predicting = 8, .targets = 8};
  BatchShape small = large;
  small.tokens = 8;
  const TokenLayout layout = TwoRows();
  const HeadRows head = RowsByToken(layout);
  upload.Move({.layout = layout, .head = head}, large);
  const void* const place = upload.TokensOf(large).target_ids.const_data_ptr();
  upload.Move({.layout = layout, .head = head}, small);
  upload.Move({.layout = layout, .head = head}, large);
  EXPECT_EQ(upload.TokensOf(large).target_ids.const_data_ptr(), place);
}

// 1 2 3, then 4 5 or 6; and 1 2 7; each goes on with 8, which is predicted alone. Segments:
// 1 2 | 3 | 4 5 | 6 | 7.
TokenLayout Tree() {
  static const std::vector<TrainingRow> rows = {
      {.ids = {1, 2, 3, 4, 5, 8}, .labels = {1, 2, 3, 4, 5, 8}},
      {.ids = {1, 2, 3, 6, 8}, .labels = {1, 2, 3, 6, 8}},
      {.ids = {1, 2, 7, 8}, .labels = {1, 2, 7, 8}}};
  return LayOutTokens(rows, {0, 1, 2});
}

class TreeUploadTest : public TokenUploadTest {
 protected:
  DeviceTokens MoveTree(const HeadRows& head, const BatchShape& shape,
                        const TokenUpload::Parts& parts = {}) {
    const TokenLayout layout = Tree();
    TokenUpload upload(math_, parts);
    upload.Move({.layout = layout, .head = head}, shape);
    return upload.TokensOf(shape);
  }
};

TEST_F(TreeUploadTest, ARowSeesItsPath) {
  const HeadRows head = RowsByToken(Tree());
  const BatchShape shape = ShapeOf(Tree(), head);
  EXPECT_EQ(
      shape,
      (BatchShape{
          .tokens = 7, .rows = 5, .longest_row = 5, .keys = 17, .predicting = 7, .targets = 9}));
  const DeviceTokens tokens = MoveTree(head, shape);
  EXPECT_THAT(Values<int32_t>(tokens.ids), ElementsAre(1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(Values<int32_t>(tokens.positions), ElementsAre(0, 1, 2, 3, 4, 3, 2));
  EXPECT_THAT(Values<int32_t>(tokens.row_begin), ElementsAre(0, 2, 3, 5, 6, 7));
  EXPECT_THAT(Values<int32_t>(tokens.key_begin), ElementsAre(0, 2, 5, 10, 14, 17));
  EXPECT_THAT(Values<int64_t>(tokens.key_tokens),
              ElementsAre(0, 1, 0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 0, 1, 6));
  EXPECT_THAT(Values<int32_t>(tokens.places_of_keys.first),
              ElementsAre(0, 5, 10, 13, 14, 15, 16, 17));
  EXPECT_THAT(Values<int32_t>(tokens.places_of_keys.places),
              ElementsAre(0, 2, 5, 10, 14, 1, 3, 6, 11, 15, 4, 7, 12, 8, 9, 13, 16));
  // Of 3 labels "2" one target; of the token behind, two.
  EXPECT_THAT(Values<int32_t>(tokens.target_ids), ElementsAre(2, 3, 7, 4, 6, 5, 8, 8, 8));
  EXPECT_THAT(Values<int32_t>(tokens.target_counts), ElementsAre(3, 2, 1, 1, 1, 1, 1, 1, 1));
  EXPECT_THAT(Values<int32_t>(tokens.first_target), ElementsAre(0, 1, 3, 5, 6, 7, 8, 9));
}

TEST_F(TreeUploadTest, PaddingSeesItself) {
  const HeadRows head = RowsByToken(Tree());
  const BatchShape shape = {
      .tokens = 9, .rows = 8, .longest_row = 5, .keys = 24, .predicting = 7, .targets = 9};
  const DeviceTokens tokens = MoveTree(head, shape);
  EXPECT_THAT(Values<int32_t>(tokens.row_begin), ElementsAre(0, 2, 3, 5, 6, 7, 9, 9, 9));
  EXPECT_THAT(Values<int32_t>(tokens.key_begin), ElementsAre(0, 2, 5, 10, 14, 17, 19, 19, 19));
  EXPECT_THAT(Values<int64_t>(tokens.key_tokens.narrow(0, 17, 2)), ElementsAre(7, 8));
  EXPECT_EQ(Values<int32_t>(tokens.places_of_keys.first).back(), 19);
}

TEST_F(TreeUploadTest, AGridHasTheOwnTokensOfEachRowOnce) {
  const HeadRows head = RowsByToken(Tree());
  BatchShape shape = ShapeOf(Tree(), head);
  shape.rows = 6;
  const DeviceTokens tokens = MoveTree(head, shape, {.places = true});
  EXPECT_FALSE(tokens.key_begin.defined());
  EXPECT_THAT(Values<int64_t>(tokens.key_tokens),
              ElementsAre(0, 1, 7, 7, 7, 0, 1, 2, 7, 7, 0, 1, 2, 3, 4, 0, 1, 2, 5, 7, 0, 1, 6, 7, 7,
                          7, 7, 7, 7, 7));
  EXPECT_THAT(Values<int64_t>(tokens.own_of_place),
              ElementsAre(0, 1, 7, 7, 7, 7, 7, 2, 7, 7, 7, 7, 7, 3, 4, 7, 7, 7, 5, 7, 7, 7, 6, 7, 7,
                          7, 7, 7, 7, 7));
}

TEST_F(TreeUploadTest, ByLabelATokenStandsOnceForEachOfThem) {
  const HeadRows head = RowsByLabel(Tree());
  EXPECT_THAT(head.tokens, ElementsAre(0, 1, 2, 3, 4, 0, 1, 2, 5, 0, 1, 6));
  EXPECT_THAT(head.ids, ElementsAre(2, 3, 4, 5, 8, 2, 3, 6, 8, 2, 7, 8));
  EXPECT_EQ(head.labels[6], (TokenLayout::Label{1, 1}));
  const DeviceTokens tokens = MoveTree(head, ShapeOf(Tree(), head));
  EXPECT_THAT(Values<int32_t>(tokens.places_of_predicting.first),
              ElementsAre(0, 3, 6, 8, 9, 10, 11, 12));
  EXPECT_THAT(Values<int32_t>(tokens.places_of_predicting.places),
              ElementsAre(0, 5, 9, 1, 6, 10, 2, 7, 3, 4, 8, 11));
}

TEST(RowsByLabel, CopiesOfARowComeOneAfterTheOther) {
  const std::vector<TrainingRow> rows = {{.ids = {1, 2, 3}, .labels = {1, 2, 3}},
                                         {.ids = {1, 2}, .labels = {1, 2}}};
  const HeadRows head = RowsByLabel(LayOutTokens(rows, {0, 1, 0}));
  using Label = TokenLayout::Label;
  EXPECT_THAT(head.labels,
              ElementsAre(Label{0, 0}, Label{0, 1}, Label{0, 0}, Label{0, 1}, Label{1, 0}));
  EXPECT_THAT(head.tokens, ElementsAre(0, 1, 0, 1, 0));
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
