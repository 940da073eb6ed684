// Losses that see the logits through the log-probabilities of labels. M labels, P pairs.
#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "ATen/Functions.h"
#include "device/array_upload.h"
#include "device/device_loss.h"
#include "device/tensor_buffer.h"

namespace evolora {
namespace {

const double* Doubles(const at::Tensor& tensor, int64_t first) {
  return tensor.const_data_ptr<double>() + first;
}
double* MutableDoubles(const at::Tensor& tensor, int64_t first) {
  return tensor.mutable_data_ptr<double>() + first;
}

// Of the labels of a micro-batch, [M] fp64 each.
class LabelFigures {
 public:
  explicit LabelFigures(const DeviceMath& math) : math_(math) {}

  // Before the first use for a micro-batch.
  void Reserve(const BatchShape& shape) {
    for (TensorBuffer* buffer : {&log_sums_, &log_probs_, &weights_}) {
      buffer->Reserve({shape.predicting}, math_.fp32().dtype(at::kDouble));
    }
  }
  const at::Tensor& log_probs() const { return log_probs_.get(); }
  const at::Tensor& weights() const { return weights_.get(); }

  void See(const DeviceTokens& tokens, int64_t first, const at::Tensor& logits) const {
    math_.LabelLogProbs({.ids = tokens.target_ids.const_data_ptr<int32_t>() + first,
                         .log_sums = MutableDoubles(log_sums_.get(), first),
                         .log_probs = MutableDoubles(log_probs_.get(), first)},
                        logits);
  }
  void Turn(const DeviceTokens& tokens, int64_t first, const at::Tensor& logits) const {
    math_.LabelGradient({.ids = tokens.target_ids.const_data_ptr<int32_t>() + first,
                         .log_sums = Doubles(log_sums_.get(), first),
                         .weights = Doubles(weights_.get(), first),
                         .factor = tokens.factor.const_data_ptr<float>()},
                        logits);
  }

 private:
  const DeviceMath& math_;
  TensorBuffer log_sums_, log_probs_, weights_;
};

class DevicePolicy : public DeviceLoss {
 public:
  DevicePolicy(const Loss& loss, const DeviceMath& math)
      : loss_(loss), math_(math), figures_(math) {}

  void Move(const HeadRows& head, const BatchShape& shape) override {
    figures_.Reserve(shape);
    const auto parts = std::get<PolicyParts>(loss_.parts());
    const ArrayUpload::Staging staging(SizesOf(shape), math_.device());
    for (size_t i = 0; i < head.labels.size(); ++i) {
      const auto row = static_cast<size_t>(head.labels[i].sequence);
      const auto place = static_cast<size_t>(head.labels[i].ordinal);
      staging.Array<double>(0)[i] = parts.old_log_probs[row][place];
      if (parts.form.kl_beta > 0) staging.Array<double>(1)[i] = parts.references[row][place];
      staging.Array<double>(2)[i] = parts.advantages[row];
      staging.Array<double>(3)[i] = parts.shares[row];
    }
    upload_.Move(staging, math_.device());
  }

  void Turn(const DeviceTokens& tokens, const Labels& labels, const at::Tensor& logits,
            const at::Tensor& sums) override {
    const std::vector<at::Tensor> arrays = upload_.Views(SizesOf(tokens.shape));
    const at::Tensor terms = at::empty({labels.count, kLossTerms}, sums.options());
    const int64_t first = labels.first;
    figures_.See(tokens, first, logits);
    math_.PolicyLoss({.form = std::get<PolicyParts>(loss_.parts()).form,
                      .labels = labels.count,
                      .log_probs = Doubles(figures_.log_probs(), first),
                      .old_log_probs = Doubles(arrays[0], first),
                      .references = Doubles(arrays[1], first),
                      .advantages = Doubles(arrays[2], first),
                      .shares = Doubles(arrays[3], first),
                      .counts = tokens.target_counts.const_data_ptr<int32_t>() + first,
                      .weights = MutableDoubles(figures_.weights(), first),
                      .terms = MutableDoubles(terms, 0)});
    at::Tensor(sums).add_(terms.sum(0));
    figures_.Turn(tokens, first, logits);
  }

 private:
  static std::vector<ArrayUpload::Size> SizesOf(const BatchShape& shape) {
    return std::vector<ArrayUpload::Size>(4, {shape.predicting, at::kDouble});
  }

  const Loss& loss_;
  const DeviceMath& math_;
  LabelFigures figures_;
  ArrayUpload upload_;
};

class DeviceDpo : public DeviceLoss {
 public:
  DeviceDpo(const Loss& loss, const DeviceMath& math) : loss_(loss), math_(math), figures_(math) {}

