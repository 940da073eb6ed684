#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/device_path.h"
#include "evolora/trainers/lora_trainer.h"
#include "trainers/gradient_case.h"

namespace evolora::testing {

// Loss and gradient of all rows of a case on the device path.
Gradient DeviceGradient(const Case& c, const DevicePathOptions& options);
Gradient ReferenceGradient(const Case& c);

// Architectures and adapters, few of each, for what a recipe changes in all of them.
std::vector<Case> FewCases();
// dpo, distill (of the whole vocabulary and of some ids) and policy (grpo, cispo), with rows that
// begin alike and with one of a single label.
std::vector<Case> ObjectiveCases();

// Records by keeping the work: a replay does it again, with what it was recorded with.
class FakeRecorder : public GraphRecorder {
 public:
  std::unique_ptr<RecordedGraph> Record(const std::function<void()>& body) override;
  int64_t recorded = 0;
  int64_t replayed = 0;
  int64_t alive = 0;
};

// A path over several optimiser steps, as a trainer makes it: other rows, factors, steps and values
// of the adapter each time.
struct Steps {
  std::vector<double> losses;
  std::vector<at::Tensor> gradients;  // on the CPU
};
Steps StepsOf(const Case& c, const DevicePathOptions& options);
// Rows whose micro-batches have one shape, once padded, and differ in everything else.
Case RepeatingCase(bool dora);

// A run of nine steps with clipping, weight decay and LoRA+.
TrainingJob DeviceJob();

// "" or what differs: loss or gradient norm of a step by more than `tolerance`, relative.
std::string Difference(const TrainedAdapter& actual, const TrainedAdapter& expected,
                       double tolerance);

}  // namespace evolora::testing
