#include "device/device_base.h"

#include <memory>
#include <utility>

#include "ATen/Functions.h"
#include "ATen/core/grad_mode.h"
#include "evolora/model/compact_weights.h"

namespace evolora {
namespace {

// The tensors above each other, row by row.
at::Tensor Join(const std::vector<at::Tensor>& parts, const at::TensorOptions& options) {
  std::vector<int64_t> sizes = parts.front().sizes().vec();
  sizes[0] = 0;
  for (const at::Tensor& part : parts) sizes[0] += part.size(0);
  at::Tensor joined = at::empty(sizes, options);
  int64_t row = 0;
  for (const at::Tensor& part : parts) {
    joined.narrow(0, row, part.size(0)).copy_(part);
    row += part.size(0);
  }
  return joined;
}

at::Tensor CopyOf(const at::Tensor& tensor, const at::TensorOptions& options) {
  return tensor.defined() ? Join({tensor}, options) : at::Tensor();
}

bool HeadIsEmbedding(const LlamaWeights& weights) {
  const at::Tensor &head = weights.head, &embedding = weights.embedding;
  if (head.defined() != embedding.defined()) return false;
  if (!head.defined()) return weights.config.tied_head;
  return head.is_same(embedding) || head.const_data_ptr() == embedding.const_data_ptr();
}

bool IsTrained(const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }

// Copies tensors that may be trained.
class TrainedCopies {
 public:
  explicit TrainedCopies(DeviceCopies& copies) : copies_(copies) {}

  at::Tensor Copy(const at::Tensor& from, const at::TensorOptions& options, at::Tensor& gradient) {
    const at::Tensor to = CopyOf(from, options);
    if (!IsTrained(from)) return to;
    Add(from, to);
    gradient = from.grad();
    return to;
  }

  // The tensors above each other; undefined as the first is.
  at::Tensor CopyJoined(const std::vector<at::Tensor>& parts, const at::TensorOptions& options,
                        std::vector<at::Tensor>& gradients) {
    if (!parts.front().defined()) return {};
    const at::Tensor joined = Join(parts, options);
    if (!IsTrained(parts.front())) return joined;
    int64_t row = 0;
    for (const at::Tensor& part : parts) {
      Add(part, joined.narrow(0, row, part.size(0)));
      gradients.push_back(part.grad());
      row += part.size(0);
    }
    return joined;
  }

 private:
  void Add(const at::Tensor& from, const at::Tensor& to) {
    copies_.to.push_back(to);
    copies_.from.push_back(from.detach());
  }

  DeviceCopies& copies_;
};

// Takes copies of what is trained alone.
class TrainedInPlace {
 public:
  TrainedInPlace(const DeviceMath& math, DeviceCopies& copies) : math_(math), trained_(copies) {}

  void Norm(const at::Tensor& from, at::Tensor& to, at::Tensor& gradient) {
    if (IsTrained(from)) to = trained_.Copy(from, math_.fp32(), gradient);
  }
  void Matrix(const at::Tensor& from, DeviceMatrix& to, at::Tensor& gradient) {
    if (IsTrained(from)) to = DeviceMatrix(trained_.Copy(from, math_.options(), gradient));
  }

 private:
  const DeviceMath& math_;
  TrainedCopies trained_;
};

// Makes the matrices of a base on a device.
class MatrixCopies {
 public:
  MatrixCopies(const LlamaWeights& weights, const DeviceMath& math, int64_t values_at_once,
               TrainedCopies& trained)
      : weights_(weights), math_(math), trained_(trained), wide_(std::make_shared<WideBuffer>()) {
    wide_->values_at_once = values_at_once;
  }

  void AddVocabulary(DeviceBase& base) {
    const CompactWeights* compact = weights_.compact.get();
    base.embedding = Vocabulary(weights_.embedding, compact ? &compact->embedding : nullptr,
                                base.embedding_gradient);
    if (HeadIsEmbedding(weights_)) {
      base.head = base.embedding;
      base.head_gradient = base.embedding_gradient;
      return;
    }
    base.head = Vocabulary(weights_.head, compact ? &compact->head : nullptr, base.head_gradient);
  }

