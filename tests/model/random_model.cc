#include "model/random_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ATen/ATen.h"
#include "c10/util/Half.h"
#include "evolora/core/random.h"
#include "evolora/model/compact_weights.h"

namespace evolora::testing {
namespace {

at::Tensor Normal(Random& random, std::vector<int64_t> shape, double scale, double shift = 0) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* data = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    const double radius = std::sqrt(-2 * std::log(1 - random.NextDouble()));
    data[i] = static_cast<float>(shift + scale * radius * std::cos(2 * M_PI * random.NextDouble()));
  }
  return tensor;
}

at::Tensor Linear(Random& random, int64_t out, int64_t in) {
  return Normal(random, {out, in}, 1 / std::sqrt(static_cast<double>(in)));
}

LlamaLayer RandomLayer(const LlamaConfig& c, Random& random) {
  const int64_t q = c.num_heads * c.head_dim;
  const int64_t kv = c.num_kv_heads * c.head_dim;
  LlamaLayer layer;
  layer.input_norm = Normal(random, {c.hidden_size}, 0.1, 1);
  layer.post_norm = Normal(random, {c.hidden_size}, 0.1, 1);
  layer.q = Linear(random, q, c.hidden_size);
  layer.k = Linear(random, kv, c.hidden_size);
  layer.v = Linear(random, kv, c.hidden_size);
  layer.o = Linear(random, c.hidden_size, q);
  if (c.qkv_bias) {
    layer.q_bias = Normal(random, {q}, 0.3);
    layer.k_bias = Normal(random, {kv}, 0.3);
    layer.v_bias = Normal(random, {kv}, 0.3);
  }
  if (c.output_bias) layer.o_bias = Normal(random, {c.hidden_size}, 0.3);
  if (c.qk_norm) {
    layer.q_norm = Normal(random, {c.head_dim}, 0.1, 1);
    layer.k_norm = Normal(random, {c.head_dim}, 0.1, 1);
  }
  layer.gate = Linear(random, c.intermediate_size, c.hidden_size);
  layer.up = Linear(random, c.intermediate_size, c.hidden_size);
  layer.down = Linear(random, c.hidden_size, c.intermediate_size);
  return layer;
}

// Cut to so few digits that times 7 bits it has no more than fp32's.
float ShortScale(float scale) {
  uint32_t bits;
  std::memcpy(&bits, &scale, sizeof bits);
  bits &= 0xffffff00u;
  std::memcpy(&scale, &bits, sizeof bits);
  return scale;
}

// `count` values as low + value * scale with values up to `most`.
void RoundOverLow(const float* from, int64_t count, int most, float& scale, float& low,
                  uint8_t* values) {
  const auto [least, greatest] = std::minmax_element(from, from + count);
  low = *least;
  scale = ShortScale((*greatest - *least) / static_cast<float>(most));
  for (int64_t i = 0; i < count; ++i) {
    const float value = scale == 0 ? 0 : std::nearbyint((from[i] - low) / scale);
    values[i] = static_cast<uint8_t>(std::min(value, static_cast<float>(most)));
  }
}

void RoundTo(const float* from, F16Weights& block) {
  for (int64_t i = 0; i < kCompactBlock; ++i) block.values[i] = c10::Half(from[i]).x;
}

void RoundTo(const float* from, Q4FloatWeights& block) {
  uint8_t values[kCompactBlock];
  RoundOverLow(from, kCompactBlock, 15, block.scale, block.low, values);
  for (int64_t i = 0; i < kCompactBlock / 2; ++i) {
    block.values[i] = static_cast<uint8_t>(values[i] | values[i + kCompactBlock / 2] << 4);
  }
}

void RoundTo(const float* from, Int8LowWeights& block) {
  constexpr int64_t kHalf = kCompactBlock / 2;
  for (int64_t half = 0; half < 2; ++half) {
    RoundOverLow(from + half * kHalf, kHalf, 127, block.scale[half], block.low[half],
                 reinterpret_cast<uint8_t*>(block.values) + half * kHalf);
  }
}

template <typename Block>
void StoreBlocks(const at::Tensor& weight, CompactMatrix& matrix) {
  const int64_t in = weight.size(1);
  for (int64_t row = 0; row < weight.size(0); ++row) {
    auto* blocks = reinterpret_cast<Block*>(matrix.mutable_row(row));
    for (int64_t first = 0; first < in; first += kCompactBlock) {
      float values[kCompactBlock] = {};
      std::copy_n(weight.const_data_ptr<float>() + row * in + first,
                  std::min(kCompactBlock, in - first), values);
      RoundTo(values, blocks[first / kCompactBlock]);
    }
  }
}

}  // namespace

