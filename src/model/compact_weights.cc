#include "evolora/model/compact_weights.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "ATen/Parallel.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "c10/util/Exception.h"

namespace evolora {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

// What one weight of a layer is called, where it is, and where it goes.
struct Part {
  const char* path;
  at::Tensor LlamaLayer::*tensor;
  CompactMatrix CompactLayer::*matrix;
};

constexpr Part kParts[] = {
    {"self_attn.q_proj", &LlamaLayer::q, &CompactLayer::qkv},
    {"self_attn.k_proj", &LlamaLayer::k, &CompactLayer::qkv},
    {"self_attn.v_proj", &LlamaLayer::v, &CompactLayer::qkv},
    {"self_attn.o_proj", &LlamaLayer::o, &CompactLayer::o},
    {"mlp.gate_proj", &LlamaLayer::gate, &CompactLayer::gate_up},
    {"mlp.up_proj", &LlamaLayer::up, &CompactLayer::gate_up},
    {"mlp.down_proj", &LlamaLayer::down, &CompactLayer::down},
};

// [out, in] of the matrix that the parts of a layer are stacked in.
std::pair<int64_t, int64_t> StackedShape(const LlamaConfig& config,
                                         CompactMatrix CompactLayer::*matrix) {
  std::pair<int64_t, int64_t> stacked{0, 0};
  for (const Part& part : kParts) {
    if (part.matrix != matrix) continue;
    const auto [out, in] = LinearShape(config, absl::StrCat("model.layers.0.", part.path));
    stacked = {stacked.first + out, in};
  }
  return stacked;
}

constexpr CompactMatrix CompactLayer::*kMatrices[] = {&CompactLayer::qkv, &CompactLayer::o,
                                                      &CompactLayer::gate_up, &CompactLayer::down};

std::string WeightName(int64_t layer, const Part& part) {
  return absl::StrCat("model.layers.", layer, ".", part.path, ".weight");
}

// Of the parts that are stacked in a matrix of this layer.
std::vector<std::string> WeightNames(int64_t layer, CompactMatrix CompactLayer::*matrix) {
  std::vector<std::string> names;
  for (const Part& part : kParts) {
    if (part.matrix == matrix) names.push_back(WeightName(layer, part));
  }
  return names;
}

// Logits are too sensitive for 4 bits.
BlockForm FormOfVocabulary(WeightStorage storage) {
  return storage == WeightStorage::kQ4 ? BlockForm::kInt8 : FormOf(storage);
}

void Store(const at::Tensor& tensor, CompactPlace place) {
  const float* values = tensor.const_data_ptr<float>();
  const int64_t in = tensor.size(1);
  at::parallel_for(0, tensor.size(0), 32, [&](int64_t begin, int64_t end) {
    place.matrix->StoreRows(place.first_row + begin, end - begin, values + begin * in);
  });
}

// The matrix that holds a tensor, null when none does, and its first row there.
template <typename Weights>
std::pair<decltype(&std::declval<Weights&>().embedding), int64_t> Find(const LlamaConfig& config,
                                                                       const std::string& name,
                                                                       Weights& compact) {
  if (name == kEmbedding) return {&compact.embedding, 0};
  if (name == kHead && !config.tied_head) return {&compact.head, 0};
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    if (!absl::StartsWith(name, prefix)) continue;
    auto& layer = compact.layers[static_cast<size_t>(i)];
    int64_t row = 0;
    const Part* previous = nullptr;
    for (const Part& part : kParts) {
      if (previous == nullptr || previous->matrix != part.matrix) row = 0;
      if (name == absl::StrCat(prefix, part.path, ".weight")) return {&(layer.*part.matrix), row};
      row += LinearShape(config, absl::StrCat(prefix, part.path)).first;
      previous = &part;
    }
  }
  return {nullptr, 0};
}

}  // namespace

BlockForm FormOf(WeightStorage storage) {
  switch (storage) {
    case WeightStorage::kBf16:
      return BlockForm::kBf16;
    case WeightStorage::kInt8:
      return BlockForm::kInt8;
    case WeightStorage::kQ4:
      return BlockForm::kQ4;
    case WeightStorage::kFp32:
    case WeightStorage::kExact:
      break;
  }
  TORCH_CHECK(false, "weights kept as ", WeightStorageName(storage), " have no form");
}

