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
  SweepOptions sweep;  // rungs, keep and limits
};

// Trains every combination of the axes, stops the weak ones early, writes the best adapter to OUT
// and prints a table of all. The work folder OUT.work holds sweep.json and a folder for each trial
// with its checkpoint and metrics.
absl::Status TrainSweep(const GlobalOptions& global, const SweepCommand& command);

}  // namespace evolora::cli
