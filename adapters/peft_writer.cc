#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "evolora/adapters/dequantize.h"
#include "evolora/adapters/peft.h"
#include "evolora/adapters/safetensors.h"
#include "evolora/core/json.h"
#include "evolora/core/status_macros.h"
#include "peft_layout.h"

namespace evolora {
namespace {

absl::string_view LeafName(absl::string_view path) {
  const size_t dot = path.rfind('.');
  return dot == absl::string_view::npos ? path : path.substr(dot + 1);
}

// `path` with its first numbered component replaced by `layer`; itself when there is none.
std::string WithLayer(absl::string_view path, int64_t layer, int64_t* own_layer) {
  std::vector<std::string> parts = absl::StrSplit(path, '.');
  for (std::string& part : parts) {
    if (part.empty() || part.find_first_not_of("0123456789") != std::string::npos) continue;
    if (!absl::SimpleAtoi(part, own_layer)) break;
    part = absl::StrCat(layer);
    return absl::StrJoin(parts, ".");
  }
  *own_layer = -1;
  return std::string(path);
}

// Every path that leaf names could also mean: the base's layers, or, when they are not known, each
// adapted place in every layer up to the highest adapted one.
std::vector<std::string> PossiblePaths(const LoraAdapter& adapter,
                                       const std::vector<LinearLayer>& base) {
  std::vector<std::string> paths;
  for (const LinearLayer& layer : base) paths.push_back(layer.path);
  if (!base.empty()) return paths;
  constexpr int64_t kMaxLayers = 4096;
  int64_t highest = -1, own = -1;
  std::set<std::string> places;
  for (const LoraModule& module : adapter.modules) {
    places.insert(WithLayer(module.path, 0, &own));
    highest = std::max(highest, own);
  }
  for (int64_t layer = 0; layer <= std::min(highest, kMaxLayers); ++layer) {
    for (const std::string& place : places) paths.push_back(WithLayer(place, layer, &own));
  }
  return paths;
}

// Leaf names when they mean exactly the adapted modules, else the full paths.
std::vector<std::string> TargetModules(const LoraAdapter& adapter,
                                       const std::vector<LinearLayer>& base) {
  std::set<std::string> leaves, adapted;
  for (const LoraModule& module : adapter.modules) {
    leaves.insert(std::string(LeafName(module.path)));
    adapted.insert(module.path);
  }
  for (const std::string& path : PossiblePaths(adapter, base)) {
    if (leaves.contains(std::string(LeafName(path))) && !adapted.contains(path)) {
      return {adapted.begin(), adapted.end()};
    }
  }
  return {leaves.begin(), leaves.end()};
}

// Text of a JSON file. InvalidArgument when a string is not UTF-8.
absl::StatusOr<std::string> PrettyJson(const Json& json) {
  try {
    return json.dump(2) + "\n";
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(e.what());
  }
}

// Full paths, which mean no other module by PEFT's rule of equal ends; null: none.
Json SavedPaths(const LoraAdapter& adapter) {
  if (adapter.saved_modules.empty()) return nullptr;
  Json paths = Json::array();
  for (const SavedModule& module : adapter.saved_modules) paths.push_back(module.path);
  return paths;
}

absl::StatusOr<std::string> ConfigText(const LoraAdapter& adapter,
                                       const std::vector<std::string>& targets) {
  const LoraModule& module = adapter.modules.front();
  const double alpha = module.scale * static_cast<double>(module.rank);
  if (!std::isfinite(alpha) || alpha / static_cast<double>(module.rank) != module.scale) {
    return absl::InvalidArgumentError(
        absl::StrCat("scale ", module.scale, " has no exact lora_alpha at rank ", module.rank));
  }
  Json config = {{"peft_type", "LORA"},
                 {"task_type", "CAUSAL_LM"},
                 {"base_model_name_or_path", adapter.base_name},
                 {"revision", nullptr},
                 {"r", module.rank},
                 {"lora_alpha", alpha},
                 {"lora_dropout", 0.0},
                 {"target_modules", targets},
                 {"bias", "none"},
                 {"fan_in_fan_out", false},
                 {"inference_mode", true},
                 {"init_lora_weights", true},
                 {"modules_to_save", SavedPaths(adapter)},
                 {"layers_to_transform", nullptr},
                 {"layers_pattern", nullptr},
                 {"rank_pattern", Json::object()},
                 {"alpha_pattern", Json::object()},
                 {"use_dora", HasMagnitudes(adapter)},
                 {"use_rslora", false}};
  if (!adapter.base_revision.empty()) config["revision"] = adapter.base_revision;
  if (alpha == std::floor(alpha) && std::abs(alpha) < 1e15) {
    config["lora_alpha"] = static_cast<int64_t>(alpha);
  }
  return PrettyJson(config);
}

// YAML takes a JSON string as it is.
absl::StatusOr<std::string> CardText(const LoraAdapter& adapter,
                                     const std::vector<std::string>& targets, DType dtype) {
  ASSIGN_OR_RETURN(std::string base, PrettyJson(adapter.base_name));
  ASSIGN_OR_RETURN(std::string tag, PrettyJson("base_model:adapter:" + adapter.base_name));
  const LoraModule& module = adapter.modules.front();
  std::string notes;
  for (const std::string& note : ServeabilityWarnings(adapter)) {
    absl::StrAppend(&notes, "\n**", note, "**\n");
  }
  return absl::StrCat(
      "---\nbase_model: ", base,
      "base_model_relation: adapter\nlibrary_name: peft\ntags:\n- lora\n- ", tag,
      "---\n\n# LoRA adapter\n\n", notes.empty() ? "Portable LoRA profile, written" : "Written",
      " by evolora.\n", notes, "\n", "| field | value |\n| --- | --- |\n", "| adapter digest | ",
      AdapterDigest(adapter), " |\n", "| rank | ", module.rank, " |\n| scale (alpha / r) | ",
      module.scale, " |\n| modules | ", adapter.modules.size(),
      adapter.saved_modules.empty()
          ? std::string()
          : absl::StrCat(" |\n| modules saved whole | ", adapter.saved_modules.size()),
      " |\n| targets | ",
      targets.size() <= 16 ? absl::StrJoin(targets, ", ") : absl::StrCat(targets.size(), " paths"),
      " |\n| values | ", DTypeName(dtype), " |\n");
}

uint16_t ToHalfBits(float value, DType dtype) {
  return dtype == DType::kF16 ? FloatToHalf(value) : FloatToBFloat16(value);
}

// Bytes of `values` as `dtype`. The values are representable: they come from ToPortableProfile.
std::string Encode(const std::vector<float>& values, DType dtype) {
  std::string bytes(values.size() * DTypeBytes(dtype), '\0');
  if (dtype == DType::kF32) {
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = ToHalfBits(values[i], dtype);
    std::memcpy(bytes.data() + 2 * i, &half, sizeof(half));
  }
  return bytes;
}

absl::Status WriteTensors(FileSystem& fs, const std::string& path, const LoraAdapter& adapter,
                          DType dtype) {
  std::vector<std::string> storage;  // reserved: the views point into it
  storage.reserve(3 * adapter.modules.size() + adapter.saved_modules.size());
  std::vector<TensorView> tensors;
  const auto add = [&](const std::string& name, const std::vector<float>& values,
                       std::vector<int64_t> shape) {
    storage.push_back(Encode(values, dtype));
    const auto* bytes = reinterpret_cast<const uint8_t*>(storage.back().data());
    tensors.push_back({name, dtype, std::move(shape), {bytes, storage.back().size()}});
  };
  for (const LoraModule& module : adapter.modules) {
    const std::string name = peft::kPrefix + module.path;
    add(name + peft::kSuffixA, module.a, {module.rank, module.in_features});
    add(name + peft::kSuffixB, module.b, {module.out_features, module.rank});
    if (module.magnitude.empty()) continue;
    add(name + peft::kSuffixMagnitude, module.magnitude, {module.out_features});
  }
  for (const SavedModule& module : adapter.saved_modules) {
    add(peft::kPrefix + module.path + peft::kSuffixWeight, module.weight, module.shape);
  }
  return WriteSafetensors(fs, path, tensors, {{"format", "pt"}});
}

absl::Status CheckProof(const EffectProof& proof, const LoraAdapter& adapter) {
  if (proof.probes.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(ValidateEffectProof(proof));
  const std::string digest = AdapterDigest(adapter);
  if (proof.adapter_digest == digest) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the effect proof is of adapter ",
                                                 proof.adapter_digest, ", written is ", digest));
}

// Writes all files into the existing folder `dir` and reads them back.
absl::Status WriteFiles(FileSystem& fs, const std::string& dir, const LoraAdapter& adapter,
                        const PeftWriteOptions& options) {
  const std::vector<std::string> targets = TargetModules(adapter, options.base_modules);
  ASSIGN_OR_RETURN(const std::string config, ConfigText(adapter, targets));
  ASSIGN_OR_RETURN(const std::string card, CardText(adapter, targets, options.dtype));
  RETURN_IF_ERROR(WriteTensors(fs, JoinPath(dir, peft::kModelFile), adapter, options.dtype));
  RETURN_IF_ERROR(fs.WriteFileAtomic(JoinPath(dir, peft::kConfigFile), config));
  RETURN_IF_ERROR(fs.WriteFileAtomic(JoinPath(dir, peft::kCardFile), card));
  if (!options.effect_proof.probes.empty()) {
    ASSIGN_OR_RETURN(const std::string proof, PrettyJson(EffectProofToJson(options.effect_proof)));
    RETURN_IF_ERROR(fs.WriteFileAtomic(JoinPath(dir, peft::kProofFile), proof));
  }
  ASSIGN_OR_RETURN(const PeftAdapter read, ReadPeftFolder(fs, dir, {options.base_modules}));
  if (AdapterDigest(read.adapter) == AdapterDigest(adapter)) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(dir, ": the files read back as another adapter"));
}

}  // namespace

absl::Status WritePeftFolder(FileSystem& fs, const std::string& dir, const LoraAdapter& adapter,
                             const PeftWriteOptions& options) {
  if (adapter.base_name.empty()) {
    return absl::InvalidArgumentError("base_name is empty: servers match adapters by it");
  }
  ASSIGN_OR_RETURN(const LoraAdapter portable, ToPortableProfile(adapter, options.dtype));
  RETURN_IF_ERROR(CheckProof(options.effect_proof, portable));
  if (fs.Exists(dir)) return absl::FailedPreconditionError(absl::StrCat(dir, ": exists"));
  const std::string temp = dir + ".tmp";
  RETURN_IF_ERROR(fs.RemoveTree(temp));
  RETURN_IF_ERROR(fs.CreateDirectories(temp));
  absl::Status status = WriteFiles(fs, temp, portable, options);
  if (status.ok()) status = fs.Rename(temp, dir);
  // The first error is the one to report; a folder that cannot be removed is replaced next time.
  if (!status.ok()) fs.RemoveTree(temp).IgnoreError();
  return status;
}

}  // namespace evolora
