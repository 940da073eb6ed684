#include <algorithm>
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

// What a tensor that is of no known part is, in words.
absl::Status RefuseTensor(absl::string_view name) {
  constexpr const char* kForeign[] = {"lora_embedding_A", "lora_embedding_B",
                                      "trainable_tokens_delta", ".bias", "modules_to_save"};
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

// The tensors of one module.
struct Parts {
  const TensorView* a = nullptr;
  const TensorView* b = nullptr;
  const TensorView* magnitude = nullptr;
};
struct FileTensors {
  std::map<std::string, Parts> modules;
  std::map<std::string, const TensorView*> saved;
};

// The place in `parts` of the tensor whose name ends as it does, and the name without that end;
// null for another end.
const TensorView** PlaceOf(absl::string_view& name, Parts& parts) {
  if (absl::ConsumeSuffix(&name, peft::kSuffixA)) return &parts.a;
  if (absl::ConsumeSuffix(&name, peft::kSuffixB)) return &parts.b;
  if (absl::ConsumeSuffix(&name, peft::kSuffixMagnitude)) return &parts.magnitude;
  return nullptr;
}

absl::Status CheckParts(const std::string& path, const Parts& parts, bool use_dora) {
  if (parts.a == nullptr || parts.b == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("module '", path, "': has lora_",
                                                   parts.a ? "A" : "B", ", lacks lora_",
                                                   parts.a ? "B" : "A"));
  }
  if ((parts.magnitude != nullptr) == use_dora) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("module '", path, "': ", use_dora ? "lacks" : "has",
                   " a lora_magnitude_vector, use_dora is ", use_dora ? "true" : "false"));
}

// The tensors by module path.
absl::StatusOr<FileTensors> GroupTensors(const SafetensorsFile& file, bool use_dora,
                                         const PeftMatcher& matcher) {
  if (file.tensors().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(peft::kModelFile, " holds no tensors"));
  }
  FileTensors found;
  for (const TensorView& tensor : file.tensors()) {
    absl::string_view path = tensor.name;
    Parts unplaced;
    if (PlaceOf(path, unplaced) == nullptr) {
      const bool whole = absl::ConsumePrefix(&path, peft::kPrefix) &&
                         absl::ConsumeSuffix(&path, peft::kSuffixWeight) && matcher.IsSaved(path);
      if (!whole) return RefuseTensor(tensor.name);
      found.saved[std::string(path)] = &tensor;
      continue;
    }
    if (!absl::ConsumePrefix(&path, peft::kPrefix)) {
      return TensorError(tensor.name, absl::StrCat("does not begin with '", peft::kPrefix,
                                                   "'; PEFT would leave it out"));
    }
    absl::string_view name = tensor.name;
    *PlaceOf(name, found.modules[std::string(path)]) = &tensor;
  }
  for (const auto& [path, parts] : found.modules) {
    RETURN_IF_ERROR(CheckParts(path, parts, use_dora));
  }
  return found;
}

absl::StatusOr<std::vector<float>> ReadValues(const TensorView& tensor) {
  ASSIGN_OR_RETURN(const int64_t count, CountElements(tensor.shape));
  std::vector<float> values(static_cast<size_t>(count));
  const absl::Status status = DequantizeToFloat(tensor.dtype, tensor.bytes, count, values.data());
  if (!status.ok()) return Annotate(status, absl::StrCat("tensor '", tensor.name, "'"));
  return values;
}

absl::StatusOr<LoraModule> ReadModule(const std::string& path, const Parts& parts,
                                      const PeftMatcher& matcher) {
  for (const TensorView* tensor : {parts.a, parts.b}) {
    if (tensor->shape.size() != 2) {
      return TensorError(tensor->name,
                         absl::StrCat("shape ", ShapeText(tensor->shape),
                                      ", not a matrix (a convolution's is not read)"));
    }
  }
  LoraModule module;
  module.path = path;
  module.rank = parts.a->shape[0];
  module.in_features = parts.a->shape[1];
  module.out_features = parts.b->shape[0];
  if (parts.b->shape[1] != module.rank) {
    return TensorError(parts.b->name, absl::StrCat("shape ", ShapeText(parts.b->shape),
                                                   " does not follow A's rank ", module.rank));
  }
  if (matcher.Rank(path) != module.rank) {
    return TensorError(parts.a->name, absl::StrCat("rank ", module.rank, ", the config says ",
                                                   matcher.Rank(path)));
  }
  module.scale = matcher.Scale(path);
  ASSIGN_OR_RETURN(module.a, ReadValues(*parts.a));
  ASSIGN_OR_RETURN(module.b, ReadValues(*parts.b));
  if (parts.magnitude == nullptr) return module;
  if (parts.magnitude->shape != std::vector<int64_t>{module.out_features}) {
    return TensorError(parts.magnitude->name,
                       absl::StrCat("shape ", ShapeText(parts.magnitude->shape), ", B has ",
                                    module.out_features, " rows"));
  }
  ASSIGN_OR_RETURN(module.magnitude, ReadValues(*parts.magnitude));
  return module;
}

// Tensors without target, and list entries without tensors.
absl::Status CheckTargets(const PeftConfig& config, const PeftMatcher& matcher,
                          const std::map<std::string, Parts>& modules) {
  for (const auto& [path, parts] : modules) {
    if (!matcher.IsTarget(path)) {
      return absl::InvalidArgumentError(
          absl::StrCat("module '", path, "' has tensors, but the config's targets leave it out"));
    }
  }
  const auto* names = std::get_if<std::vector<std::string>>(&config.target_modules);
  for (size_t i = 0; names != nullptr && i < names->size(); ++i) {
    // PEFT writes a target that is excluded as well, and puts nothing there.
    bool used = !matcher.IsTarget((*names)[i]);
    for (const auto& [path, parts] : modules) used = used || matcher.EntryMatches(i, path);
    if (!used) {
      return absl::InvalidArgumentError(
          absl::StrCat("target_modules '", (*names)[i], "' has no tensors"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSaved(const PeftConfig& config,
                        const std::map<std::string, const TensorView*>& saved) {
  for (const std::string& entry : config.modules_to_save) {
    const bool used = std::any_of(saved.begin(), saved.end(), [&](const auto& module) {
      return absl::EndsWith(module.first, entry);
    });
    if (!used) {
      return absl::InvalidArgumentError(
          absl::StrCat("modules_to_save '", entry, "' has no tensors"));
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
  ASSIGN_OR_RETURN(const FileTensors tensors, GroupTensors(file, config.use_dora, matcher));
  RETURN_IF_ERROR(CheckTargets(config, matcher, tensors.modules));
  RETURN_IF_ERROR(CheckSaved(config, tensors.saved));
  result.adapter.base_name = config.base_model_name_or_path;
  result.adapter.base_revision = config.revision;
  for (const auto& [path, parts] : tensors.modules) {
    ASSIGN_OR_RETURN(LoraModule module, ReadModule(path, parts, matcher));
    result.adapter.modules.push_back(std::move(module));
  }
  for (const auto& [path, tensor] : tensors.saved) {
    ASSIGN_OR_RETURN(std::vector<float> values, ReadValues(*tensor));
    result.adapter.saved_modules.push_back({path, tensor->shape, std::move(values)});
  }
  RETURN_IF_ERROR(CheckBase(options.base_modules, matcher, result.adapter.modules));
  RETURN_IF_ERROR(ValidateLoraAdapter(result.adapter));
  return result;
}

}  // namespace evolora
