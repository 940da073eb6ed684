#include "sweep_plan.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/trainers/data_lint.h"

namespace evolora {
namespace {

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("sweep: ", what));
}

}  // namespace

absl::Status CheckSweep(const std::vector<SweepTrial>& trials, const SweepOptions& options) {
  RETURN_IF_ERROR(ValidateLimits(options.limits));
  if (trials.empty()) return Invalid("no trial");
  if (options.num_rungs < 1 || options.num_rungs > 20) {
    return Invalid(absl::StrCat("rungs ", options.num_rungs, " is not in 1..20"));
  }
  if (!(options.keep > 0 && options.keep < 1)) {
    return Invalid(absl::StrCat("keep ", options.keep, " is not in (0, 1)"));
  }
  std::set<std::string> names;
  for (const SweepTrial& trial : trials) {
    if (!names.insert(trial.name).second)
      return Invalid(absl::StrCat("trial ", trial.name, " twice"));
    if (trial.job.base != trials.front().job.base) return Invalid("trials of several bases");
    RETURN_IF_ERROR(Annotate(ValidateRecipe(trial.job.recipe), trial.name));
    if (trial.job.recipe.method != TrainingMethod::kLora) {
      return Invalid(absl::StrCat("trial ", trial.name, ": the method '",
                                  MethodName(trial.job.recipe.method), "' trains no adapter"));
    }
    if (trial.job.recipe.objective.kind == ObjectiveKind::kSft) continue;
    return Invalid(absl::StrCat("trial ", trial.name, ": objective ",
                                ObjectiveName(trial.job.recipe.objective.kind),
                                "; trials are compared by cross entropy, which sft lowers"));
  }
  LintLimits limits = LimitsOf(trials.front().job);
  limits.max_cut_share = 0;
  limits.end_ids.clear();
  return Annotate(LintTrainingRows(options.held_out, limits), "held out");
}

int64_t StepsAtRung(int64_t total_steps, const SweepOptions& options, int64_t rung) {
  const double share = std::pow(options.keep, static_cast<double>(options.num_rungs - 1 - rung));
  const auto steps = std::ceil(static_cast<double>(total_steps) * share - 1e-9);
  return std::max<int64_t>(1, static_cast<int64_t>(steps));
}

int64_t NumSurvivors(int64_t n, const SweepOptions& options) {
  return static_cast<int64_t>(std::ceil(options.keep * static_cast<double>(n) - 1e-9));
}

}  // namespace evolora
