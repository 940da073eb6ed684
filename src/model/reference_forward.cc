#include "evolora/model/reference_forward.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ATen/Functions.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/rope.h"
#include "evolora/model/torch_status.h"

// B batch, T tokens, D model width, F MLP width, H query heads, K key/value heads, E head width.
namespace evolora {
namespace {

// One forward pass over one batch.
class Pass {
 public:
  Pass(const LlamaWeights& weights, const LoraTensors* lora, const TokenBatch& batch,
       const AdapterInputFactors& factors)
      : weights_(weights), config_(weights.config), lora_(lora), batch_(batch), factors_(factors) {
    const at::Tensor positions =
        batch.positions.defined()
            ? batch.positions
            : at::arange(batch.ids.size(1), at::kLong).unsqueeze(0).expand_as(batch.ids);
    const RopeTables tables = RopeAt(RopeInverseFrequencies(config_), positions);
    const auto dtype = weights.embedding.scalar_type();
    // [B, 1, T, E], each half the same.
    cos_ = at::cat({tables.cos, tables.cos}, -1).unsqueeze(1).to(dtype);
    sin_ = at::cat({tables.sin, tables.sin}, -1).unsqueeze(1).to(dtype);
    full_mask_ = Mask(positions, 0);
    if (config_.sliding_window > 0) window_mask_ = Mask(positions, config_.sliding_window);
  }

  at::Tensor Run() {
    at::Tensor x_BTD = at::embedding(weights_.embedding, batch_.ids);
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      const LlamaLayer& w = weights_.layers[static_cast<size_t>(layer)];
      x_BTD = x_BTD + Attention(layer, w, RmsNorm(x_BTD, w.input_norm));
      x_BTD = x_BTD + Mlp(layer, w, RmsNorm(x_BTD, w.post_norm));
    }
    return RmsNorm(x_BTD, weights_.final_norm);
  }

 private:
  // Bool [B, 1, T, T]: true where the query (row) sees the key (column).
  at::Tensor Mask(const at::Tensor& positions, int64_t window) const {
    const int64_t num_tokens = batch_.ids.size(1);
    at::Tensor sees = at::ones({num_tokens, num_tokens}, at::kBool).tril().unsqueeze(0);
    if (batch_.segments.defined()) {
      const at::Tensor& s = batch_.segments;
      sees = at::logical_and(sees, s.unsqueeze(2).eq(s.unsqueeze(1)));
    }
    if (window > 0) {
      const at::Tensor age = positions.unsqueeze(2).sub(positions.unsqueeze(1));
      sees = at::logical_and(sees, age.lt(window));
    }
    return sees.unsqueeze(1);
  }

  // In fp32 at least, rounded before the weight, as in transformers.
  at::Tensor RmsNorm(const at::Tensor& given, const at::Tensor& weight) const {
    if (given.scalar_type() == at::kBFloat16) {
      const at::Tensor x = given.to(at::kFloat);
      const at::Tensor variance = x.pow(2).mean(-1, /*keepdim=*/true);
      return weight * (x * at::rsqrt(variance + config_.rms_norm_eps)).to(at::kBFloat16);
    }
    const at::Tensor& x = given;
    const at::Tensor variance = x.pow(2).mean(-1, /*keepdim=*/true);
    return weight * (x * at::rsqrt(variance + config_.rms_norm_eps));
  }

  at::Tensor Linear(int64_t layer, const char* name, const at::Tensor& x, const at::Tensor& weight,
                    const at::Tensor& bias) const {
    const at::Tensor y = at::linear(x, weight, bias);
    if (lora_ == nullptr) return y;
    const auto found = lora_->modules.find(absl::StrCat("model.layers.", layer, ".", name));
    if (found == lora_->modules.end()) return y;
    const LoraTensor& module = found->second;
    const at::Tensor read = factors_ ? x * factors_(found->first, x.size(-1)) : x;
    const at::Tensor update = at::linear(at::linear(read, module.a), module.b) * module.scale;
    if (!module.magnitude.defined()) return y + update;
    const at::Tensor factor = module.magnitude / AdaptedRowNorms(weight, module);
    const at::Tensor scaled = (at::linear(x, weight) + update) * factor;
    return bias.defined() ? scaled + bias : scaled;
  }

