#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/trainers/recipe.h"
#include "recipe_keys.h"

namespace evolora {
namespace {

// One bound of a recipe: the value must lie in [low, high].
struct Bound {
  const char* key;
  double value;
  double low;
  double high;
};

absl::Status CheckBound(const Bound& b) {
  if (b.value >= b.low && b.value <= b.high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("recipe.", b.key, ": ", b.value, " is outside [", b.low, ", ", b.high, "]"));
}

absl::Status CheckPrecision(const LoraRecipe& r) {
  if (r.precision == TrainingPrecision::kFp32) return absl::OkStatus();
  const auto refused = [&](absl::string_view by) {
    return absl::InvalidArgumentError(absl::StrCat("recipe.precision: ", PrecisionName(r.precision),
                                                   " is not computed with ", by));
  };
  if (!r.modules_to_save.empty()) return refused("modules_to_save");
  if (r.path == TrainingPath::kReference && r.use_dora) return refused("use_dora");
  if (r.path == TrainingPath::kReference && r.init_lora_weights != LoraInit::kKaiming) {
    return refused("another init_lora_weights");
  }
  return absl::OkStatus();
}

absl::Status CheckModulesToSave(const LoraRecipe& r) {
  if (r.modules_to_save.empty()) return absl::OkStatus();
  const auto refused = [](absl::string_view by) {
    return absl::InvalidArgumentError(absl::StrCat("recipe.modules_to_save: not with ", by));
  };
  if (r.objective.kind != ObjectiveKind::kSft) {
    return refused(absl::StrCat("the objective ", ObjectiveName(r.objective.kind)));
  }
  if (r.init_lora_weights != LoraInit::kKaiming) return refused("another init_lora_weights");
  if (r.lora_plus_ratio != 1) return refused("lora_plus_ratio");
  return r.weight_decay > 0 ? refused("weight_decay") : absl::OkStatus();
}

absl::Status CheckFull(const LoraRecipe& r) {
  if (r.method != TrainingMethod::kFull) return absl::OkStatus();
  const Json plain = AdapterKeys(LoraRecipe()), keys = AdapterKeys(r);
  for (const auto& [key, value] : keys.items()) {
    if (value == plain[key]) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("recipe.", key, ": the method 'full' does not use it"));
  }
  const auto refused = [](absl::string_view key, absl::string_view value) {
    return absl::InvalidArgumentError(
        absl::StrCat("recipe.", key, ": ", value, " is not computed with the method 'full'"));
  };
  if (r.base_weights != WeightStorage::kFp32) {
    return refused("base_weights", WeightStorageName(r.base_weights));
  }
  if (r.precision != TrainingPrecision::kFp32) {
    return refused("precision", PrecisionName(r.precision));
  }
  if (r.objective.reference == FrozenModel::kInit) return refused("reference", "init");
  const bool keeps_hidden =
      r.objective.kind == ObjectiveKind::kDistill && r.objective.distill_top_k == 0;
  if (!keeps_hidden) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "recipe.distill_top_k: 0 keeps hidden states of the teacher, whose head the method 'full' "
      "trains; give the number of tokens to keep for each label");
}

absl::Status CheckBaseWeights(const LoraRecipe& r) {
  if (r.base_weights == WeightStorage::kFp32) return absl::OkStatus();
  const auto refused = [&](absl::string_view by) {
    return absl::InvalidArgumentError(absl::StrCat(
        "recipe.base_weights: ", WeightStorageName(r.base_weights), " is not for ", by));
  };
  if (r.use_dora) return refused("use_dora, which reads the base's own norms");
  if (r.init_lora_weights == LoraInit::kKaiming) return absl::OkStatus();
  return refused("init_lora_weights that decompose the base");
}

}  // namespace

absl::Status ValidateRecipe(const LoraRecipe& r) {
  const Bound bounds[] = {
      {"rank", static_cast<double>(r.rank), 1, 512},
      {"alpha", r.alpha, 1e-6, 1e6},
      {"learning_rate", r.learning_rate, 0, 10},
      {"lora_plus_ratio", r.lora_plus_ratio, 1e-3, 1e3},
      {"lora_dropout", r.lora_dropout, 0, 0.99},
      {"warmup_ratio", r.warmup_ratio, 0, 1},
      {"epochs", static_cast<double>(r.epochs), 1, 10000},
      {"max_steps", static_cast<double>(r.max_steps), 0, 1e9},
      {"rows_per_step", static_cast<double>(r.rows_per_step), 1, 65536},
      {"tokens_per_micro_batch", static_cast<double>(r.tokens_per_micro_batch), 1, 1 << 24},
      {"weight_decay", r.weight_decay, 0, 1},
      {"beta1", r.beta1, 0, 0.999999},
      {"beta2", r.beta2, 0, 0.9999999},
      {"epsilon", r.epsilon, 1e-20, 1},
      {"max_grad_norm", r.max_grad_norm, 0, 1e9},
      {"replay_share", r.replay_share, 0, 0.9},
      {"max_row_tokens", static_cast<double>(r.max_row_tokens), 1, 1 << 24},
      {"max_cut_share", r.max_cut_share, 0, 1},
      {"checkpoint_every_steps", static_cast<double>(r.checkpoint_every_steps), 1, 1e9},
  };
  for (const Bound& b : bounds) RETURN_IF_ERROR(CheckBound(b));
  for (const auto& [key, rank] : r.rank_pattern) {
    RETURN_IF_ERROR(CheckBound({"rank_pattern", static_cast<double>(rank), 1, 512}));
  }
  for (const auto& [key, alpha] : r.alpha_pattern) {
    RETURN_IF_ERROR(CheckBound({"alpha_pattern", alpha, 1e-6, 1e6}));
  }
  if (r.use_dora && r.lora_dropout > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("recipe.lora_dropout: ", r.lora_dropout, " is not computed with use_dora"));
  }
  if (r.use_dora && r.init_lora_weights != LoraInit::kKaiming) {
    return absl::InvalidArgumentError(absl::StrCat(
        "recipe.init_lora_weights: ", InitName(r.init_lora_weights),
        " ends as a difference of two adapters, which has no magnitudes: not with use_dora"));
  }
  if (r.max_cut_share > 0 && r.objective.kind != ObjectiveKind::kSft) {
    return absl::InvalidArgumentError(
        absl::StrCat("recipe.max_cut_share: no row of the objective '",
                     ObjectiveName(r.objective.kind), "' can be cut"));
  }
  RETURN_IF_ERROR(CheckFull(r));
  RETURN_IF_ERROR(CheckBaseWeights(r));
  RETURN_IF_ERROR(CheckModulesToSave(r));
  RETURN_IF_ERROR(CheckPrecision(r));
  return ValidateObjective(r.objective);
}

}  // namespace evolora
