#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "evolora/core/clock.h"
#include "evolora/core/file_system.h"
#include "evolora/trainers/lora_trainer.h"

namespace evolora {

// What is trained at the same time. Limits of memory and latency: no part of any result.
struct ResidentLimits {
  int64_t max_adapters = 32;  // in one step
  // Tokens of a step, over all adapters: a job joins while its own mean step fits beside the
  // others'. The first joins in any case.
  int64_t tokens_per_step = 8192;
  // Tokens that go through the model at once, over all adapters; shared prefixes count once. A
  // larger micro-batch (tokens_per_micro_batch of its recipe) goes alone.
  int64_t tokens_per_pass = 1024;
};

// InvalidArgument names the limit and its value.
absl::Status ValidateLimits(const ResidentLimits& limits);

// Whether a resident trainer over job.base on `device` (as in TrainOptions) takes the job: what
// ResidentTrainer says it refuses, but groups.
absl::Status CheckResident(const TrainingJob& job, absl::string_view device = "cpu");

// One job among many.
struct QueuedJob {
  std::string name;        // its outcome's
  TrainingJob job;         // of the trainer's base
  TrainOptions options;    // its own; the trainer's device, no group. Work folders differ from job
                           // to job.
  int64_t stop_after = 0;  // > 0: leaves after that many steps in all, if not done before, with a
                           // checkpoint (also when done): resumed, it goes on exactly
  std::vector<TrainingRow> held_out;  // their loss is measured when the job leaves; may be empty
};

struct JobOutcome {
  std::string name;
  // The adapter as it left. A failure ends its job alone.
  absl::StatusOr<TrainedAdapter> trained = absl::CancelledError("not started");
  double join_seconds = 0;              // from leaving the queue to a place in the next step
  std::optional<double> held_out_loss;  // mean cross entropy of the labels of QueuedJob::held_out
};

// Trains many LoRA adapters over one base that stays in memory. The jobs at work take
// their optimiser steps together: the frozen products run once over the rows of all of them, each
// adapter's own products over its own rows. Jobs differ in all that a recipe and a data set say,
// and end at different times; a new one joins between two steps.
//
// Exact:    a job's losses, gradients and adapter have the bytes that TrainLora gives it alone,
//           whatever works beside it; only StepReport::seconds tells of the others. No prefix is
//           shared between jobs.
// Device:   jobs on the device path work one after the other, each with the micro-batches and
//           graphs that it has alone, over the base that the first of them brought there.
// Apart:    a job with modules_to_save shares the base's memory and runs passes of its own: its
//           embedding, norms or head are not those of the others.
// Refused:  Unimplemented for what is not shared: recipe.method kFull, path kReference,
//           init_lora_weights kPissa or kOlora (they change the base), a process group.
//           InvalidArgument: another device than the trainer's; base_weights that are not those of
//           the trainer's base, which may be in few bits; a bf16 precision beside fp32 (the first
//           job's holds for all; on the fast path kBf16Autocast and kBf16 go together), or on the
//           fast path with use_dora.
// Cost:     joining: one adapter's start and the digest of its rows; no pass over the
//           base. Adapters with magnitudes (use_dora) run their forward frozen products apart.
// Threads:  one call at a time, on the calling thread, which uses all threads of LibTorch.
class ResidentTrainer {
 public:
  // InvalidArgument: limits; and the errors of CheckTrainingDevice.
  static absl::StatusOr<std::unique_ptr<ResidentTrainer>> Create(
      std::shared_ptr<const LlamaWeights> base, const ResidentLimits& limits,
      const std::string& device = "cpu");
  virtual ~ResidentTrainer() = default;

  // The next job in order; nullopt: none for now. Asked again between steps.
  using NextJob = std::function<std::optional<QueuedJob>()>;
  using TakeOutcome = std::function<void(JobOutcome outcome)>;
  // Works until `next` has no job and all have left; gives each job's outcome as it leaves.
  // Cancelled: `stop` was requested; the jobs at work are Cancelled, each with a checkpoint.
  // ResourceExhausted, Internal: a pass failed, which ends all jobs at work with that status; their
  // last checkpoints stay.
  virtual absl::Status Run(const NextJob& next, const TakeOutcome& take, FileSystem& fs,
                           const Clock& clock, std::stop_token stop) = 0;

  // The same for a list of jobs whose names differ: outcomes in its order.
  std::vector<JobOutcome> RunAll(std::vector<QueuedJob> jobs, FileSystem& fs, const Clock& clock,
                                 std::stop_token stop);
};

}  // namespace evolora
