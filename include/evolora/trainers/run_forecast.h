#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/core/clock.h"
#include "evolora/trainers/lora_trainer.h"

namespace evolora {

// Peak memory of a run beside the program and its libraries, in bytes, counted from shapes.
struct MemoryForecast {
  int64_t weights = 0;  // the base, fp32
  int64_t packed = 0;   // a second copy of the adapter, in panels; fast path only
  // Activations and scratch of the largest micro-batch; on a small base of as many as go side by
  // side, with panels and gradients of their own. Fast path only.
  int64_t arena = 0;
  // Values, gradients and both moments of what is trained; 0 on the device path, where they are its
  // device's.
  int64_t optimiser = 0;
  int64_t checkpoint = 0;  // copies made while a checkpoint is written
  int64_t rows = 0;        // the tokenised data
  int64_t total() const { return weights + packed + arena + optimiser + checkpoint + rows; }
};

// Peak memory on the device of the device path, in bytes, counted from shapes; on the CPU, where it
// serves tests, of the same memory as the rest.
struct DeviceMemoryForecast {
  int64_t base = 0;     // as its weights lie there, and where those in few bits are widened
  int64_t adapter = 0;  // values and gradients of what is trained, and values as products read them
  int64_t moments = 0;
  // Activations, scratch, logits and uploads of the largest micro-batch, as it is padded.
  int64_t activations = 0;
  int64_t graphs = 0;  // the pool of CUDA graphs: what a pass keeps for a moment, once more
  int64_t total() const { return base + adapter + moments + activations + graphs; }
};

// What a run will do, from the same row order, layout of tokens and counters as the run's own.
struct RunForecast {
  int64_t num_rows = 0;
  int64_t num_replay_rows = 0;       // of these
  int64_t data_tokens = 0;           // of the data set, once
  int64_t data_labelled_tokens = 0;  // likewise
  int64_t trainable_parameters = 0;

  int64_t total_steps = 0;
  int64_t tokens = 0;           // of all steps: the sum of StepReport::tokens
  int64_t labelled_tokens = 0;  // the sum of StepReport::labelled_tokens
  int64_t num_micro_batches = 0;
  // Of `tokens`, those behind the last label of their row: the fast and the device path leave them
  // out. Reference path: 0.
  int64_t tail_tokens = 0;
  // Tokens that go through the model. Fast and device path: a prefix shared within a micro-batch
  // once, but with dropout; no tail. Reference path: with its padding.
  int64_t computed_tokens = 0;
  // What the same steps would put through the model as batches of rows_per_step rows, each padded
  // to the longest row of its batch.
  int64_t padded_tokens = 0;
  double flops = 0;           // TrainedAdapter::total_flops
  double computed_flops = 0;  // of computed_tokens, the adapter's own products included
  MemoryForecast memory;
  std::optional<DeviceMemoryForecast> device_memory;  // device path only
  std::string memory_basis;  // what the figures rest on and leave out, in words

  // For ForecastJobs.
  struct Step {
    int64_t tokens = 0;
    int64_t labelled_tokens = 0;
    int64_t computed_tokens = 0;
    double computed_flops = 0;
  };
  std::vector<Step> steps;         // of each
  int64_t mean_step_tokens = 0;    // what a resident trainer counts the job with
  int64_t micro_batch_tokens = 0;  // computed at once, of the largest
  bool runs_apart = false;         // modules_to_save: in passes of its own

  // 1 - tokens / padded_tokens, and tokens that sharing leaves out; the fast and the device path
  // save both.
  double padding_share() const;
  int64_t shared_prefix_tokens() const;
};

// Where a run will be; as in TrainOptions.
struct ForecastOptions {
  std::string device = "cpu";
  bool device_graphs = true;
};

// Nothing is trained or written, no device is opened. Cost: laying out every step's tokens.
// Errors: as TrainLora's for what it checks before the first step (recipe, rows, targets).
absl::StatusOr<RunForecast> ForecastRun(const TrainingJob& job,
                                        const ForecastOptions& options = {});

// GFLOP/s of one frozen layer's product (the MLP's first) over as many rows as a micro-batch has
// tokens, by the fast path's kernel on all threads: the best of three runs, under a second in all.
double MeasureGflops(const TrainingJob& job, const Clock& clock);

}  // namespace evolora
