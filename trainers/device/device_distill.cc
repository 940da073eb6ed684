// M labels, K kept tokens of a label, D model width, V vocabulary.
#include <algorithm>
#include <numeric>
#include <vector>

#include "ATen/Functions.h"
#include "device/array_upload.h"
#include "device/device_loss.h"
#include "device/tensor_buffer.h"

namespace evolora {
namespace {

class DeviceDistill : public DeviceLoss {
 public:
  DeviceDistill(const Loss& loss, const DeviceMath& math, const DeviceMatrix& head_VD)
      : loss_(loss), math_(math), head_VD_(head_VD) {}

  void Move(const HeadRows& head, const BatchShape& shape) override {
    const DistillParts parts = Parts();
    const ArrayUpload::Staging staging(SizesOf(shape), math_.device());
    for (size_t i = 0; i < head.labels.size(); ++i) {
      const auto row = static_cast<size_t>(head.labels[i].sequence);
      const int64_t place = head.labels[i].ordinal;
      if (parts.top_k == 0) {
        const at::Tensor& hidden = parts.teacher_hidden[row];
        std::copy_n(hidden.const_data_ptr<float>() + place * width(), width(),
                    staging.Array<float>(0).begin() + static_cast<int64_t>(i) * width());
      } else {
        FillTop(parts.top[row][static_cast<size_t>(place)], i, staging);
      }
    }
    upload_.Move(staging, math_.device());
  }

  void Turn(const DeviceTokens& tokens, const Labels& labels, const at::Tensor& logits,
            const at::Tensor& sums) override {
    const std::vector<at::Tensor> arrays = upload_.Views(SizesOf(tokens.shape));
    const at::Tensor losses = Parts().top_k == 0 ? TurnWhole(tokens, labels, arrays, logits)
                                                 : TurnTop(tokens, labels, arrays, logits);
    sums.select(0, 0).add_(losses.sum());
  }

 private:
  DistillParts Parts() const { return std::get<DistillParts>(loss_.parts()); }
  int64_t width() const { return head_VD_.in_features(); }
  float inverse_temperature() const { return static_cast<float>(1 / Parts().temperature); }

  // The teacher's hidden states; or ids, their log-probabilities and those of the rest.
  std::vector<ArrayUpload::Size> SizesOf(const BatchShape& shape) const {
    const int64_t kept = Parts().top_k;
    if (kept == 0) return {{shape.predicting * width(), at::kFloat}};
    return {{shape.predicting * kept, at::kInt},
            {shape.predicting * kept, at::kDouble},
            {shape.predicting, at::kDouble}};
  }

  // By id, as the kernel goes through the vocabulary.
  void FillTop(const TopK& top, size_t label, const ArrayUpload::Staging& staging) {
    order_.resize(top.ids.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(),
              [&](size_t x, size_t y) { return top.ids[x] < top.ids[y]; });
    for (size_t k = 0; k < order_.size(); ++k) {
      staging.Array<int32_t>(0)[label * order_.size() + k] = top.ids[order_[k]];
      staging.Array<double>(1)[label * order_.size() + k] = top.log_probs[order_[k]];
    }
    staging.Array<double>(2)[label] = top.log_rest;
  }

  at::Tensor TurnWhole(const DeviceTokens& tokens, const Labels& labels,
                       const std::vector<at::Tensor>& arrays, const at::Tensor& logits) {
    const at::Tensor hidden = arrays[0]
                                  .view({tokens.shape.predicting, width()})
                                  .narrow(0, labels.first, labels.count)
                                  .to(math_.dtype());
    const at::Tensor& teacher = teacher_.Reserve(logits.sizes(), math_.options());
    head_VD_.Outputs(hidden, teacher);
    const at::Tensor losses = at::empty({labels.count}, math_.fp32().dtype(at::kDouble));
    math_.DistillWhole({.counts = Counts(tokens, labels),
                        .inverse_temperature = inverse_temperature(),
                        .factor = tokens.factor.const_data_ptr<float>(),
                        .losses = losses.mutable_data_ptr<double>()},
                       teacher, logits);
    return losses;
  }

  at::Tensor TurnTop(const DeviceTokens& tokens, const Labels& labels,
                     const std::vector<at::Tensor>& arrays, const at::Tensor& logits) const {
    const int64_t kept = Parts().top_k;
    const at::Tensor losses = at::zeros({labels.count, kept + 1}, math_.fp32().dtype(at::kDouble));
    math_.DistillTop({.kept = kept,
                      .ids = arrays[0].const_data_ptr<int32_t>() + labels.first * kept,
                      .log_probs = arrays[1].const_data_ptr<double>() + labels.first * kept,
                      .log_rests = arrays[2].const_data_ptr<double>() + labels.first,
                      .counts = Counts(tokens, labels),
                      .inverse_temperature = inverse_temperature(),
                      .factor = tokens.factor.const_data_ptr<float>(),
                      .losses = losses.mutable_data_ptr<double>()},
                     logits);
    return losses;
  }

  static const int32_t* Counts(const DeviceTokens& tokens, const Labels& labels) {
    return tokens.target_counts.const_data_ptr<int32_t>() + labels.first;
  }

  const Loss& loss_;
  const DeviceMath& math_;
  const DeviceMatrix head_VD_;
  ArrayUpload upload_;
  TensorBuffer teacher_;       // logits of some labels
  std::vector<size_t> order_;  // of the tokens of a label
};

}  // namespace

std::unique_ptr<DeviceLoss> MakeDeviceDistill(const Loss& loss, const DeviceMath& math,
                                              const DeviceMatrix& head_VD) {
  return std::make_unique<DeviceDistill>(loss, math, head_VD);
}

}  // namespace evolora
