#include "evolora/trainers/set_forecast.h"

#include <algorithm>
#include <utility>

#include "evolora/core/status_macros.h"
#include "evolora/model/llama_weights.h"
#include "step_cost.h"
#include "sweep_plan.h"

namespace evolora {
namespace {

// Steps [first, end) of a job.
struct JobSteps {
  const RunForecast* run = nullptr;
  int64_t first = 0;
  int64_t end = 0;
};

// Walks through what a resident trainer does with jobs, without doing it.
class SetWalk {
 public:
  explicit SetWalk(const ResidentLimits& limits) : limits_(limits) {}

  // All of the jobs, one list after another.
  void Train(absl::Span<const JobSteps> jobs) {
    size_t next = 0;
    while (true) {
      while (next < jobs.size() && Fits(*jobs[next].run)) {
        if (jobs[next].first < jobs[next].end) active_.push_back(jobs[next]);
        ++next;
      }
      if (active_.empty()) return;
      LookAtMemory();
      TakeSteps();
    }
  }

  SetForecast out;

 private:
  bool Fits(const RunForecast& job) const {
    if (active_.empty()) return true;
    if (job.device_memory || active_.front().run->device_memory) return false;
    int64_t tokens = job.mean_step_tokens;
    for (const JobSteps& other : active_) tokens += other.run->mean_step_tokens;
    return static_cast<int64_t>(active_.size()) < limits_.max_adapters &&
           tokens <= limits_.tokens_per_step;
  }

  // Steps of all jobs at work until the first of them ends.
  void TakeSteps() {
    int64_t count = active_.front().end - active_.front().first;
    for (const JobSteps& job : active_) count = std::min(count, job.end - job.first);
    out.steps += count;
    for (JobSteps& job : active_) {
      for (int64_t i = 0; i < count; ++i) {
        const RunForecast::Step& step = job.run->steps[static_cast<size_t>(job.first++)];
        out.tokens += step.tokens;
        out.labelled_tokens += step.labelled_tokens;
        out.computed_tokens += step.computed_tokens;
        out.computed_flops += step.computed_flops;
      }
    }
    std::erase_if(active_, [](const JobSteps& job) { return job.first == job.end; });
  }

  void LookAtMemory() {
    MemoryForecast now;
    int64_t parameters = 0;
    for (const JobSteps& job : active_) {
      const MemoryForecast& own = job.run->memory;
      now.weights = own.weights;
      now.packed += own.packed;
      now.optimiser += own.optimiser;
      now.checkpoint = std::max(now.checkpoint, own.checkpoint);
      now.rows += own.rows;
      parameters += job.run->trainable_parameters;
      LookAtDevice(job.run->device_memory);
    }
    now.arena = Arena();
    out.most_at_once = std::max(out.most_at_once, static_cast<int64_t>(active_.size()));
    out.trainable_parameters = std::max(out.trainable_parameters, parameters);
    if (now.total() > out.memory.total()) out.memory = now;
  }

  void LookAtDevice(const std::optional<DeviceMemoryForecast>& own) {
    const bool is_most = own && (!out.device_memory || own->total() > out.device_memory->total());
    if (is_most) out.device_memory = own;
  }

  // Of passes that jobs share no more than the most demanding one's buffers for as many tokens as a
  // pass may have: each buffer grows no faster than the tokens. Jobs apart have their own.
  int64_t Arena() const {
    int64_t together = 0, apart = 0;
    double most = 0;
    for (const JobSteps& job : active_) {
      if (!job.run->runs_apart) together += job.run->micro_batch_tokens;
    }
    for (const JobSteps& job : active_) {
      const auto arena = static_cast<double>(job.run->memory.arena);
      if (job.run->runs_apart) {
        apart += job.run->memory.arena;
        continue;
      }
      const int64_t own = std::max<int64_t>(1, job.run->micro_batch_tokens);
      const int64_t pass = std::max(own, std::min(limits_.tokens_per_pass, together));
      most = std::max(most, arena * static_cast<double>(pass) / static_cast<double>(own));
    }
    return static_cast<int64_t>(most) + apart;
  }

  const ResidentLimits limits_;
  std::vector<JobSteps> active_;
};

// The `count` jobs with the most FLOPs, in the list's order.
void KeepDearest(int64_t count, std::vector<JobSteps>& jobs) {
  std::vector<JobSteps> sorted = jobs;
  std::stable_sort(sorted.begin(), sorted.end(), [](const JobSteps& a, const JobSteps& b) {
    return a.run->computed_flops > b.run->computed_flops;
  });
  sorted.resize(static_cast<size_t>(count));
  std::erase_if(jobs, [&](const JobSteps& job) {
    return std::none_of(sorted.begin(), sorted.end(),
                        [&](const JobSteps& kept) { return kept.run == job.run; });
  });
}

void SayBasis(SetForecast& forecast) {
  forecast.memory_basis =
      "the base once, and of the jobs at work at the same time the most; counted from shapes, of "
      "activations an upper bound; the program and its libraries come on top";
  if (!forecast.device_memory) return;
  forecast.memory_basis +=
      "; on the device jobs work one after the other, and the driver's context, the libraries' "
      "workspaces and gaps between tensors come on top";
}

// One forward pass, as half of a step without the adapter's own products.
double ForwardFlops(const TrainingJob& job, absl::Span<const TrainingRow> rows) {
  std::vector<int64_t> all;
  for (size_t i = 0; i < rows.size(); ++i) all.push_back(static_cast<int64_t>(i));
  LoraRecipe recipe = job.recipe;
  recipe.rows_per_step = std::max<int64_t>(1, static_cast<int64_t>(rows.size()));
  return StepFlops(job.base->config, recipe, SizeOfStep(rows, all)) / 2;
}

}  // namespace

SetForecast ForecastJobs(absl::Span<const RunForecast> jobs, const ResidentLimits& limits) {
  SetWalk walk(limits);
  std::vector<JobSteps> list;
  for (const RunForecast& job : jobs) list.push_back({&job, 0, job.total_steps});
  walk.Train(list);
  walk.out.num_jobs = static_cast<int64_t>(jobs.size());
  SayBasis(walk.out);
  return walk.out;
}

absl::StatusOr<SetForecast> ForecastSweep(const std::vector<SweepTrial>& trials,
                                          const SweepOptions& options) {
  RETURN_IF_ERROR(CheckSweep(trials, options));
  std::vector<RunForecast> runs;
  int64_t rows = 0;
  for (const SweepTrial& trial : trials) {
    absl::StatusOr<RunForecast> run =
        ForecastRun(trial.job, {.device = options.device, .device_graphs = options.device_graphs});
    if (!run.ok()) return Annotate(run.status(), absl::StrCat("trial ", trial.name));
    rows += run->memory.rows;
    runs.push_back(*std::move(run));
  }
  SetWalk walk(options.limits);
  std::vector<JobSteps> alive;
  for (const RunForecast& run : runs) alive.push_back({.run = &run});
  for (int64_t rung = 0; rung < options.num_rungs; ++rung) {
    for (JobSteps& job : alive) {
      job.first = job.end;
      job.end = StepsAtRung(job.run->total_steps, options, rung);
    }
    walk.Train(alive);
    walk.out.computed_flops +=
        static_cast<double>(alive.size()) * ForwardFlops(trials.front().job, options.held_out);
    KeepDearest(NumSurvivors(static_cast<int64_t>(alive.size()), options), alive);
  }
  walk.out.num_jobs = static_cast<int64_t>(trials.size());
  walk.out.memory.rows = rows;  // all trials keep theirs
  SayBasis(walk.out);
  return walk.out;
}

}  // namespace evolora
