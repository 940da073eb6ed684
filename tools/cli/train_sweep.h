#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "evolora/trainers/sweep.h"
#include "options.h"
#include "train_job.h"

namespace evolora::cli {

struct SweepCommand {
  std::string base;
  JobFiles files;                 // the recipe is what the axes vary
  std::vector<std::string> axes;  // KEY=VALUE,VALUE..
  std::string held_out;           // JSON lines as the data; empty: a share of the data
  double held_out_share = 0.2;
  bool resume = false;
  bool dry_run = false;
  double gflops = 0;   // of a dry run; 0 = measured
  SweepOptions sweep;  // rungs, keep and limits
};

// Trains every combination of the axes, stops the weak ones early, writes the best adapter to OUT
// and prints a table of all. The work folder OUT.work holds sweep.json and a folder for each trial
// with its checkpoint and metrics.
// With dry_run nothing is trained or written: shows what the sweep takes at most.
absl::Status TrainSweep(const GlobalOptions& global, const SweepCommand& command);

}  // namespace evolora::cli
