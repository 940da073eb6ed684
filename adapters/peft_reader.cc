#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "evolora/adapters/dequantize.h"
#include "evolora/adapters/peft.h"
#include "evolora/adapters/peft_config.h"
#include "evolora/adapters/safetensors.h"
#include "evolora/core/status_macros.h"
#include "peft_layout.h"

namespace evolora {
namespace {

constexpr uint64_t kMaxConfigBytes = 1 << 20;
constexpr const char* kPickleSuffixes[] = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"};

// A pickle that PEFT might load is an error; any other (a checkpoint's optimizer.pt) a warning.
absl::Status CheckForPickles(const FileSystem& fs, const std::string& dir,
                             std::vector<std::string>& warnings) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.ListDirectory(dir));
  for (const std::string& name : names) {
    for (const char* suffix : kPickleSuffixes) {
      if (!absl::EndsWith(name, suffix)) continue;
      if (absl::StartsWith(name, "adapter_model")) {
        return absl::InvalidArgumentError(
            absl::StrCat(dir, ": ", name, " is a pickle; only ", peft::kModelFile, " is read"));
      }
      warnings.push_back(absl::StrCat(name, " is a pickle and was not opened"));
    }
  }
  return absl::OkStatus();
}

absl::Status TensorError(absl::string_view name, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "': ", why));
}

// What a tensor that is neither lora_A nor lora_B is, in words.
absl::Status RefuseTensor(absl::string_view name) {
  constexpr const char* kForeign[] = {"lora_magnitude_vector",
                                      "lora_embedding_A",
                                      "lora_embedding_B",
                                      "trainable_tokens_delta",
                                      ".bias",
                                      "modules_to_save"};
  for (const char* part : kForeign) {
    if (absl::StrContains(name, part)) {
      return absl::UnimplementedError(
          absl::StrCat("tensor '", name, "': ", part, " is not plain LoRA"));
    }
  }
  if (absl::StrContains(name, ".lora_A.") || absl::StrContains(name, ".lora_B.")) {
    return TensorError(name, "the name ends neither in .lora_A.weight nor in .lora_B.weight");
  }
  return TensorError(name, "not a LoRA tensor; PEFT would write it over the base's own weights");
}

struct Pair {
  const TensorView* a = nullptr;
  const TensorView* b = nullptr;
};

// The tensors by module path.
absl::StatusOr<std::map<std::string, Pair>> PairTensors(const SafetensorsFile& file) {
  if (file.tensors().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(peft::kModelFile, " holds no tensors"));
  }
  std::map<std::string, Pair> pairs;
  for (const TensorView& tensor : file.tensors()) {
    absl::string_view path = tensor.name;
    const bool is_a = absl::ConsumeSuffix(&path, peft::kSuffixA);
    if (!is_a && !absl::ConsumeSuffix(&path, peft::kSuffixB)) return RefuseTensor(tensor.name);
    if (!absl::ConsumePrefix(&path, peft::kPrefix)) {
      return TensorError(tensor.name, absl::StrCat("does not begin with '", peft::kPrefix,
                                                   "'; PEFT would leave it out"));
    }
    Pair& pair = pairs[std::string(path)];
    (is_a ? pair.a : pair.b) = &tensor;
  }
  for (const auto& [path, pair] : pairs) {
    if (pair.a == nullptr || pair.b == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("module '", path, "': has lora_",
                                                     pair.a ? "A" : "B", ", lacks lora_",
                                                     pair.a ? "B" : "A"));
    }
  }
  return pairs;
}

absl::StatusOr<std::vector<float>> ReadMatrix(const TensorView& tensor) {
  std::vector<float> values(tensor.shape[0] * tensor.shape[1]);
  const absl::Status status = DequantizeToFloat(tensor.dtype, tensor.bytes,
                                                static_cast<int64_t>(values.size()), values.data());
  if (!status.ok()) return Annotate(status, absl::StrCat("tensor '", tensor.name, "'"));
  return values;
}

