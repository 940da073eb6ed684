#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "evolora/core/file_system.h"
#include "evolora/trainers/lora_trainer.h"

namespace evolora {

// The curves of one run as files in one folder, which belongs to that run:
//
//   metrics.h5          every step so far; an array file (evolora/data/array_file.h)
//     step, tokens, labelled_tokens, unix_ms                      int64 [S]
//     loss, grad_norm, learning_rate, seconds, tokens_per_second  double [S]
//     figures_<name>      of StepReport::figures                  double [S]
//     attributes          format "evolora-training-metrics", version 1, job, total_steps
//   events.out.tfevents.<NNNNNNNNNN>.evolora
//                       TensorBoard: the steps from NNNNNNNNNN up to the next such file; tags
//                       train/<name> of the arrays above
//
// Each file is written whole (temp file, fsync, rename) and an event file never changes again. The
// files are made from the history that the checkpoint holds, so that a resumed run has every step
// once: what an interrupted run wrote beyond its checkpoint is written anew. Not thread-safe.
class MetricsFiles {
 public:
  // `fs` outlives the object.
  MetricsFiles(FileSystem& fs, std::string folder, std::string job_digest);

  // Before the first step: the folder holds `history` and nothing else of these files afterwards.
  // FailedPrecondition: its metrics.h5 is of another job, or no metrics file.
  absl::Status Start(absl::Span<const StepReport> history);

  // Adds the steps of `history` that are not written yet: a new event file, metrics.h5 replaced.
  // REQUIRES: `history` begins with what Start and the calls before were given.
  absl::Status Write(absl::Span<const StepReport> history);

 private:
  absl::Status CheckOwner() const;
  absl::Status RemoveEventFiles();

  FileSystem& fs_;
  std::string folder_;
  std::string job_digest_;
  size_t num_written_ = 0;  // steps in the event files
};

}  // namespace evolora
