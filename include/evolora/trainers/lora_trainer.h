#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/adapters/lora_adapter.h"
#include "evolora/core/clock.h"
#include "evolora/core/file_system.h"
#include "evolora/trainers/data_lint.h"
#include "evolora/trainers/process_group.h"
#include "evolora/trainers/recipe.h"
#include "evolora/trainers/training_data.h"

namespace evolora {

struct LlamaWeights;

struct TrainingJob {
  std::shared_ptr<const LlamaWeights> base;
  std::string base_name;                 // written into the adapter
  std::string base_weights_fingerprint;  // a checkpoint of another base is refused
  std::vector<TrainingRow> rows;
  LoraRecipe recipe;
  std::vector<TokenId> end_ids;  // EndOfTurnIds of the base; empty = not known
  // Start from here instead of from recipe.init_lora_weights, which then has to be kKaiming.
  std::optional<LoraAdapter> init;
};

// One optimiser step, after it was taken.
struct StepReport {
  int64_t step = 0;  // from 1
  int64_t total_steps = 0;
  double loss = 0;       // mean of the objective over the step (objective.h), before the update
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  int64_t tokens = 0;  // tokens of the step's rows, padding not counted
  int64_t labelled_tokens = 0;
  double seconds = 0;   // wall time of the step
  int64_t unix_ms = 0;  // when the step ended
  // What else the objective says of the step, before the update; means over its rows, of several
  // processes over those of rank 0:
  //   dpo     reward_chosen, reward_rejected: beta (log p - log ref); reward_margin, between them;
  //           reward_accuracy, the share of pairs with a positive margin
  //   policy  means over labels: policy_ratio, p / old; policy_clipped, the share at the clip;
  //           policy_kl_old, the estimate 1 / ratio - 1 + log ratio of KL(old || p)
  std::map<std::string, double> figures;
};

struct TrainOptions {
  std::string device = "cpu";  // or "cuda", "cuda:N"; no part of a checkpoint's identity
  // On CUDA: pads micro-batches to few shapes and replays what comes again as CUDA graphs. The same
  // numbers up to the order of fp32 sums; no part of a checkpoint's identity.
  bool device_graphs = true;
  std::string work_dir;  // holds the checkpoint; created if missing; "" = no checkpoints
  bool resume = false;   // go on from the checkpoint in work_dir if there is one
  // Where the curves go (files: trainers/metrics_files.h), one run per folder; "" = nowhere.
  // Written with each checkpoint and at the end, also of a run whose loss became non-finite.
  std::string metrics_dir;
  std::function<void(const StepReport&)> on_step;  // may be empty; called on the training thread
  // The processes that train this adapter together; not owned. Every rank gives the same job and
  // work_dir (on a common file system) and computes its share of each step's rows; rank 0 alone
  // writes. Null: one process.
  ProcessGroup* group = nullptr;
};

struct TrainedAdapter {
  LoraAdapter adapter;
  std::vector<StepReport> history;  // every step, those before a resume included
  double total_flops = 0;  // of every step, counted from shapes; frozen passes before them not
};

// Optimiser steps of a whole run: epochs x ceil(rows of an epoch / rows_per_step), cut by
// max_steps.
int64_t TotalSteps(const LoraRecipe& recipe, int64_t num_rows, int64_t num_replay_rows);

// What TrainLora holds `job.rows` against: recipe.max_row_tokens, the base's context and
// vocabulary, end_ids where recipe.require_end_of_turn. With recipe.max_cut_share above 0, lint and
// cut (CutLongRows) by these limits before TrainLora, which takes no longer row.
LintLimits LimitsOf(const TrainingJob& job);

// Whether this build on this machine can train on `device`, a name as in TrainOptions; to ask
// before a base is loaded. InvalidArgument: no such name. FailedPrecondition: a build without CUDA,
// no device, or not that many.
absl::Status CheckTrainingDevice(absl::string_view device);

// What this CPU multiplies bf16 numbers with, probed as the program runs: "amx", "avx512_bf16" or
// "emulation": fp32 units and rounding, the same conventions and slower than fp32.
absl::string_view Bf16Units();

// Trains one LoRA adapter for recipe.objective: gradients by recipe.path, AdamW.
//
// Loss:     the objective's mean over the whole optimiser step, however the step is cut into
//           micro-batches; of "sft" the sum of cross entropies over its labelled tokens divided by
//           their number.
// Init:     recipe.init_lora_weights; kKaiming is kaiming_uniform with a = sqrt 5, as in PEFT.
// Exact:    same job, threads, ranks and machine give the same bytes, with or without
//           interruption; another number of ranks the same losses up to the order of fp32 sums.
// Writes:   only `work_dir`/checkpoint.h5 and the files of `metrics_dir`, through `fs` (temp file,
//           fsync, rename). Resumed or not, the metrics hold every step once.
// Device:   options.device. On CUDA recipe.path kFast means kDevice; kReference runs on the CPU
//           only. What precisions mean on each path: recipe.h.
// Errors:   InvalidArgument    bad recipe, rows that fail LintTrainingRows, a target that matches
//                              nothing, `init` that does not fit, a row without what the
//                              objective needs
//           FailedPrecondition the checkpoint or the metrics belong to another job; no such device,
//                              or a build without CUDA
//           ResourceExhausted  out of memory (the device's too) or disk; work_dir stays resumable
//           Aborted            the loss became non-finite; names step and loss
//           Unavailable        another rank of options.group is lost; the checkpoint holds the last
//                              finished step
//           Cancelled          `stop` was requested; the checkpoint holds the last finished step
// Threads:  one call per process at a time.
absl::StatusOr<TrainedAdapter> TrainLora(const TrainingJob& job, const TrainOptions& options,
                                         FileSystem& fs, const Clock& clock, std::stop_token stop);

}  // namespace evolora