absl::StatusOr<LoraModule> ReadModule(const std::string& path, const Pair& pair,
                                      const PeftMatcher& matcher) {
  for (const TensorView* tensor : {pair.a, pair.b}) {
    if (tensor->shape.size() != 2) {
      return TensorError(tensor->name,
                         absl::StrCat("shape ", ShapeText(tensor->shape),
                                      ", not a matrix (a convolution's is not read)"));
    }
  }
  LoraModule module;
  module.path = path;
  module.rank = pair.a->shape[0];
  module.in_features = pair.a->shape[1];
  module.out_features = pair.b->shape[0];
  if (pair.b->shape[1] != module.rank) {
    return TensorError(pair.b->name, absl::StrCat("shape ", ShapeText(pair.b->shape),
                                                  " does not follow A's rank ", module.rank));
  }
  if (matcher.Rank(path) != module.rank) {
    return TensorError(
        pair.a->name, absl::StrCat("rank ", module.rank, ", the config says ", matcher.Rank(path)));
  }
  module.scale = matcher.Scale(path);
  ASSIGN_OR_RETURN(module.a, ReadMatrix(*pair.a));
  ASSIGN_OR_RETURN(module.b, ReadMatrix(*pair.b));
  return module;
}

// Tensors without target, and list entries without tensors.
absl::Status CheckTargets(const PeftConfig& config, const PeftMatcher& matcher,
                          const std::map<std::string, Pair>& pairs) {
  for (const auto& [path, pair] : pairs) {
    if (!matcher.IsTarget(path)) {
      return absl::InvalidArgumentError(
          absl::StrCat("module '", path, "' has tensors, but the config's targets leave it out"));
    }
  }
  const auto* names = std::get_if<std::vector<std::string>>(&config.target_modules);
  for (size_t i = 0; names != nullptr && i < names->size(); ++i) {
    // PEFT writes a target that is excluded as well, and puts nothing there.
    bool used = !matcher.IsTarget((*names)[i]);
    for (const auto& [path, pair] : pairs) used = used || matcher.EntryMatches(i, path);
    if (!used) {
      return absl::InvalidArgumentError(
          absl::StrCat("target_modules '", (*names)[i], "' has no tensors"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckBase(const std::vector<LinearLayer>& base, const PeftMatcher& matcher,
                       const std::vector<LoraModule>& modules) {
  if (base.empty()) return absl::OkStatus();
  std::map<absl::string_view, const LinearLayer*> layers;
  for (const LinearLayer& layer : base) layers[layer.path] = &layer;
  std::set<absl::string_view> adapted;
  for (const LoraModule& module : modules) {
    adapted.insert(module.path);
    const auto it = layers.find(module.path);
    if (it == layers.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("module '", module.path, "' does not exist in the base"));
    }
    if (module.in_features != it->second->in_features ||
        module.out_features != it->second->out_features) {
      return absl::InvalidArgumentError(absl::StrCat(
          "module '", module.path, "': ", module.in_features, " -> ", module.out_features,
          ", the base has ", it->second->in_features, " -> ", it->second->out_features));
    }
  }
  for (const LinearLayer& layer : base) {
    if (matcher.IsTarget(layer.path) && !adapted.contains(layer.path)) {
      return absl::InvalidArgumentError(
          absl::StrCat("module '", layer.path, "' is targeted by the config and has no tensors"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PeftAdapter> ReadPeftFolder(const FileSystem& fs, const std::string& dir,
                                           const PeftReadOptions& options) {
  PeftAdapter result;
  RETURN_IF_ERROR(CheckForPickles(fs, dir, result.warnings));
  ASSIGN_OR_RETURN(const std::string text,
                   fs.ReadFile(JoinPath(dir, peft::kConfigFile), kMaxConfigBytes));
  ASSIGN_OR_RETURN(const PeftConfig config, ParsePeftConfig(text, &result.warnings));
  ASSIGN_OR_RETURN(const PeftMatcher matcher, PeftMatcher::Create(config));
  ASSIGN_OR_RETURN(const SafetensorsFile file,
                   SafetensorsFile::Open(fs, JoinPath(dir, peft::kModelFile)));
  ASSIGN_OR_RETURN(const auto pairs, PairTensors(file));
  RETURN_IF_ERROR(CheckTargets(config, matcher, pairs));
  result.adapter.base_name = config.base_model_name_or_path;
  result.adapter.base_revision = config.revision;
  for (const auto& [path, pair] : pairs) {
    ASSIGN_OR_RETURN(LoraModule module, ReadModule(path, pair, matcher));
    result.adapter.modules.push_back(std::move(module));
  }
  RETURN_IF_ERROR(CheckBase(options.base_modules, matcher, result.adapter.modules));
  RETURN_IF_ERROR(ValidateLoraAdapter(result.adapter));
  return result;
}

}  // namespace evolora
