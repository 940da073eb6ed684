#pragma once

#include <string>

#include "absl/status/status.h"
#include "evolora/trainers/resident_trainer.h"
#include "options.h"

namespace evolora::cli {

struct JobListOptions {
  std::string base;
  // JSON lines, one job each: {"data", "recipe", "out", "init", "protect", "metrics"}, the last
  // three optional: paths as the options of `train` of these names.
  std::string path;
  // Adapters that are complete are left as they are, the others go on from their checkpoints.
  bool resume = false;
  ResidentLimits limits;
  std::string device = "cpu";  // these two as in TrainOptions
  bool device_graphs = true;
  bool dry_run = false;
  double gflops = 0;  // of a dry run; 0 = measured
};

// Trains all jobs of the list over one base in memory, together where they fit, in the list's
// order. A job that fails is told on stderr and ends alone. Prints each step with its job's `out`.
// Errors: InvalidArgument the list; Aborted names how many jobs failed; Cancelled.
// With dry_run nothing is trained or written: shows each job's share and what all take together.
absl::Status TrainJobs(const GlobalOptions& global, const JobListOptions& options);

}  // namespace evolora::cli
