#include "decoder.h"

#include <algorithm>

#include "ATen/Functions.h"
#include "ATen/Parallel.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/kernels.h"
#include "evolora/model/rope.h"

// M tokens of a step, D model width, F MLP width.
namespace evolora {
namespace {

// Runs body(token) over the tokens of a step on all threads.
template <typename Body>
void ForTokens(int64_t count, const Body& body) {
  at::parallel_for(0, count, 8, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) body(m);
  });
}

}  // namespace

Decoder::Decoder(std::shared_ptr<const LlamaWeights> weights, const FrozenOptions& options)
    : weights_(std::move(weights)),
      options_(options),
      rope_frequencies_(RopeInverseFrequencies(weights_->config)) {
  const CompactWeights* compact = weights_->compact.get();
  for (size_t i = 0; i < weights_->layers.size(); ++i) {
    const LlamaLayer& layer = weights_->layers[i];
    layers_.push_back(compact != nullptr ? PackCompact(compact->layers[i], options)
                                         : PackTensors(layer, options));
    layers_.back().qkv_bias = JoinedQkvBias(layer);
  }
  head_ = PackHead();
}

Decoder::Decoder(const Decoder& base, const std::map<std::string, at::Tensor>& modules)
    : weights_(std::make_shared<const LlamaWeights>(WithModules(base.weights(), modules))),
      options_(base.options_),
      layers_(base.layers_),
      head_(modules.contains("lm_head") ? PackHead() : base.head_),
      rope_frequencies_(base.rope_frequencies_) {}

Decoder::Layer Decoder::PackTensors(const LlamaLayer& layer, const FrozenOptions& options) {
  return {.qkv = FrozenMatrix({layer.q, layer.k, layer.v}, options),
          .o = FrozenMatrix({layer.o}, options),
          .gate_up = FrozenMatrix({layer.gate, layer.up}, options),
          .down = FrozenMatrix({layer.down}, options)};
}

Decoder::Layer Decoder::PackCompact(const CompactLayer& layer, const FrozenOptions& options) {
  return {.qkv = FrozenMatrix(layer.qkv, options),
          .o = FrozenMatrix(layer.o, options),
          .gate_up = FrozenMatrix(layer.gate_up, options),
          .down = FrozenMatrix(layer.down, options)};
}

FrozenMatrix Decoder::PackHead() const {
  return weights_->head.defined() ? FrozenMatrix({weights_->head}, options_)
                                  : FrozenMatrix(weights_->compact->head, options_);
}

void Decoder::Embed(TokenId id, float* x) const {
  if (!weights_->embedding.defined()) return weights_->compact->embedding.WidenRow(id, x);
  const int64_t width = config().hidden_size;
  std::copy_n(weights_->embedding.const_data_ptr<float>() + id * width, width, x);
}

void Decoder::GrowRope(int64_t positions) {
  const int64_t have = rope_cos_.defined() ? rope_cos_.size(0) : 0;
  if (positions <= have) return;
  const RopeTables tables =
      RopeAt(rope_frequencies_, at::arange(std::max(positions, 2 * have), at::kLong));
  rope_cos_ = tables.cos;
  rope_sin_ = tables.sin;
}

void Decoder::Prepare(absl::Span<const Row> rows) {
  tokens_.clear();
  runs_.clear();
  num_single_ = 0;
  int64_t longest = 0;
  int64_t max_rank = 0;
  for (const Row& row : rows) {
    if (!row.of_prompt) num_single_ += static_cast<int64_t>(row.ids.size());
    const auto begin = static_cast<int64_t>(tokens_.size());
    for (size_t i = 0; i < row.ids.size(); ++i) {
      tokens_.push_back({row.cache, row.cache->length() + static_cast<int64_t>(i)});
    }
    row.cache->Grow(tokens_.back().position + 1);
    longest = std::max(longest, tokens_.back().position + 1);
    if (row.lora == nullptr) continue;
    max_rank = std::max(max_rank, row.lora->max_rank);
    const auto count = static_cast<int64_t>(row.ids.size());
    if (!runs_.empty() && runs_.back().lora == row.lora &&
        runs_.back().begin + runs_.back().count == begin) {
      runs_.back().count += count;
    } else {
      runs_.push_back({row.lora, begin, count});
    }
  }
  GrowRope(longest);
  num_tokens_ = static_cast<int64_t>(tokens_.size());
  ResizeBuffers(max_rank);
}

