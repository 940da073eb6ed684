#include "trainers/device_cases.h"

#include <cmath>
#include <numeric>
#include <utility>

#include "ATen/ATen.h"
#include "absl/strings/str_cat.h"
#include "device/device_stream.h"
#include "support/status_matchers.h"

namespace evolora::testing {

Gradient ReferenceGradient(const Case& c) { return Compute(c, MakeReferencePath); }

Gradient DeviceGradient(const Case& c, const DevicePathOptions& options) {
  const auto make = [&](const GradientPathInputs& inputs) {
    return MakeDevicePath(inputs, options);
  };
  const DeviceStream stream(options.device);
  return Compute(c, make, /*factor=*/0.1, options.device);
}

std::vector<Case> FewCases() {
  std::vector<Case> cases = ArchitectureCases();
  std::vector<Case> adapters = AdapterCases();
  for (const size_t i : {1, 5, 8, 12, 14}) cases.push_back(adapters[i]);
  return cases;
}

namespace {

TrainingRow WithCounterpart(TrainingRow row, TrainingRow other) {
  row.counterpart = {std::move(other.ids), std::move(other.labels)};
  return row;
}

// Labelled as `row` at its end, after a hint.
TrainingRow WithTeacher(const TrainingRow& row, const std::vector<TokenId>& hint) {
  TrainingRow teacher{.ids = hint, .labels = std::vector<TokenId>(hint.size(), kIgnoreLabel)};
  teacher.ids.insert(teacher.ids.end(), row.ids.begin(), row.ids.end());
  teacher.labels.insert(teacher.labels.end(), row.labels.begin(), row.labels.end());
  teacher.labels[hint.size()] = kIgnoreLabel;
  return WithCounterpart(row, teacher);
}

Case ObjectiveCase(std::string name, const ObjectiveSettings& settings) {
  return MakeCase(std::move(name), [&](Case& c) {
    c.recipe.objective = settings;
    const std::vector<TokenId> prompt = RandomIds(c.config, 10, 1);
    for (uint64_t i = 0; i < 4; ++i) {
      TrainingRow row = RandomRow(c.config, 14 + static_cast<int64_t>(5 * i), 30 + i, prompt);
      if (settings.kind == ObjectiveKind::kDpo) {
        row = WithCounterpart(row, RandomRow(c.config, 12, 50 + i, prompt));
      } else if (settings.kind == ObjectiveKind::kDistill) {
        row = WithTeacher(row, RandomIds(c.config, 3 + static_cast<int64_t>(i), 70 + i));
      } else {
        row.sample.advantage = 1.5 - static_cast<double>(i);
        if (i % 2 == 0) {
          row.sample.old_log_probs.assign(static_cast<size_t>(NumTargets(row.labels)), -3.5f);
        }
      }
      c.rows.push_back(row);
    }
  });
}

}  // namespace

std::vector<Case> ObjectiveCases() {
  std::vector<Case> cases;
  cases.push_back(ObjectiveCase("dpo", {.kind = ObjectiveKind::kDpo, .dpo_label_smoothing = 0.1}));
  for (const int64_t top_k : {0, 6}) {
    cases.push_back(ObjectiveCase(
        absl::StrCat("distill, top ", top_k),
        {.kind = ObjectiveKind::kDistill, .distill_top_k = top_k, .distill_temperature = 1.5}));
  }
  for (const PolicyLoss loss : {PolicyLoss::kGrpo, PolicyLoss::kCispo}) {
    cases.push_back(ObjectiveCase(loss == PolicyLoss::kGrpo ? "grpo" : "cispo",
                                  {.kind = ObjectiveKind::kPolicy,
                                   .reference = FrozenModel::kInit,
                                   .policy_loss = loss,
                                   .policy_mean = PolicyMean::kSequences,
                                   .policy_kl_beta = 0.1}));
  }
  return cases;
}

namespace {

class FakeGraph : public RecordedGraph {
 public:
  FakeGraph(FakeRecorder& recorder, std::function<void()> body)
      : recorder_(recorder), body_(std::move(body)) {
    ++recorder_.alive;
  }
  ~FakeGraph() override { --recorder_.alive; }
  void Replay() override {
    ++recorder_.replayed;
    body_();
  }