  bool ties_labels() const override { return true; }

  void Move(const HeadRows& head, const BatchShape& shape) override {
    figures_.Reserve(shape);
    const auto parts = std::get<DpoParts>(loss_.parts());
    const ArrayUpload::Staging staging(SizesOf(shape), math_.device());
    size_t pair = 0;
    for (const auto& [row, answers] : AnswersOf(head)) {
      const AnswerSums& sums = parts.references[static_cast<size_t>(row)];
      for (size_t i = 0; i < answers.chosen.size(); ++i, ++pair) {
        const int64_t places[] = {answers.chosen[i].first, answers.chosen[i].second,
                                  answers.rejected[i].first, answers.rejected[i].second};
        for (size_t k = 0; k < 4; ++k) {
          staging.Array<int32_t>(0)[4 * pair + k] = static_cast<int32_t>(places[k]);
        }
        staging.Array<double>(1)[2 * pair] = sums.chosen;
        staging.Array<double>(1)[2 * pair + 1] = sums.rejected;
      }
    }
    upload_.Move(staging, math_.device());
  }

  void See(const DeviceTokens& tokens, const Labels& labels, const at::Tensor& logits) override {
    figures_.See(tokens, labels.first, logits);
  }

  void Tie(const DeviceTokens& tokens, const at::Tensor& sums) override {
    const std::vector<at::Tensor> arrays = upload_.Views(SizesOf(tokens.shape));
    const int64_t pairs = MostPairs(tokens.shape);
    const at::Tensor terms = at::empty({pairs, kLossTerms}, sums.options());
    at::Tensor(figures_.weights()).zero_();  // padding has no pair
    math_.DpoLoss({.form = std::get<DpoParts>(loss_.parts()).form,
                   .pairs = pairs,
                   .log_probs = Doubles(figures_.log_probs(), 0),
                   .answers = arrays[0].const_data_ptr<int32_t>(),
                   .references = Doubles(arrays[1], 0),
                   .weights = MutableDoubles(figures_.weights(), 0),
                   .terms = MutableDoubles(terms, 0)});
    at::Tensor(sums).add_(terms.sum(0));
  }

  void Turn(const DeviceTokens& tokens, const Labels& labels, const at::Tensor& logits,
            const at::Tensor& /*sums*/) override {
    figures_.Turn(tokens, labels.first, logits);
  }

 private:
  // Where the labels of a row's answers lie: once for each time that the row stands in the batch.
  using Range = std::pair<int64_t, int64_t>;
  struct Answers {
    std::vector<Range> chosen, rejected;
  };
  // By row of training. Labels are by sequence and copy; a copy begins where ordinals do again.
  static std::map<int64_t, Answers> AnswersOf(const HeadRows& head) {
    std::map<int64_t, Answers> all;
    for (size_t i = 0; i < head.labels.size(); ++i) {
      const TokenLayout::Label& label = head.labels[i];
      const bool goes_on =
          i > 0 && head.labels[i - 1] < label && head.labels[i - 1].sequence == label.sequence;
      Answers& answers = all[label.sequence / 2];
      std::vector<Range>& own = label.sequence % 2 == 0 ? answers.chosen : answers.rejected;
      const auto place = static_cast<int64_t>(i);
      if (!goes_on) own.emplace_back(place, place);
      own.back().second = place + 1;
    }
    for (auto& [row, answers] : all) {  // an answer without a label
      const size_t copies = std::max(answers.chosen.size(), answers.rejected.size());
      answers.chosen.resize(copies);
      answers.rejected.resize(copies);
    }
    return all;
  }

  // Every pair has a label; the places behind the last pair stay zero.
  static int64_t MostPairs(const BatchShape& shape) { return shape.predicting; }
  static std::vector<ArrayUpload::Size> SizesOf(const BatchShape& shape) {
    return {{4 * MostPairs(shape), at::kInt}, {2 * MostPairs(shape), at::kDouble}};
  }

  const Loss& loss_;
  const DeviceMath& math_;
  LabelFigures figures_;
  ArrayUpload upload_;
};

}  // namespace

std::unique_ptr<DeviceLoss> MakeDevicePolicy(const Loss& loss, const DeviceMath& math) {
  return std::make_unique<DevicePolicy>(loss, math);
}

std::unique_ptr<DeviceLoss> MakeDeviceDpo(const Loss& loss, const DeviceMath& math) {
  return std::make_unique<DeviceDpo>(loss, math);
}

}  // namespace evolora
