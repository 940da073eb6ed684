#pragma once

#include <memory>
#include <string>
#include <vector>

#include "evolora/core/case.h"
#include "evolora/pipeline/run.h"
#include "support/fake_clock.h"
#include "support/fake_model.h"
#include "support/temp_dir.h"

namespace evolora::testing {

// A small world for runs without a real model: facts that a knowledge entry fixes, tool calls that
// only an adapter fixes, a rule that a skill fixes, and planted faults.
class RunWorld {
 public:
  RunWorld();

  // The stream text (data/SCHEMA.md): 20 facts, 40 tool calls, 6 persona questions, 2 faults; query
  // and anchor cases beside them; `test` cases.
  static std::string StreamText();

  // A fresh model that behaves as the world says; `adapter_helps`: whether any adapter makes tool
  // calls right (false: it makes them wrong and spoils general answers).
  std::unique_ptr<FakeModel> MakeModel(bool adapter_helps = true) const;

  RunOptions Options(uint64_t seed) const;
  // Tools over `home` and `model`; training returns a fixed adapter whose content depends on the data.
  RunTools Tools(Home& home, FakeModel& model);

  int num_trainings = 0;
  std::vector<TrainingRequest> training_requests;
  // The next training attempts fail with this status, `num_crashes` times.
  int num_crashes = 0;
};

}  // namespace evolora::testing