CompactMatrix Stored(BlockForm form, const at::Tensor& weight) {
  CompactMatrix matrix(form, weight.size(0), weight.size(1));
  switch (form) {
    case BlockForm::kF16:
      StoreBlocks<F16Weights>(weight, matrix);
      break;
    case BlockForm::kQ4Float:
      StoreBlocks<Q4FloatWeights>(weight, matrix);
      break;
    case BlockForm::kInt8Low:
      StoreBlocks<Int8LowWeights>(weight, matrix);
      break;
    default:
      matrix.StoreRows(0, weight.size(0), weight.const_data_ptr<float>());
  }
  return matrix;
}

LlamaWeights InFewBits(const LlamaWeights& weights, BlockForm form) {
  LlamaWeights few = CompactCopy(weights, WeightStorage::kBf16);
  auto compact = std::make_shared<CompactWeights>(*few.compact);
  compact->storage = WeightStorage::kExact;
  compact->embedding = Stored(form, weights.embedding);
  compact->head = weights.config.tied_head ? compact->embedding : Stored(form, weights.head);
  for (size_t i = 0; i < compact->layers.size(); ++i) {
    const LlamaLayer& from = weights.layers[i];
    compact->layers[i] = {.qkv = Stored(form, at::cat({from.q, from.k, from.v})),
                          .o = Stored(form, from.o),
                          .gate_up = Stored(form, at::cat({from.gate, from.up})),
                          .down = Stored(form, from.down)};
  }
  few.compact = std::move(compact);
  return few;
}

LlamaConfig SmallConfig() {
  LlamaConfig config;
  config.architecture = "llama";
  config.vocab_size = 37;
  config.hidden_size = 24;
  config.intermediate_size = 44;
  config.num_layers = 3;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 10;
  config.max_positions = 512;
  return config;
}

std::shared_ptr<const LlamaWeights> RandomWeights(const LlamaConfig& config, uint64_t seed) {
  Random random(seed);
  auto weights = std::make_shared<LlamaWeights>();
  weights->config = config;
  weights->embedding = Normal(random, {config.vocab_size, config.hidden_size}, 1);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    weights->layers.push_back(RandomLayer(config, random));
  }
  weights->final_norm = Normal(random, {config.hidden_size}, 0.1, 1);
  weights->head =
      config.tied_head ? weights->embedding : Linear(random, config.vocab_size, config.hidden_size);
  return weights;
}

LoraAdapter RandomAdapter(const LlamaConfig& config, int64_t rank, uint64_t seed, size_t stride) {
  Random random(seed);
  LoraAdapter adapter{.base_name = "random"};
  const std::vector<std::string> paths = LinearModulePaths(config);
  for (size_t i = 0; i < paths.size(); i += stride) {
    const auto [out, in] = LinearShape(config, paths[i]);
    LoraModule module{.path = paths[i],
                      .rank = rank,
                      .in_features = in,
                      .out_features = out,
                      .scale = 2,
                      .a = std::vector<float>(static_cast<size_t>(rank * in)),
                      .b = std::vector<float>(static_cast<size_t>(out * rank))};
    for (float& value : module.a) value = static_cast<float>(random.NextDouble() - 0.5) * 0.5f;
    for (float& value : module.b) value = static_cast<float>(random.NextDouble() - 0.5) * 0.5f;
    adapter.modules.push_back(std::move(module));
  }
  std::sort(adapter.modules.begin(), adapter.modules.end(),
            [](const LoraModule& a, const LoraModule& b) { return a.path < b.path; });
  return adapter;
}

LoraAdapter RandomDora(const LlamaConfig& config, int64_t rank, uint64_t seed, size_t stride) {
  LoraAdapter adapter = RandomAdapter(config, rank, seed, stride);
  Random random(seed + 1);
  for (LoraModule& module : adapter.modules) {
    for (int64_t o = 0; o < module.out_features; ++o) {
      module.magnitude.push_back(static_cast<float>(0.5 + random.NextDouble()));
    }
  }
  return adapter;
}

std::vector<TokenId> RandomIds(const LlamaConfig& config, int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<TokenId> ids;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<TokenId>(random.NextBelow(static_cast<uint64_t>(config.vocab_size))));
  }
  return ids;
}

}  // namespace evolora::testing