  at::Tensor Rotate(const at::Tensor& x) const {
    const std::vector<at::Tensor> halves = x.chunk(2, -1);
    return x * cos_ + at::cat({-halves[1], halves[0]}, -1) * sin_;
  }

  // [B, T, heads * E] -> [B, heads, T, E]
  at::Tensor SplitHeads(const at::Tensor& x, int64_t num_heads) const {
    return x.view({x.size(0), x.size(1), num_heads, config_.head_dim}).transpose(1, 2);
  }

  at::Tensor Attention(int64_t layer, const LlamaLayer& w, const at::Tensor& x_BTD) const {
    const LlamaConfig& c = config_;
    at::Tensor q = SplitHeads(Linear(layer, "self_attn.q_proj", x_BTD, w.q, w.q_bias), c.num_heads);
    at::Tensor k =
        SplitHeads(Linear(layer, "self_attn.k_proj", x_BTD, w.k, w.k_bias), c.num_kv_heads);
    at::Tensor v =
        SplitHeads(Linear(layer, "self_attn.v_proj", x_BTD, w.v, w.v_bias), c.num_kv_heads);
    if (c.qk_norm) {
      q = RmsNorm(q, w.q_norm);
      k = RmsNorm(k, w.k_norm);
    }
    q = Rotate(q);
    k = Rotate(k).repeat_interleave(c.num_heads / c.num_kv_heads, 1);
    v = v.repeat_interleave(c.num_heads / c.num_kv_heads, 1);
    const at::Tensor& mask = LayerWindow(c, layer) > 0 ? window_mask_ : full_mask_;
    const double scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
    const at::Tensor scores_BHTT =
        at::matmul(q, k.transpose(2, 3))
            .mul(scale)
            .masked_fill(at::logical_not(mask), -std::numeric_limits<double>::infinity());
    const bool low = scores_BHTT.scalar_type() == at::kBFloat16;
    const at::Tensor probs = low ? at::softmax(scores_BHTT, -1, at::kFloat).to(at::kBFloat16)
                                 : at::softmax(scores_BHTT, -1);
    const at::Tensor mixed = at::matmul(probs, v).transpose(1, 2);
    const at::Tensor joined =
        mixed.reshape({x_BTD.size(0), x_BTD.size(1), c.num_heads * c.head_dim});
    return Linear(layer, "self_attn.o_proj", joined, w.o, w.o_bias);
  }

  at::Tensor Mlp(int64_t layer, const LlamaLayer& w, const at::Tensor& x_BTD) const {
    const at::Tensor gate_BTF = Linear(layer, "mlp.gate_proj", x_BTD, w.gate, {});
    const at::Tensor up_BTF = Linear(layer, "mlp.up_proj", x_BTD, w.up, {});
    return Linear(layer, "mlp.down_proj", at::silu(gate_BTF) * up_BTF, w.down, {});
  }

  const LlamaWeights& weights_;
  const LlamaConfig& config_;
  const LoraTensors* lora_;
  const TokenBatch& batch_;
  const AdapterInputFactors& factors_;
  at::Tensor cos_, sin_;
  at::Tensor full_mask_, window_mask_;
};

absl::Status CheckCompanion(const char* name, const at::Tensor& tensor, const at::Tensor& ids) {
  if (!tensor.defined()) return absl::OkStatus();
  if (tensor.sizes() == ids.sizes() && tensor.scalar_type() == at::kLong) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("batch: ", name, " is not int64 of the ids' shape"));
}

absl::Status CheckBatch(const LlamaConfig& config, const TokenBatch& batch) {
  if (!batch.ids.defined() || batch.ids.dim() != 2 || batch.ids.scalar_type() != at::kLong ||
      batch.ids.numel() == 0) {
    return absl::InvalidArgumentError("batch: ids is not a non-empty int64 [B, T]");
  }
  RETURN_IF_ERROR(CheckCompanion("segments", batch.segments, batch.ids));
  RETURN_IF_ERROR(CheckCompanion("positions", batch.positions, batch.ids));
  const int64_t low = batch.ids.min().item<int64_t>();
  const int64_t high = batch.ids.max().item<int64_t>();
  if (low < 0 || high >= config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("batch: token id ", low < 0 ? low : high,
                                                   " is outside the vocabulary of ",
                                                   config.vocab_size));
  }
  return absl::OkStatus();
}

