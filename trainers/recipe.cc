#include "evolora/trainers/recipe.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "recipe_keys.h"

namespace evolora {
namespace {

absl::StatusOr<TrainingMethod> ParseMethod(const std::string& name) {
  if (name == "lora") return TrainingMethod::kLora;
  if (name == "full") return TrainingMethod::kFull;
  return absl::InvalidArgumentError(
      absl::StrCat("recipe.method: '", name, "' is not one of lora, full"));
}

absl::StatusOr<LoraInit> ParseInit(const std::string& name) {
  if (name == "kaiming") return LoraInit::kKaiming;
  if (name == "pissa") return LoraInit::kPissa;
  if (name == "olora") return LoraInit::kOlora;
  return absl::InvalidArgumentError(
      absl::StrCat("recipe.init_lora_weights: '", name, "' is not one of kaiming, pissa, olora"));
}

absl::StatusOr<LearningRateSchedule> ParseSchedule(const std::string& name) {
  if (name == "constant") return LearningRateSchedule::kConstant;
  if (name == "linear") return LearningRateSchedule::kLinear;
  if (name == "cosine") return LearningRateSchedule::kCosine;
  return absl::InvalidArgumentError(
      absl::StrCat("recipe.schedule: '", name, "' is not one of constant, linear, cosine"));
}

const char* ScheduleName(LearningRateSchedule schedule) {
  switch (schedule) {
    case LearningRateSchedule::kConstant:
      return "constant";
    case LearningRateSchedule::kLinear:
      return "linear";
    case LearningRateSchedule::kCosine:
      return "cosine";
  }
  return "linear";
}

absl::StatusOr<TrainingPath> ParsePath(const std::string& name) {
  if (name == "fast") return TrainingPath::kFast;
  if (name == "reference") return TrainingPath::kReference;
  if (name == "device") return TrainingPath::kDevice;
  return absl::InvalidArgumentError(
      absl::StrCat("recipe.path: '", name, "' is not one of fast, reference, device"));
}

const char* PathName(TrainingPath path) {
  switch (path) {
    case TrainingPath::kFast:
      return "fast";
    case TrainingPath::kReference:
      return "reference";
    case TrainingPath::kDevice:
      return "device";
  }
  return "fast";
}

absl::StatusOr<TrainingPrecision> ParsePrecision(const std::string& name) {
  if (name == "fp32") return TrainingPrecision::kFp32;
  if (name == "bf16-autocast") return TrainingPrecision::kBf16Autocast;
  if (name == "bf16") return TrainingPrecision::kBf16;
  return absl::InvalidArgumentError(
      absl::StrCat("recipe.precision: '", name, "' is not one of fp32, bf16-autocast, bf16"));
}

// {"name or regex": number, ..}; absent = empty.
template <typename T>
std::map<std::string, T> ReadPattern(JsonFields& fields, const char* key) {
  std::map<std::string, T> pattern;
  if (!fields.Has(key)) return pattern;
  for (const auto& [name, value] : fields.Object(key).items()) {
    if (std::is_integral_v<T> ? value.is_number_integer() : value.is_number()) {
      pattern[name] = value.template get<T>();
    } else {
      fields.Fail(key, absl::StrCat("'", name, "' is not a number of its kind"));
    }
  }
  return pattern;
}

// Reads the keys of adapters; with the method full each is an error, whatever its value.
absl::Status ReadAdapterKeys(JsonFields& f, LoraRecipe& r) {
  if (r.method == TrainingMethod::kFull) {
    const Json keys = AdapterKeys(r);
    for (const auto& [key, value] : keys.items()) {
      if (f.Has(key)) f.Fail(key, "the method 'full' does not use it");
    }
    return f.status();
  }
  constexpr int64_t kMax = int64_t{1} << 40;
  r.rank = f.OptionalInteger("rank", -kMax, kMax).value_or(r.rank);
  r.alpha = f.OptionalNumber("alpha").value_or(r.alpha);
  r.use_rslora = f.OptionalBool("use_rslora").value_or(r.use_rslora);
  r.lora_dropout = f.OptionalNumber("lora_dropout").value_or(r.lora_dropout);
  r.use_dora = f.OptionalBool("use_dora").value_or(r.use_dora);
  if (f.Has("target_modules")) r.target_modules = f.StringArray("target_modules");
  if (f.Has("exclude_modules")) r.exclude_modules = f.StringArray("exclude_modules");
  if (f.Has("modules_to_save")) r.modules_to_save = f.StringArray("modules_to_save");
  r.rank_pattern = ReadPattern<int64_t>(f, "rank_pattern");
  r.alpha_pattern = ReadPattern<double>(f, "alpha_pattern");
  r.lora_plus_ratio = f.OptionalNumber("lora_plus_ratio").value_or(r.lora_plus_ratio);
  const std::string init =
      f.OptionalString("init_lora_weights").value_or(InitName(r.init_lora_weights));
  RETURN_IF_ERROR(f.status());
  ASSIGN_OR_RETURN(r.init_lora_weights, ParseInit(init));
  return absl::OkStatus();
}

}  // namespace

const char* MethodName(TrainingMethod method) {
  return method == TrainingMethod::kFull ? "full" : "lora";
}

const char* InitName(LoraInit init) {
  switch (init) {
    case LoraInit::kKaiming:
      return "kaiming";
    case LoraInit::kPissa:
      return "pissa";
    case LoraInit::kOlora:
      return "olora";
  }
  return "kaiming";
}

WeightStorage StorageToLoad(const LoraRecipe& recipe, absl::string_view device) {
  const bool takes_blocks = recipe.path == TrainingPath::kFast && device == "cpu" &&
                            recipe.method == TrainingMethod::kLora;
  if (recipe.base_weights != WeightStorage::kFp32 || !takes_blocks) return recipe.base_weights;
  if (recipe.precision != TrainingPrecision::kFp32) return WeightStorage::kBf16;
  const bool reads_numbers = recipe.use_dora || recipe.init_lora_weights != LoraInit::kKaiming;
  return reads_numbers ? WeightStorage::kFp32 : WeightStorage::kExact;
}

WeightStorage StorageToLoad(absl::Span<const LoraRecipe> recipes, absl::string_view device) {
  if (recipes.empty()) return WeightStorage::kFp32;
  const WeightStorage first = StorageToLoad(recipes.front(), device);
  const bool agree = std::all_of(recipes.begin(), recipes.end(), [&](const LoraRecipe& recipe) {
    return StorageToLoad(recipe, device) == first;
  });
  return first == WeightStorage::kExact && !agree ? WeightStorage::kFp32 : first;
}

bool TakesBase(const LoraRecipe& recipe, absl::string_view device, WeightStorage loaded) {
  return loaded == recipe.base_weights || loaded == StorageToLoad(recipe, device);
}

const char* PrecisionName(TrainingPrecision precision) {
  switch (precision) {
    case TrainingPrecision::kFp32:
      return "fp32";
    case TrainingPrecision::kBf16Autocast:
      return "bf16-autocast";
    case TrainingPrecision::kBf16:
      return "bf16";
  }
  return "fp32";
}

Json AdapterKeys(const LoraRecipe& r) {
  return Json{{"rank", r.rank},
              {"alpha", r.alpha},
              {"use_rslora", r.use_rslora},
              {"use_dora", r.use_dora},
              {"lora_dropout", r.lora_dropout},
              {"target_modules", r.target_modules},
              {"exclude_modules", r.exclude_modules},
              {"modules_to_save", r.modules_to_save},
              {"rank_pattern", r.rank_pattern},
              {"alpha_pattern", r.alpha_pattern},
              {"init_lora_weights", InitName(r.init_lora_weights)},
              {"lora_plus_ratio", r.lora_plus_ratio}};
}

absl::StatusOr<LoraRecipe> RecipeFromJson(const Json& json) {
  JsonFields f(json, "recipe");
  LoraRecipe r;
  constexpr int64_t kMax = int64_t{1} << 40;
  const std::string method = f.OptionalString("method").value_or(MethodName(r.method));
  ASSIGN_OR_RETURN(r.method, ParseMethod(method));
  RETURN_IF_ERROR(ReadAdapterKeys(f, r));
  r.learning_rate = f.OptionalNumber("learning_rate").value_or(r.learning_rate);
  const std::string schedule = f.OptionalString("schedule").value_or(ScheduleName(r.schedule));
  r.warmup_ratio = f.OptionalNumber("warmup_ratio").value_or(r.warmup_ratio);
  r.epochs = f.OptionalInteger("epochs", -kMax, kMax).value_or(r.epochs);
  r.max_steps = f.OptionalInteger("max_steps", -kMax, kMax).value_or(r.max_steps);
  r.rows_per_step = f.OptionalInteger("rows_per_step", -kMax, kMax).value_or(r.rows_per_step);
  r.tokens_per_micro_batch =
      f.OptionalInteger("tokens_per_micro_batch", -kMax, kMax).value_or(r.tokens_per_micro_batch);
  r.weight_decay = f.OptionalNumber("weight_decay").value_or(r.weight_decay);
  r.beta1 = f.OptionalNumber("beta1").value_or(r.beta1);
  r.beta2 = f.OptionalNumber("beta2").value_or(r.beta2);
  r.epsilon = f.OptionalNumber("epsilon").value_or(r.epsilon);
  r.max_grad_norm = f.OptionalNumber("max_grad_norm").value_or(r.max_grad_norm);
  r.replay_share = f.OptionalNumber("replay_share").value_or(r.replay_share);
  r.seed = static_cast<uint64_t>(f.OptionalInteger("seed", 0, kMax).value_or(0));
  r.max_row_tokens = f.OptionalInteger("max_row_tokens", -kMax, kMax).value_or(r.max_row_tokens);
  r.max_cut_share = f.OptionalNumber("max_cut_share").value_or(r.max_cut_share);
  r.require_end_of_turn = f.OptionalBool("require_end_of_turn").value_or(r.require_end_of_turn);
  r.checkpoint_every_steps =
      f.OptionalInteger("checkpoint_every_steps", -kMax, kMax).value_or(r.checkpoint_every_steps);
  const std::string path = f.OptionalString("path").value_or(PathName(r.path));
  const std::string precision = f.OptionalString("precision").value_or(PrecisionName(r.precision));
  const std::string base_weights =
      f.OptionalString("base_weights").value_or(WeightStorageName(r.base_weights));
  r.objective = ReadObjective(f);
  RETURN_IF_ERROR(f.Done());
  if (!ParseWeightStorage(base_weights, r.base_weights)) {
    return absl::InvalidArgumentError(absl::StrCat("recipe.base_weights: '", base_weights,
                                                   "' is not one of fp32, bf16, int8, q4"));
  }
  ASSIGN_OR_RETURN(r.schedule, ParseSchedule(schedule));
  ASSIGN_OR_RETURN(r.path, ParsePath(path));
  ASSIGN_OR_RETURN(r.precision, ParsePrecision(precision));
  RETURN_IF_ERROR(ValidateRecipe(r));
  return r;
}

absl::StatusOr<LoraRecipe> ParseRecipe(absl::string_view json_text) {
  ASSIGN_OR_RETURN(const Json json, ParseJson(json_text));
  return RecipeFromJson(json);
}

// All but those of the objective and of adapters.
static Json GeneralKeys(const LoraRecipe& r) {
  return Json{{"method", MethodName(r.method)},
              {"learning_rate", r.learning_rate},
              {"schedule", ScheduleName(r.schedule)},
              {"warmup_ratio", r.warmup_ratio},
              {"epochs", r.epochs},
              {"max_steps", r.max_steps},
              {"rows_per_step", r.rows_per_step},
              {"tokens_per_micro_batch", r.tokens_per_micro_batch},
              {"weight_decay", r.weight_decay},
              {"beta1", r.beta1},
              {"beta2", r.beta2},
              {"epsilon", r.epsilon},
              {"max_grad_norm", r.max_grad_norm},
              {"replay_share", r.replay_share},
              {"seed", r.seed},
              {"max_row_tokens", r.max_row_tokens},
              {"max_cut_share", r.max_cut_share},
              {"require_end_of_turn", r.require_end_of_turn},
              {"checkpoint_every_steps", r.checkpoint_every_steps},
              {"path", PathName(r.path)},
              {"precision", PrecisionName(r.precision)},
              {"base_weights", WeightStorageName(r.base_weights)}};
}

Json RecipeToJson(const LoraRecipe& r) {
  Json json = GeneralKeys(r);
  if (r.method == TrainingMethod::kLora) json.update(AdapterKeys(r));
  WriteObjective(r.objective, json);
  return json;
}

int64_t GreatestRank(const LoraRecipe& recipe) {
  int64_t greatest = recipe.rank;
  for (const auto& [key, rank] : recipe.rank_pattern) greatest = std::max(greatest, rank);
  return recipe.init_lora_weights == LoraInit::kKaiming ? greatest : 2 * greatest;
}

double LearningRateAt(const LoraRecipe& recipe, int64_t step, int64_t total_steps) {
  const int64_t warmup =
      static_cast<int64_t>(std::ceil(recipe.warmup_ratio * static_cast<double>(total_steps)));
  if (step < warmup) {
    return recipe.learning_rate * static_cast<double>(step) / static_cast<double>(warmup);
  }
  const double span = static_cast<double>(std::max<int64_t>(1, total_steps - warmup));
  const double done = std::min(1.0, static_cast<double>(step - warmup) / span);
  switch (recipe.schedule) {
    case LearningRateSchedule::kConstant:
      return recipe.learning_rate;
    case LearningRateSchedule::kLinear:
      return recipe.learning_rate * (1.0 - done);
    case LearningRateSchedule::kCosine:
      return recipe.learning_rate * 0.5 * (1.0 + std::cos(std::numbers::pi * done));
  }
  return recipe.learning_rate;
}

}  // namespace evolora
