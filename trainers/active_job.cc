#include "active_job.h"

#include <numeric>
#include <vector>

#include "evolora/core/status_macros.h"
#include "log_probs.h"

namespace evolora {
namespace {

// Mean cross entropy of the rows' labels under the adapter as it is.
absl::StatusOr<double> MeanLoss(FrozenPass& model, absl::Span<const TrainingRow> rows) {
  std::vector<int64_t> all(rows.size());
  std::iota(all.begin(), all.end(), 0);
  ASSIGN_OR_RETURN(const auto log_probs, FrozenLogProbs(model, rows, all, FrozenModel::kInit, {}));
  double sum = 0;
  int64_t num_labels = 0;
  for (const std::vector<double>& row : log_probs) {
    sum -= std::accumulate(row.begin(), row.end(), 0.0);
    num_labels += static_cast<int64_t>(row.size());
  }
  return sum / static_cast<double>(num_labels);
}

}  // namespace

void ActiveJob::StartAdapter(const LlamaWeights& base, FastModel& model) {
  const GradientPathInputs inputs = run.inputs();
  if (!inputs.lora->saved.empty()) own = std::make_unique<OwnModel>(base, *inputs.lora);
  adapter = std::make_unique<FastAdapter>(own ? own->model : model, inputs);
}

absl::Status ActiveJob::FinishStep() {
  run.Update(step);
  if (path != nullptr) {
    const absl::StatusOr<double> sum = path->LossSum();
    if (!sum.ok()) return run.Failed(sum.status());
    loss_sum = *sum;
  }
  const absl::Status taken = run.FinishStep(step, loss_sum);
  return taken.ok() ? taken : run.Failed(taken);
}

absl::StatusOr<double> ActiveJob::HeldOutLoss() {
  return path != nullptr ? MeanLoss(*path->frozen_pass(), queued.held_out)
                         : adapter->MeanLoss(queued.held_out);
}

JobOutcome ActiveJob::Leave() {
  JobOutcome outcome{.name = queued.name, .join_seconds = join_seconds};
  if (!queued.held_out.empty()) {
    const absl::StatusOr<double> loss = HeldOutLoss();
    if (!loss.ok()) return Outcome(loss.status());
    outcome.held_out_loss = *loss;
  }
  const absl::Status saved = queued.stop_after > 0 ? run.Save() : absl::OkStatus();
  outcome.trained = saved.ok() ? run.Finish() : saved;
  return outcome;
}

}  // namespace evolora