CompactWeights AllocateExact(const LlamaConfig& config, const FormOfTensors& form_of) {
  CompactWeights compact{.storage = WeightStorage::kExact};
  const auto vocabulary = [&](const char* name) {
    return CompactMatrix(form_of({std::string(name)}), config.vocab_size, config.hidden_size);
  };
  compact.embedding = vocabulary(kEmbedding);
  compact.head = config.tied_head ? compact.embedding : vocabulary(kHead);
  compact.layers.resize(static_cast<size_t>(config.num_layers));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    for (const auto matrix : kMatrices) {
      const auto [out, in] = StackedShape(config, matrix);
      compact.layers[static_cast<size_t>(i)].*matrix =
          CompactMatrix(form_of(WeightNames(i, matrix)), out, in);
    }
  }
  return compact;
}

CompactWeights AllocateCompact(const LlamaConfig& config, WeightStorage storage) {
  const BlockForm layers = FormOf(storage), vocabulary = FormOfVocabulary(storage);
  CompactWeights compact = AllocateExact(config, [&](absl::Span<const std::string> names) {
    return names[0] == kEmbedding || names[0] == kHead ? vocabulary : layers;
  });
  compact.storage = storage;
  return compact;
}

int64_t CompactBytes(const LlamaConfig& config, WeightStorage storage) {
  int64_t layer = 0;
  for (const auto matrix : kMatrices) {
    const auto [out, in] = StackedShape(config, matrix);
    layer += CompactBytes(FormOf(storage), out, in);
  }
  const int64_t vocabulary =
      CompactBytes(FormOfVocabulary(storage), config.vocab_size, config.hidden_size);
  return config.num_layers * layer + (config.tied_head ? 1 : 2) * vocabulary;
}

int64_t CompactBytes(const LlamaConfig& config, const CompactWeights& compact) {
  int64_t bytes = compact.embedding.bytes() + (config.tied_head ? 0 : compact.head.bytes());
  for (const CompactLayer& layer : compact.layers) {
    for (const auto matrix : kMatrices) bytes += (layer.*matrix).bytes();
  }
  return bytes;
}

CompactPlace FindCompact(const LlamaConfig& config, const std::string& name,
                         CompactWeights& compact) {
  const auto [matrix, first_row] = Find(config, name, compact);
  return {matrix, first_row};
}

ConstCompactPlace FindCompact(const LlamaConfig& config, const std::string& name,
                              const CompactWeights& compact) {
  const auto [matrix, first_row] = Find(config, name, compact);
  return {matrix, first_row};
}

at::Tensor WidenCompact(const LlamaConfig& config, const std::string& name,
                        const CompactWeights& compact) {
  const auto [matrix, first_row] = Find(config, name, compact);
  if (matrix == nullptr) return {};
  const auto [out, in] = LinearShape(config, std::string(absl::StripSuffix(name, ".weight")));
  return matrix->Widen(first_row, out > 0 ? out : matrix->out_features());
}

LlamaWeights CompactCopy(const LlamaWeights& weights, WeightStorage storage) {
  LlamaWeights copy = weights;
  auto compact = std::make_shared<CompactWeights>(AllocateCompact(weights.config, storage));
  for (const NamedTensor& named : NamedTensors(weights)) {
    const CompactPlace place = FindCompact(weights.config, named.name, *compact);
    if (place.matrix != nullptr) Store(named.tensor, place);
  }
  copy.embedding = copy.head = at::Tensor();
  for (LlamaLayer& layer : copy.layers) {
    for (const Part& part : kParts) layer.*part.tensor = at::Tensor();
  }
  copy.compact = std::move(compact);
  return copy;
}

LlamaWeights WidenedCopy(const LlamaWeights& weights) {
  LlamaWeights copy = weights;
  copy.compact = nullptr;
  const auto widen = [&](const std::string& name) {
    return WidenCompact(weights.config, name, *weights.compact);
  };
  copy.embedding = widen(kEmbedding);
  copy.head = weights.config.tied_head ? copy.embedding : widen(kHead);
  for (size_t i = 0; i < copy.layers.size(); ++i) {
    for (const Part& part : kParts) {
      copy.layers[i].*part.tensor = widen(WeightName(static_cast<int64_t>(i), part));
    }
  }
  return copy;
}

}  // namespace evolora
