#include "evolora/adapters/peft_config.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/json.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr JsonLimits kLimits = {.max_bytes = 1 << 20, .max_depth = 16};
constexpr int64_t kMaxRank = int64_t{1} << 16;

// Keys of PEFT 0.21 (and of earlier ones that still occur) without effect on a loaded adapter.
constexpr const char* kHarmlessKeys[] = {
    "auto_mapping", "corda_config",   "eva_config",         "inference_mode", "loftq_config",
    "lora_dropout", "lora_ga_config", "megatron_core",      "peft_version",   "qalora_group_size",
    "task_type",    "runtime_config", "kasa_config_version"};

// Keys that change the function when they are on.
constexpr const char* kFeatureKeys[] = {"alora_invocation_tokens",
                                        "arrow_config",
                                        "ensure_weight_tying",
                                        "fan_in_fan_out",
                                        "kasa_config",
                                        "layer_replication",
                                        "lora_bias",
                                        "megatron_config",
                                        "monteclora_config",
                                        "target_parameters",
                                        "trainable_token_indices",
                                        "use_bdlora",
                                        "use_qalora",
                                        "velora_config"};

// Initialisations that leave the base weights as they are.
constexpr const char* kPlainInits[] = {"gaussian", "eva", "orthogonal", "mica"};

template <size_t kSize>
bool Contains(const char* const (&list)[kSize], absl::string_view key) {
  for (const char* item : list) {
    if (key == item) return true;
  }
  return false;
}

bool IsOff(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         (value.is_structured() && value.empty()) || value == Json("");
}

absl::Status Invalid(absl::string_view key, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: ", key, ": ", why));
}

absl::Status NotComputed(absl::string_view key, const Json& value) {
  return absl::UnimplementedError(
      absl::StrCat("adapter_config.json: ", key, " = ", DisplayJson(value).substr(0, 200),
                   " changes the function in a way that is not computed here"));
}

absl::StatusOr<double> FiniteNonZero(const std::string& key, const OrderedJson& value) {
  if (!value.is_number()) return Invalid(key, "not a number");
  const double number = value.get<double>();
  if (!std::isfinite(number)) return Invalid(key, "not finite");
  if (number == 0) return Invalid(key, "0 switches the adapter off");
  return number;
}

absl::StatusOr<int64_t> RankValue(const std::string& key, const OrderedJson& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() < 1 ||
      value.get<uint64_t>() > static_cast<uint64_t>(kMaxRank)) {
    return Invalid(key, absl::StrCat("not an integer in [1, ", kMaxRank, "]"));
  }
  return value.get<int64_t>();
}

// A pattern object in file order.
template <typename T, typename Read>
absl::Status ReadPattern(const OrderedJson& config, const char* key, const Read& read,
                         std::vector<std::pair<std::string, T>>& out) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  if (!it->is_object()) return Invalid(key, "not an object");
  for (const auto& [pattern, value] : it->items()) {
    ASSIGN_OR_RETURN(const T read_value, read(absl::StrCat(key, "['", pattern, "']"), value));
    out.emplace_back(pattern, read_value);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> StringList(const char* key, const OrderedJson& value) {
  std::vector<std::string> list;
  for (const OrderedJson& item : value) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      return Invalid(key, "an entry is not a text or empty");
    }
    list.push_back(item.get<std::string>());
  }
  return list;
}

// A list of names or one pattern; null and a missing key leave `out` as it is.
absl::Status ReadNames(const OrderedJson& config, const char* key,
                       std::variant<std::vector<std::string>, std::string>& out) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  if (it->is_string()) {
    if (it->get_ref<const std::string&>().empty()) return Invalid(key, "empty");
    out = it->get<std::string>();
    return absl::OkStatus();
  }
  if (!it->is_array()) return Invalid(key, "neither a list nor a text");
  ASSIGN_OR_RETURN(out, StringList(key, *it));
  return absl::OkStatus();
}

absl::Status ReadText(const OrderedJson& config, const char* key, std::string& out) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  if (!it->is_string()) return Invalid(key, "not a text");
  out = it->get<std::string>();
  return absl::OkStatus();
}

// A key that may be missing or null.
absl::Status ReadFlag(const OrderedJson& config, const char* key, bool& out) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  if (!it->is_boolean()) return Invalid(key, "not a bool");
  out = it->get<bool>();
  return absl::OkStatus();
}

absl::Status ReadLayers(const OrderedJson& config, PeftConfig& out) {
  const auto layers = config.find("layers_to_transform");
  if (layers != config.end() && !layers->is_null()) {
    const OrderedJson list = layers->is_array() ? *layers : OrderedJson::array({*layers});
    for (const OrderedJson& item : list) {
      if (!item.is_number_unsigned() || item.get<uint64_t>() > uint64_t{1} << 31) {
        return Invalid("layers_to_transform", "not a layer number or a list of them");
      }
      out.layers_to_transform.push_back(item.get<int64_t>());
    }
  }
  const auto pattern = config.find("layers_pattern");
  if (pattern == config.end() || IsOff(Json(*pattern))) return absl::OkStatus();
  if (pattern->is_string()) {
    out.layers_pattern = {pattern->get<std::string>()};
    return absl::OkStatus();
  }
  if (!pattern->is_array()) return Invalid("layers_pattern", "neither a text nor a list");
  ASSIGN_OR_RETURN(out.layers_pattern, StringList("layers_pattern", *pattern));
  return absl::OkStatus();
}

