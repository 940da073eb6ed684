#include "adapter_plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/llama_weights.h"
#include "re2/re2.h"

namespace evolora {
namespace {

// A name matches a module's path or a suffix of it at a dot, as in PEFT.
bool NamesModule(const std::string& name, const std::string& path) {
  return name == path || absl::EndsWith(path, absl::StrCat(".", name));
}

// The entries of a list of names that match the path; they are marked as used.
bool AnyNames(const std::vector<std::string>& names, const std::string& path,
              std::set<std::string>& used) {
  bool any = false;
  for (const std::string& name : names) {
    if (!NamesModule(name, path)) continue;
    used.insert(name);
    any = true;
  }
  return any;
}

absl::Status CheckAllUsed(const char* key, const std::vector<std::string>& names,
                          const std::set<std::string>& used) {
  for (const std::string& name : names) {
    if (used.count(name) != 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("recipe.", key, ": '", name, "' matches no linear layer"));
  }
  return absl::OkStatus();
}

// rank_pattern or alpha_pattern. PEFT: re.match(`(.*\.)?(key)$`, path).
template <typename T>
class Pattern {
 public:
  static absl::StatusOr<Pattern> Create(const char* key, const std::map<std::string, T>& values) {
    Pattern pattern(key);
    for (const auto& [text, value] : values) {
      RE2::Options options;
      options.set_log_errors(false);
      options.set_max_mem(1 << 20);
      auto regex = std::make_unique<RE2>(absl::StrCat("(.*\\.)?(", text, ")"), options);
      if (!regex->ok()) {
        return absl::UnimplementedError(
            absl::StrCat("recipe.", key, ": '", text, "': ", regex->error()));
      }
      pattern.entries_.push_back({text, value, std::move(regex)});
    }
    return pattern;
  }

  // The module's value, or `fallback`.
  absl::StatusOr<T> Of(const std::string& path, T fallback) {
    const Entry* found = nullptr;
    for (Entry& entry : entries_) {
      if (!RE2::FullMatch(path, *entry.regex)) continue;
      entry.used = true;
      if (found != nullptr && found->value != entry.value) {
        return absl::InvalidArgumentError(absl::StrCat(
            "recipe.", key_, ": '", found->text, "' and '", entry.text, "' disagree on ", path));
      }
      found = &entry;
    }
    return found == nullptr ? fallback : found->value;
  }

  absl::Status CheckAllUsed() const {
    for (const Entry& entry : entries_) {
      if (entry.used) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("recipe.", key_, ": '", entry.text, "' matches no adapted layer"));
    }
    return absl::OkStatus();
  }

 private:
  struct Entry {
    std::string text;
    T value;
    std::unique_ptr<RE2> regex;
    bool used = false;
  };
  explicit Pattern(const char* key) : key_(key) {}

  const char* key_;
  std::vector<Entry> entries_;
};

absl::Status CheckRank(const PlannedModule& module) {
  if (module.rank <= std::min(module.in_features, module.out_features)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("recipe.rank ", module.rank, " exceeds layer ",
                                                 module.path, " of ", module.out_features, " x ",
                                                 module.in_features));
}

}  // namespace

absl::StatusOr<std::vector<PlannedModule>> PlanModules(const LlamaConfig& config,
                                                       const LoraRecipe& recipe) {
  ASSIGN_OR_RETURN(auto ranks, Pattern<int64_t>::Create("rank_pattern", recipe.rank_pattern));
  ASSIGN_OR_RETURN(auto alphas, Pattern<double>::Create("alpha_pattern", recipe.alpha_pattern));
  std::vector<PlannedModule> modules;
  std::set<std::string> targets, exclusions;
  for (const std::string& path : LinearModulePaths(config)) {
    const bool targeted =
        recipe.target_modules.empty() || AnyNames(recipe.target_modules, path, targets);
    const bool excluded = AnyNames(recipe.exclude_modules, path, exclusions);
    if (!targeted || excluded) continue;
    const auto [out_features, in_features] = LinearShape(config, path);
    PlannedModule module{.path = path, .in_features = in_features, .out_features = out_features};
    ASSIGN_OR_RETURN(module.rank, ranks.Of(path, recipe.rank));
    ASSIGN_OR_RETURN(const double alpha, alphas.Of(path, recipe.alpha));
    const auto rank = static_cast<double>(module.rank);
    module.scale = alpha / (recipe.use_rslora ? std::sqrt(rank) : rank);
    RETURN_IF_ERROR(CheckRank(module));
    modules.push_back(std::move(module));
  }
  RETURN_IF_ERROR(CheckAllUsed("target_modules", recipe.target_modules, targets));
  RETURN_IF_ERROR(CheckAllUsed("exclude_modules", recipe.exclude_modules, exclusions));
  RETURN_IF_ERROR(ranks.CheckAllUsed());
  RETURN_IF_ERROR(alphas.CheckAllUsed());
  if (modules.empty()) {
    return absl::InvalidArgumentError("recipe.exclude_modules leaves no linear layer to adapt");
  }
  return modules;
}

absl::StatusOr<std::vector<NamedShape>> PlanSavedModules(const LlamaConfig& config,
                                                         const LoraRecipe& recipe) {
  std::vector<NamedShape> saved;
  std::set<std::string> used;
  for (NamedShape& module : ReplaceableModules(config)) {
    bool wanted = false;
    for (const std::string& entry : recipe.modules_to_save) {
      if (entry.empty() || !absl::EndsWith(module.name, entry)) continue;
      used.insert(entry);
      wanted = true;
    }
    if (wanted) saved.push_back(std::move(module));
  }
  for (const std::string& entry : recipe.modules_to_save) {
    for (const std::string& path : LinearModulePaths(config)) {
      if (!absl::EndsWith(path, entry)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("recipe.modules_to_save: '", entry, "' means ", path,
                       ", a linear layer of the decoder; those are adapted only"));
    }
    if (used.count(entry) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "recipe.modules_to_save: '", entry, "' matches neither embedding nor head nor norm"));
    }
  }
  return saved;
}

}  // namespace evolora