absl::Status CheckLora(const LlamaConfig& config, const LoraTensors* lora, bool has_factors) {
  if (lora == nullptr) return absl::OkStatus();
  const std::vector<NamedShape> replaceable = ReplaceableModules(config);
  for (const auto& [path, weight] : lora->saved) {
    const auto found = std::find_if(replaceable.begin(), replaceable.end(),
                                    [&](const NamedShape& entry) { return entry.name == path; });
    if (found == replaceable.end() || weight.sizes() != at::IntArrayRef(found->shape)) {
      return absl::InvalidArgumentError(
          absl::StrCat("saved module ", path, ": does not fit the base"));
    }
  }
  for (const auto& [path, module] : lora->modules) {
    const auto [out, in] = LinearShape(config, path);
    const bool fits = out > 0 && module.a.dim() == 2 && module.b.dim() == 2 &&
                      module.a.size(1) == in && module.b.size(0) == out &&
                      module.a.size(0) == module.b.size(1) &&
                      (!module.magnitude.defined() || module.magnitude.numel() == out);
    if (has_factors && module.magnitude.defined()) {
      return absl::InvalidArgumentError(
          absl::StrCat("LoRA module ", path, ": input factors beside a magnitude"));
    }
    if (!fits) {
      return absl::InvalidArgumentError(
          absl::StrCat("LoRA module ", path, ": does not fit the base ([", out, ", ", in, "])"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

at::Tensor EffectiveHead(const LlamaWeights& weights, const LoraTensors* lora) {
  if (lora == nullptr) return weights.head;
  const auto saved = lora->saved.find("lm_head");
  return saved == lora->saved.end() ? weights.head : saved->second;
}

absl::StatusOr<TokenBatch> PadRight(absl::Span<const std::vector<int32_t>> rows) {
  if (rows.empty()) return absl::InvalidArgumentError("batch: no rows");
  size_t longest = 0;
  for (size_t row = 0; row < rows.size(); ++row) {
    if (rows[row].empty()) return absl::InvalidArgumentError(absl::StrCat("row ", row, ": T=0"));
    longest = std::max(longest, rows[row].size());
  }
  return CatchTorch("PadRight", [&]() -> absl::StatusOr<TokenBatch> {
    const std::vector<int64_t> shape = {static_cast<int64_t>(rows.size()),
                                        static_cast<int64_t>(longest)};
    TokenBatch batch{.ids = at::zeros(shape, at::kLong),
                     .segments = at::full(shape, -1, at::kLong)};
    auto* ids = batch.ids.mutable_data_ptr<int64_t>();
    auto* segments = batch.segments.mutable_data_ptr<int64_t>();
    for (size_t row = 0; row < rows.size(); ++row) {
      std::copy(rows[row].begin(), rows[row].end(), ids + row * longest);
      std::fill_n(segments + row * longest, rows[row].size(), 0);
    }
    return batch;
  });
}

absl::StatusOr<at::Tensor> ReferenceHidden(const LlamaWeights& weights, const LoraTensors* lora,
                                           const TokenBatch& batch,
                                           const AdapterInputFactors& factors) {
  return CatchTorch("ReferenceHidden", [&]() -> absl::StatusOr<at::Tensor> {
    RETURN_IF_ERROR(CheckBatch(weights.config, batch));
    if (weights.compact != nullptr) {
      return absl::FailedPreconditionError("weights in few bits: use WidenedCopy");
    }
    RETURN_IF_ERROR(CheckLora(weights.config, lora, static_cast<bool>(factors)));
    if (lora == nullptr || lora->saved.empty()) return Pass(weights, lora, batch, factors).Run();
    return Pass(WithModules(weights, lora->saved), lora, batch, factors).Run();
  });
}

absl::StatusOr<at::Tensor> ReferenceHead(const LlamaWeights& weights, const LoraTensors* lora,
                                         const at::Tensor& hidden_ND) {
  return CatchTorch("ReferenceHead", [&]() -> absl::StatusOr<at::Tensor> {
    return at::linear(hidden_ND, EffectiveHead(weights, lora));
  });
}

absl::StatusOr<at::Tensor> ReferenceLogits(const LlamaWeights& weights, const LoraTensors* lora,
                                           const TokenBatch& batch) {
  ASSIGN_OR_RETURN(const at::Tensor hidden_BTD, ReferenceHidden(weights, lora, batch));
  return ReferenceHead(weights, lora, hidden_BTD);
}

}  // namespace evolora
