#include "device/device_loss.h"

#include "ATen/Functions.h"

namespace evolora {
namespace {

class DeviceCrossEntropy : public DeviceLoss {
 public:
  explicit DeviceCrossEntropy(const DeviceMath& math) : math_(math) {}

  HeadRows RowsOf(const TokenLayout& layout) const override { return RowsByToken(layout); }
  // All it needs is with the tokens.
  void Move(const HeadRows& /*head*/, const BatchShape& /*shape*/) override {}

  void Turn(const DeviceTokens& tokens, const Labels& labels, const at::Tensor& logits,
            const at::Tensor& sums) override {
    // The kernel counts targets from the first of the micro-batch.
    const at::Tensor losses = at::zeros(tokens.target_ids.sizes(), math_.fp32());
    math_.CrossEntropy(
        {.first_target = tokens.first_target.const_data_ptr<int32_t>() + labels.first,
         .ids = tokens.target_ids.const_data_ptr<int32_t>(),
         .counts = tokens.target_counts.const_data_ptr<int32_t>(),
         .losses = losses.mutable_data_ptr<float>(),
         .factor = tokens.factor.const_data_ptr<float>()},
        logits);
    sums.select(0, 0).add_(losses.sum(at::kDouble));
  }

 private:
  const DeviceMath& math_;
};

}  // namespace

void DeviceLoss::See(const DeviceTokens& /*tokens*/, const Labels& /*labels*/,
                     const at::Tensor& /*logits*/) {}

void DeviceLoss::Tie(const DeviceTokens& /*tokens*/, const at::Tensor& /*sums*/) {}

std::unique_ptr<DeviceLoss> MakeDeviceLoss(const Loss& loss, const DeviceMath& math,
                                           const DeviceMatrix& head_VD) {
  const LossParts parts = loss.parts();
  if (std::holds_alternative<PolicyParts>(parts)) return MakeDevicePolicy(loss, math);
  if (std::holds_alternative<DpoParts>(parts)) return MakeDeviceDpo(loss, math);
  if (std::holds_alternative<DistillParts>(parts)) return MakeDeviceDistill(loss, math, head_VD);
  return std::make_unique<DeviceCrossEntropy>(math);
}

}  // namespace evolora