absl::Status ReadSaved(const OrderedJson& config, PeftConfig& out) {
  const auto it = config.find("modules_to_save");
  if (it == config.end() || IsOff(Json(*it))) return absl::OkStatus();
  if (!it->is_array()) return Invalid("modules_to_save", "not a list");
  ASSIGN_OR_RETURN(out.modules_to_save, StringList("modules_to_save", *it));
  return absl::OkStatus();
}

absl::Status ReadFields(const OrderedJson& config, PeftConfig& out) {
  for (const char* key : {"peft_type", "r", "lora_alpha", "target_modules"}) {
    if (!config.contains(key) || config[key].is_null()) return Invalid(key, "missing");
  }
  std::string peft_type;
  RETURN_IF_ERROR(ReadText(config, "peft_type", peft_type));
  if (peft_type != "LORA") {
    return Invalid("peft_type", absl::StrCat("'", peft_type, "', only LORA is read"));
  }
  RETURN_IF_ERROR(ReadText(config, "base_model_name_or_path", out.base_model_name_or_path));
  RETURN_IF_ERROR(ReadText(config, "revision", out.revision));
  ASSIGN_OR_RETURN(out.rank, RankValue("r", config["r"]));
  ASSIGN_OR_RETURN(out.alpha, FiniteNonZero("lora_alpha", config["lora_alpha"]));
  RETURN_IF_ERROR(ReadFlag(config, "use_rslora", out.use_rslora));
  RETURN_IF_ERROR(ReadFlag(config, "use_dora", out.use_dora));
  RETURN_IF_ERROR(ReadPattern(config, "rank_pattern", RankValue, out.rank_pattern));
  RETURN_IF_ERROR(ReadPattern(config, "alpha_pattern", FiniteNonZero, out.alpha_pattern));
  RETURN_IF_ERROR(ReadNames(config, "target_modules", out.target_modules));
  RETURN_IF_ERROR(ReadNames(config, "exclude_modules", out.exclude_modules));
  RETURN_IF_ERROR(ReadSaved(config, out));
  const auto* targets = std::get_if<std::vector<std::string>>(&out.target_modules);
  if (targets != nullptr && targets->empty()) return Invalid("target_modules", "empty list");
  return ReadLayers(config, out);
}

absl::Status CheckInit(const Json& value) {
  if (value.is_null() || value.is_boolean()) return absl::OkStatus();
  if (!value.is_string()) return Invalid("init_lora_weights", "neither a bool nor a text");
  if (Contains(kPlainInits, value.get_ref<const std::string&>())) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      "adapter_config.json: init_lora_weights = ", DisplayJson(value).substr(0, 200),
      " rewrites the base weights; convert the adapter to plain LoRA with PEFT first"));
}

// Refuses or reports what ReadFields does not read.
absl::Status CheckOtherKey(const std::string& key, const Json& value,
                           std::vector<std::string>* warnings) {
  constexpr const char* kReadKeys[] = {"alpha_pattern",
                                       "base_model_name_or_path",
                                       "exclude_modules",
                                       "layers_pattern",
                                       "lora_alpha",
                                       "layers_to_transform",
                                       "modules_to_save",
                                       "peft_type",
                                       "r",
                                       "rank_pattern",
                                       "revision",
                                       "target_modules",
                                       "use_dora",
                                       "use_rslora"};
  if (Contains(kReadKeys, key) || Contains(kHarmlessKeys, key)) return absl::OkStatus();
  if (key == "init_lora_weights") return CheckInit(value);
  if (key == "bias") {
    return value == Json("none") ? absl::OkStatus() : NotComputed(key, value);
  }
  if (IsOff(value)) {
    if (!Contains(kFeatureKeys, key) && warnings != nullptr) {
      warnings->push_back(absl::StrCat("adapter_config.json: unknown key '", key, "', off"));
    }
    return absl::OkStatus();
  }
  if (Contains(kFeatureKeys, key) || value.is_boolean() || value.is_structured()) {
    return NotComputed(key, value);
  }
  if (warnings != nullptr) {
    warnings->push_back(absl::StrCat("adapter_config.json: unknown key '", key,
                                     "' = ", DisplayJson(value).substr(0, 200), " is not used"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PeftConfig> ParsePeftConfig(absl::string_view text,
                                           std::vector<std::string>* warnings) {
  absl::StatusOr<OrderedJson> config = ParseOrderedJson(text, kLimits);
  if (!config.ok()) return Annotate(config.status(), "adapter_config.json");
  if (!config->is_object()) {
    return absl::InvalidArgumentError("adapter_config.json: not a JSON object");
  }
  for (const auto& [key, value] : config->items()) {
    RETURN_IF_ERROR(CheckOtherKey(key, Json(value), warnings));
  }
  PeftConfig result;
  RETURN_IF_ERROR(ReadFields(*config, result));
  return result;
}

}  // namespace evolora
