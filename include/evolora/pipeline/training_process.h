#pragma once

#include <functional>
#include <string>

#include "evolora/pipeline/home.h"
#include "evolora/pipeline/run.h"

namespace evolora {

// One step of a training child, as it reports it.
struct TrainingProgress {
  int64_t step = 0;
  int64_t total_steps = 0;
  double loss = 0;
  double tokens_per_second = 0;
};

struct TrainingProcessOptions {
  std::string executable;      // the evolora command line program
  std::string base_name;       // base of the home, passed as --base
  int num_threads = 0;         // passed as --threads; 0 = the program's default
  std::string device = "cpu";  // passed as --device
  std::function<void(const TrainingProgress&)> on_progress;  // may be empty
};

// A TrainingRunner that runs `evolora train` as a child process in <home>/work/jobs/<digest>/:
//
//   data.jsonl, protected.jsonl, recipe.json   the request
//   adapter/                                   the PEFT folder, complete or absent
//   adapter.work/                              checkpoint.h5, summary.json (cli train)
//   train.log                                  what the child wrote to stderr
//
// A finished job is not run again; an unfinished one resumes from its checkpoint. The child dies
// with its parent. `home` must outlive the runner.
//
// Errors: Cancelled   `stop` was requested (the child is told to stop and keeps a checkpoint)
//         Aborted     the child failed: exit code or signal, and its last line
TrainingRunner MakeTrainingProcessRunner(Home& home, TrainingProcessOptions options);

}  // namespace evolora