void Decoder::ResizeBuffers(int64_t max_rank) {
  const LlamaConfig& c = config();
  const auto m = static_cast<size_t>(num_tokens_);
  const auto heads = static_cast<size_t>(c.num_heads * c.head_dim);
  const auto kv = static_cast<size_t>(c.num_kv_heads * c.head_dim);
  const auto width = static_cast<size_t>(c.hidden_size);
  const auto mlp_width = static_cast<size_t>(c.intermediate_size);
  x_.resize(m * width);
  norm_.resize(m * width);
  qkv_.resize(m * (heads + 2 * kv));
  mixed_.resize(m * heads);
  gate_up_.resize(m * 2 * mlp_width);
  act_.resize(m * mlp_width);
  lora_scratch_.resize(m * static_cast<size_t>(max_rank));
}

void Decoder::Multiply(const FrozenMatrix& matrix, const float* x, int64_t ldx, float* y,
                       int64_t ldy, GemmStore store) const {
  const int64_t single = num_single_, many = num_tokens_ - single;
  if (single > 0 && store == GemmStore::kSet) matrix.Apply(x, ldx, single, y, ldy);
  if (single > 0 && store == GemmStore::kAdd) matrix.ApplyAdd(x, ldx, single, y, ldy);
  if (many > 0) matrix.ApplyToMany(x + single * ldx, ldx, many, y + single * ldy, ldy, store);
}

void Decoder::Norm(const at::Tensor& weight, const float* x, float* y) const {
  const int64_t width = config().hidden_size;
  const float* scale = weight.const_data_ptr<float>();
  const auto eps = static_cast<float>(config().rms_norm_eps);
  ForTokens(num_tokens_, [&](int64_t m) {
    Kernels().rms_norm(x + m * width, scale, width, eps, y + m * width);
  });
}

void Decoder::AddLora(const LoraGroup PackedLora::Layer::*group, int64_t layer, const float* x,
                      int64_t ldx, float* y, int64_t ldy) {
  for (const AdapterRun& run : runs_) {
    const LoraGroup& lora = run.lora->layers[static_cast<size_t>(layer)].*group;
    lora.ApplyAdd(x + run.begin * ldx, ldx, run.count, y + run.begin * ldy, ldy,
                  lora_scratch_.data());
  }
}

// Adds the biases, normalises heads where the architecture does, turns q and k, and keeps k and v.
void Decoder::RotateAndStore(int64_t layer) {
  const LlamaConfig& c = config();
  const LlamaLayer& weights = weights_->layers[static_cast<size_t>(layer)];
  const std::vector<float>& bias = layers_[static_cast<size_t>(layer)].qkv_bias;
  const int64_t width = c.head_dim;
  const int64_t turned = c.num_heads + c.num_kv_heads;
  const int64_t stride = (turned + c.num_kv_heads) * width;
  const float* cos = rope_cos_.const_data_ptr<float>();
  const float* sin = rope_sin_.const_data_ptr<float>();
  const auto eps = static_cast<float>(c.rms_norm_eps);
  const KernelTable& kernels = Kernels();
  ForTokens(num_tokens_, [&](int64_t m) {
    float* row = qkv_.data() + m * stride;
    const Token& token = tokens_[static_cast<size_t>(m)];
    if (!bias.empty()) kernels.add(bias.data(), stride, row);
    for (int64_t h = 0; c.qk_norm && h < turned; ++h) {
      const at::Tensor& scale = h < c.num_heads ? weights.q_norm : weights.k_norm;
      kernels.rms_norm(row + h * width, scale.const_data_ptr<float>(), width, eps, row + h * width);
    }
    const int64_t offset = token.position * (width / 2);
    kernels.rotate(row, turned, cos + offset, sin + offset, width / 2);
    const float* key = row + c.num_heads * width;
    token.cache->Put(layer, token.position, key, key + c.num_kv_heads * width);
  });
}