  void AddLayer(size_t i, DeviceBaseLayer& layer) {
    if (weights_.compact != nullptr) {
      const CompactLayer& from = weights_.compact->layers[i];
      layer.qkv = DeviceMatrix(math_, from.qkv, wide_);
      layer.o = DeviceMatrix(math_, from.o, wide_);
      layer.gate_up = DeviceMatrix(math_, from.gate_up, wide_);
      layer.down = DeviceMatrix(math_, from.down, wide_);
      return;
    }
    const LlamaLayer& from = weights_.layers[i];
    const auto matrix = [&](const std::vector<at::Tensor>& parts,
                            DeviceBaseLayer::GroupGradients& gradients) {
      return DeviceMatrix(trained_.CopyJoined(parts, math_.options(), gradients.weights));
    };
    layer.qkv = matrix({from.q, from.k, from.v}, layer.qkv_gradients);
    layer.o = matrix({from.o}, layer.o_gradients);
    layer.gate_up = matrix({from.gate, from.up}, layer.gate_up_gradients);
    layer.down = matrix({from.down}, layer.down_gradients);
  }

 private:
  // A defined tensor counts, beside matrices in few bits, too.
  DeviceMatrix Vocabulary(const at::Tensor& dense, const CompactMatrix* compact,
                          at::Tensor& gradient) {
    if (dense.defined()) return DeviceMatrix(trained_.Copy(dense, math_.options(), gradient));
    return DeviceMatrix(math_, *compact, wide_);
  }

  const LlamaWeights& weights_;
  const DeviceMath& math_;
  TrainedCopies& trained_;
  const std::shared_ptr<WideBuffer> wide_;
};

}  // namespace

DeviceBase CopyBase(const LlamaWeights& weights, const DeviceMath& math, int64_t values_at_once,
                    DeviceCopies& copies) {
  const at::NoGradGuard no_grad;
  TrainedCopies trained(copies);
  MatrixCopies matrices(weights, math, values_at_once, trained);
  DeviceBase base;
  matrices.AddVocabulary(base);
  base.final_norm = trained.Copy(weights.final_norm, math.fp32(), base.final_norm_gradient);
  for (const LlamaLayer& from : weights.layers) {
    DeviceBaseLayer layer;
    matrices.AddLayer(base.layers.size(), layer);
    DeviceBaseLayer::NormGradients& gradients = layer.gradients;
    layer.input_norm = trained.Copy(from.input_norm, math.fp32(), gradients.input);
    layer.post_norm = trained.Copy(from.post_norm, math.fp32(), gradients.post);
    layer.query_norm = trained.Copy(from.q_norm, math.fp32(), gradients.query);
    layer.key_norm = trained.Copy(from.k_norm, math.fp32(), gradients.key);
    layer.qkv_bias = trained.CopyJoined({from.q_bias, from.k_bias, from.v_bias}, math.options(),
                                        layer.qkv_gradients.biases);
    layer.o_bias = trained.CopyJoined({from.o_bias}, math.options(), layer.o_gradients.biases);
    base.layers.push_back(std::move(layer));
  }
  return base;
}

void CopyTrained(const LlamaWeights& weights, const DeviceMath& math, DeviceCopies& copies,
                 DeviceBase& base) {
  const at::NoGradGuard no_grad;
  TrainedInPlace trained(math, copies);
  trained.Matrix(weights.embedding, base.embedding, base.embedding_gradient);
  if (HeadIsEmbedding(weights)) {
    base.head = base.embedding;
    base.head_gradient = base.embedding_gradient;
  } else {
    trained.Matrix(weights.head, base.head, base.head_gradient);
  }
  trained.Norm(weights.final_norm, base.final_norm, base.final_norm_gradient);
  for (size_t i = 0; i < base.layers.size(); ++i) {
    const LlamaLayer& from = weights.layers[i];
    DeviceBaseLayer& to = base.layers[i];
    trained.Norm(from.input_norm, to.input_norm, to.gradients.input);
    trained.Norm(from.post_norm, to.post_norm, to.gradients.post);
    trained.Norm(from.q_norm, to.query_norm, to.gradients.query);
    trained.Norm(from.k_norm, to.key_norm, to.gradients.key);
  }
}

ResidentBase::ResidentBase(const LlamaWeights& weights, at::Device device, at::ScalarType dtype,
                           int64_t values_at_once)
    : math(device, dtype) {
  DeviceCopies none;  // nothing is trained
  base = CopyBase(weights, math, values_at_once, none);
}

void AddNormGradient(const at::Tensor& dy, const at::Tensor& unit, const at::Tensor& gradient) {
  if (!gradient.defined()) return;
  gradient.add_(dy.to(at::kFloat).mul(unit).sum(0));
}

}  // namespace evolora
