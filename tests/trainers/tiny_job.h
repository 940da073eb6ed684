#pragma once

#include <stop_token>
#include <string>
#include <utility>

#include "evolora/core/random.h"
#include "evolora/trainers/lora_trainer.h"
#include "model/random_model.h"
#include "support/fake_clock.h"

// A job of a few steps on a model of three layers.
namespace evolora::testing {

inline TrainingJob TinyJob(int64_t num_rows = 12) {
  TrainingJob job;
  const LlamaConfig config = SmallConfig();
  job.base = RandomWeights(config, 7);
  job.base_name = "tiny";
  job.base_weights_fingerprint = "tiny-7";
  Random random(5);
  for (int64_t i = 0; i < num_rows; ++i) {
    TrainingRow row;
    const uint64_t length = 4 + random.NextBelow(6);
    for (uint64_t t = 0; t < length; ++t) {
      row.ids.push_back(
          static_cast<TokenId>(random.NextBelow(static_cast<uint64_t>(config.vocab_size))));
      row.labels.push_back(t < 2 ? kIgnoreLabel : row.ids.back());
    }
    job.rows.push_back(row);
  }
  job.recipe.rank = 4;
  job.recipe.alpha = 8;
  job.recipe.learning_rate = 1e-2;
  job.recipe.epochs = 3;
  job.recipe.rows_per_step = 4;
  job.recipe.checkpoint_every_steps = 2;
  return job;
}

// The rows of TinyJob, each preferred to another end of its own.
inline TrainingJob TinyDpoJob() {
  TrainingJob job = TinyJob();
  for (TrainingRow& row : job.rows) {
    row.counterpart = {.ids = row.ids, .labels = row.labels};
    for (size_t t = 2; t < row.ids.size(); ++t) {
      row.counterpart.ids[t] = row.counterpart.labels[t] = (row.ids[t] + 5) % 37;
    }
  }
  job.recipe.objective.kind = ObjectiveKind::kDpo;
  return job;
}

inline absl::StatusOr<TrainedAdapter> Train(const TrainingJob& job,
                                            const TrainOptions& options = {},
                                            std::stop_token stop = {}) {
  FakeClock clock;
  return TrainLora(job, options, PosixFileSystem(), clock, stop);
}

// Ends a training that is called with its options and token after a step.
class StopAfter {
 public:
  StopAfter(int64_t last_step, std::string work_dir)
      : options_{.work_dir = std::move(work_dir),
                 .on_step = [this, last_step](const StepReport& step) {
                   if (step.step == last_step) stop_.request_stop();
                 }} {}
  StopAfter(const StopAfter&) = delete;
  StopAfter& operator=(const StopAfter&) = delete;

  const TrainOptions& options() const { return options_; }
  std::stop_token token() const { return stop_.get_token(); }

 private:
  std::stop_source stop_;
  TrainOptions options_;
};

}  // namespace evolora::testing