void Decoder::Mlp(int64_t layer) {
  const Layer& packed = layers_[static_cast<size_t>(layer)];
  const int64_t width = config().hidden_size;
  const int64_t mlp_width = config().intermediate_size;
  Norm(weights_->layers[static_cast<size_t>(layer)].post_norm, x_.data(), norm_.data());
  Multiply(packed.gate_up, norm_.data(), width, gate_up_.data(), 2 * mlp_width, GemmStore::kSet);
  AddLora(&PackedLora::Layer::gate_up, layer, norm_.data(), width, gate_up_.data(), 2 * mlp_width);
  ForTokens(num_tokens_, [&](int64_t m) {
    const float* gate = gate_up_.data() + m * 2 * mlp_width;
    Kernels().silu_mul(gate, gate + mlp_width, mlp_width, act_.data() + m * mlp_width);
  });
  Multiply(packed.down, act_.data(), mlp_width, x_.data(), width, GemmStore::kAdd);
  AddLora(&PackedLora::Layer::down, layer, act_.data(), mlp_width, x_.data(), width);
}

void Decoder::AttentionBlock(int64_t layer, const Attention& attention) {
  const LlamaConfig& c = config();
  const Layer& packed = layers_[static_cast<size_t>(layer)];
  const LlamaLayer& weights = weights_->layers[static_cast<size_t>(layer)];
  const int64_t width = c.hidden_size;
  const int64_t heads = c.num_heads * c.head_dim;
  const int64_t qkv_width = heads + 2 * c.num_kv_heads * c.head_dim;
  Norm(weights.input_norm, x_.data(), norm_.data());
  Multiply(packed.qkv, norm_.data(), width, qkv_.data(), qkv_width, GemmStore::kSet);
  AddLora(&PackedLora::Layer::qkv, layer, norm_.data(), width, qkv_.data(), qkv_width);
  RotateAndStore(layer);
  attention.Run(layer, qkv_.data(), qkv_width, mixed_.data(), heads);
  Multiply(packed.o, mixed_.data(), heads, x_.data(), width, GemmStore::kAdd);
  AddLora(&PackedLora::Layer::o, layer, mixed_.data(), heads, x_.data(), width);
  if (!weights.o_bias.defined()) return;
  const float* bias = weights.o_bias.const_data_ptr<float>();
  ForTokens(num_tokens_, [&](int64_t m) { Kernels().add(bias, width, x_.data() + m * width); });
}

const float* Decoder::Step(absl::Span<const Row> rows) {
  Prepare(rows);
  const int64_t width = config().hidden_size;
  std::vector<AttentionRow> attention_rows;
  int64_t m = 0;
  for (const Row& row : rows) {
    const auto count = static_cast<int64_t>(row.ids.size());
    attention_rows.push_back({m, count, row.cache->length(), row.cache});
    for (TokenId id : row.ids) Embed(id, x_.data() + m++ * width);
  }
  const Attention attention(config(), attention_rows);
  for (int64_t layer = 0; layer < config().num_layers; ++layer) {
    AttentionBlock(layer, attention);
    Mlp(layer);
  }
  for (const Row& row : rows) {
    row.cache->set_length(row.cache->length() + static_cast<int64_t>(row.ids.size()));
  }
  Norm(weights_->final_norm, x_.data(), norm_.data());
  return norm_.data();
}

void Decoder::Head(const float* hidden, int64_t rows, float* logits) const {
  head_.Apply(hidden, config().hidden_size, rows, logits, config().vocab_size);
}

}  // namespace evolora