 private:
  FakeRecorder& recorder_;
  const std::function<void()> body_;
};

}  // namespace

std::unique_ptr<RecordedGraph> FakeRecorder::Record(const std::function<void()>& body) {
  ++recorded;
  return std::make_unique<FakeGraph>(*this, body);
}

Steps StepsOf(const Case& c, const DevicePathOptions& options) {
  const std::shared_ptr<const LlamaWeights> base = RandomWeights(c.config, 3);
  absl::StatusOr<AdapterParameters> parameters =
      AdapterParameters::Create(*base, c.recipe, /*init=*/nullptr);
  EXPECT_THAT(parameters, IsOk());
  const DeviceStream stream(options.device);
  parameters->MoveTo(options.device);
  const absl::StatusOr<std::unique_ptr<Loss>> loss = MakeLoss(c.recipe.objective, c.rows);
  EXPECT_THAT(loss, IsOk());
  const std::unique_ptr<GradientPath> path = MakeDevicePath({.base = base.get(),
                                                             .lora = &parameters->lora(),
                                                             .recipe = &c.recipe,
                                                             .rows = c.rows,
                                                             .loss = loss->get()},
                                                            options);
  std::vector<int64_t> all(c.rows.size());
  std::iota(all.begin(), all.end(), 0);
  EXPECT_THAT((*loss)->Prepare(*path->frozen_pass(), all, {}), IsOk());
  Steps run;
  for (int64_t step = 0; step < 6; ++step) {
    path->set_step(step);
    parameters->gradient.zero_();
    parameters->value.add_(0.01);
    std::vector<int64_t> rows = {step % 3, 3, 2 - step % 3};
    if (c.rows.size() > 4) rows.push_back(4);
    EXPECT_THAT(path->EnqueueGradient(rows, 0.1 + 0.1 * static_cast<double>(step)), IsOk());
    run.losses.push_back(path->LossSum().value());
    run.gradients.push_back(parameters->gradient.cpu().clone());
  }
  return run;
}

Case RepeatingCase(bool dora) {
  return MakeCase("repeating", [&](Case& c) {
    for (const uint64_t i : {0, 1, 2, 3, 4}) {
      c.rows.push_back(RandomRow(c.config, 18 + static_cast<int64_t>(i % 3), i));
      c.rows.back().labels = c.rows.back().ids;
    }
    c.recipe.use_dora = dora;
    c.recipe.lora_dropout = dora ? 0 : 0.3;
  });
}

TrainingJob DeviceJob() {
  const Case c = MakeCase("job", [](Case& change) { change.config.qk_norm = true; });
  TrainingJob job{.base = RandomWeights(c.config, 7),
                  .base_name = "tiny",
                  .base_weights_fingerprint = "tiny-7",
                  .rows = c.rows,
                  .recipe = c.recipe};
  job.recipe.learning_rate = 1e-2;
  job.recipe.lora_plus_ratio = 4;
  job.recipe.weight_decay = 0.1;
  job.recipe.max_grad_norm = 0.5;
  job.recipe.rows_per_step = 2;
  job.recipe.checkpoint_every_steps = 2;
  return job;
}

std::string Difference(const TrainedAdapter& actual, const TrainedAdapter& expected,
                       double tolerance) {
  if (actual.history.size() != expected.history.size()) return "number of steps";
  for (size_t i = 0; i < actual.history.size(); ++i) {
    const StepReport &mine = actual.history[i], &theirs = expected.history[i];
    const bool near =
        std::abs(mine.loss - theirs.loss) <= tolerance * theirs.loss &&
        std::abs(mine.grad_norm - theirs.grad_norm) <= 10 * tolerance * theirs.grad_norm;
    if (near) continue;
    return absl::StrCat("step ", i + 1, ": loss ", mine.loss, " and norm ", mine.grad_norm,
                        " instead of ", theirs.loss, " and ", theirs.grad_norm);
  }
  return "";
}

}  // namespace evolora::testing
