#include <algorithm>
#include <functional>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "evolora/core/status_macros.h"
#include "evolora/trainers/objective.h"

namespace evolora {
namespace {

using Settings = ObjectiveSettings;
using Field = std::variant<double Settings::*, int64_t Settings::*, bool Settings::*,
                           FrozenModel Settings::*, PolicyLoss Settings::*, PolicyMean Settings::*>;

// One key of a recipe.
struct Key {
  const char* name;
  Field field;
  double low = 0;  // of numbers
  double high = 0;
  std::vector<const char*> choices;  // of enums, in their order
  // Whether settings with this one's other keys read it at all.
  std::function<bool(const Settings&)> is_read = [](const Settings&) { return true; };
};

// What one objective reads beside "objective"; a key stands behind those it depends on.
struct ObjectiveKeys {
  ObjectiveKind kind;
  const char* name;
  std::vector<Key> keys;
};

Key Reference(std::function<bool(const Settings&)> is_read = [](const Settings&) { return true; }) {
  return {.name = "reference",
          .field = &Settings::reference,
          .choices = {"base", "init"},
          .is_read = std::move(is_read)};
}

std::vector<Key> DistillKeys() {
  return {Reference(),
          {"distill_top_k", &Settings::distill_top_k, 0, 1 << 24},
          {"distill_temperature", &Settings::distill_temperature, 1e-3, 1e3}};
}

std::vector<Key> DpoKeys() {
  return {Reference(),
          {"dpo_beta", &Settings::dpo_beta, 1e-6, 1e3},
          {"dpo_label_smoothing", &Settings::dpo_label_smoothing, 0, 0.499999}};
}

std::vector<Key> PolicyKeys() {
  return {{"policy_loss", &Settings::policy_loss, 0, 0, {"grpo", "cispo"}},
          {"policy_mean", &Settings::policy_mean, 0, 0, {"tokens", "sequences"}},
          {.name = "policy_clip_low",
           .field = &Settings::policy_clip_low,
           .high = 1,
           .is_read = [](const Settings& s) { return s.policy_loss == PolicyLoss::kGrpo; }},
          {"policy_clip_high", &Settings::policy_clip_high, 0, 1e6},
          {"policy_scale_rewards", &Settings::policy_scale_rewards},
          {"policy_kl_beta", &Settings::policy_kl_beta, 0, 1e3},
          Reference([](const Settings& s) { return s.policy_kl_beta > 0; })};
}

const std::vector<ObjectiveKeys>& AllObjectives() {
  static const auto* const all = new std::vector<ObjectiveKeys>{
      {ObjectiveKind::kSft, "sft", {}},
      {ObjectiveKind::kDistill, "distill", DistillKeys()},
      {ObjectiveKind::kDpo, "dpo", DpoKeys()},
      {ObjectiveKind::kPolicy, "policy", PolicyKeys()},
  };
  return *all;
}

const ObjectiveKeys& KeysOf(ObjectiveKind kind) {
  return *std::find_if(AllObjectives().begin(), AllObjectives().end(),
                       [&](const ObjectiveKeys& keys) { return keys.kind == kind; });
}

ObjectiveKind ReadKind(JsonFields& fields) {
  const std::string name = fields.OptionalString("objective").value_or("sft");
  std::vector<std::string> known;
  for (const ObjectiveKeys& keys : AllObjectives()) {
    if (name == keys.name) return keys.kind;
    known.emplace_back(keys.name);
  }
  fields.Fail("objective", absl::StrCat("'", name, "' is not one of ", absl::StrJoin(known, ", ")));
  return ObjectiveKind::kSft;
}

template <typename T>
void ReadValue(const Key& key, JsonFields& fields, T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    value = fields.OptionalBool(key.name).value_or(value);
  } else if constexpr (std::is_same_v<T, int64_t>) {
    constexpr int64_t kMax = int64_t{1} << 40;
    value = fields.OptionalInteger(key.name, -kMax, kMax).value_or(value);
  } else if constexpr (std::is_same_v<T, double>) {
    value = fields.OptionalNumber(key.name).value_or(value);
  } else {
    const auto chosen = fields.OptionalString(key.name);
    if (!chosen.has_value()) return;
    for (size_t i = 0; i < key.choices.size(); ++i) {
      if (*chosen == key.choices[i]) {
        value = static_cast<T>(i);
        return;
      }
    }
    fields.Fail(key.name,
                absl::StrCat("'", *chosen, "' is not one of ", absl::StrJoin(key.choices, ", ")));
  }
}

// A key of another objective is known, but would do nothing.
void RefuseIdleKeys(const ObjectiveKeys& mine, JsonFields& fields) {
  const auto is_mine = [&](const Key& key) {
    return std::any_of(mine.keys.begin(), mine.keys.end(),
                       [&](const Key& other) { return std::string(other.name) == key.name; });
  };
  for (const ObjectiveKeys& other : AllObjectives()) {
    for (const Key& key : other.keys) {
      if (is_mine(key) || !fields.Has(key.name)) continue;
      fields.Fail(key.name, absl::StrCat("the objective '", mine.name, "' does not use it"));
    }
  }
}

}  // namespace

const char* ObjectiveName(ObjectiveKind kind) { return KeysOf(kind).name; }

ObjectiveSettings ReadObjective(JsonFields& fields) {
  ObjectiveSettings settings;
  settings.kind = ReadKind(fields);
  const ObjectiveKeys& mine = KeysOf(settings.kind);
  RefuseIdleKeys(mine, fields);
  for (const Key& key : mine.keys) {
    if (key.is_read(settings)) {
      std::visit([&](auto field) { ReadValue(key, fields, settings.*field); }, key.field);
    } else if (fields.Has(key.name)) {
      fields.Fail(key.name, "the other keys of the objective leave it without effect");
    }
  }
  return settings;
}

void WriteObjective(const ObjectiveSettings& settings, Json& recipe) {
  const ObjectiveKeys& mine = KeysOf(settings.kind);
  recipe["objective"] = mine.name;
  for (const Key& key : mine.keys) {
    if (!key.is_read(settings)) continue;
    const auto write = [&](auto field) {
      const auto value = settings.*field;
      if constexpr (std::is_enum_v<decltype(value)>) {
        recipe[key.name] = key.choices[static_cast<size_t>(value)];
      } else {
        recipe[key.name] = value;
      }
    };
    std::visit(write, key.field);
  }
}

absl::Status ValidateObjective(const ObjectiveSettings& settings) {
  for (const Key& key : KeysOf(settings.kind).keys) {
    double value = key.low;
    if (const auto* number = std::get_if<double Settings::*>(&key.field)) {
      value = settings.*(*number);
    } else if (const auto* integer = std::get_if<int64_t Settings::*>(&key.field)) {
      value = static_cast<double>(settings.*(*integer));
    }
    if (value >= key.low && value <= key.high) continue;
    return absl::InvalidArgumentError(absl::StrCat("recipe.", key.name, ": ", value,
                                                   " is outside [", key.low, ", ", key.high, "]"));
  }
  return absl::OkStatus();
}

}  // namespace evolora
