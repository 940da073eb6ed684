#include "train_dry_run.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/clock.h"
#include "evolora/core/status_macros.h"
#include "evolora/trainers/run_forecast.h"
#include "output.h"

namespace evolora::cli {
namespace {

// How long the products of a run take at a rate.
struct TimeEstimate {
  double gflops = 0;
  double seconds = 0;
  std::string basis;
};

TimeEstimate EstimateTime(const TrainingJob& job, double computed_flops, double gflops) {
  const bool stated = gflops > 0;
  TimeEstimate estimate{.gflops = stated ? gflops : MeasureGflops(job, SystemClock())};
  if (estimate.gflops > 0) estimate.seconds = computed_flops / (estimate.gflops * 1e9);
  estimate.basis = absl::StrFormat(
      "%.3g FLOPs of the tokens computed at %.1f GFLOP/s (%s); loading, attention's and the "
      "element-wise loops' own slower rates, and other programs on the machine come on top",
      computed_flops, estimate.gflops,
      stated ? "as stated by --gflops" : "one layer's product on the CPU, measured now");
  return estimate;
}

Json MemoryJson(const MemoryForecast& m) {
  return Json{{"weights", m.weights},      {"packed", m.packed}, {"arena", m.arena},
              {"optimiser", m.optimiser},  {"rows", m.rows},     {"total", m.total()},
              {"checkpoint", m.checkpoint}};
}

Json DeviceMemoryJson(const DeviceMemoryForecast& m) {
  return Json{{"base", m.base},       {"adapter", m.adapter},
              {"moments", m.moments}, {"activations", m.activations},
              {"graphs", m.graphs},   {"total", m.total()}};
}

Json ForecastJson(const RunForecast& f, const TimeEstimate& time,
                  const std::vector<std::string>& warnings) {
  Json json = Json{{"dry_run", true},
                   {"rows", f.num_rows},
                   {"replay_rows", f.num_replay_rows},
                   {"data_tokens", f.data_tokens},
                   {"data_labelled_tokens", f.data_labelled_tokens},
                   {"trainable_parameters", f.trainable_parameters},
                   {"steps", f.total_steps},
                   {"tokens", f.tokens},
                   {"labelled_tokens", f.labelled_tokens},
                   {"micro_batches", f.num_micro_batches},
                   {"computed_tokens", f.computed_tokens},
                   {"padded_tokens", f.padded_tokens},
                   {"padding_share", f.padding_share()},
                   {"shared_prefix_tokens", f.shared_prefix_tokens()},
                   {"tail_tokens", f.tail_tokens},
                   {"flops", f.flops},
                   {"computed_flops", f.computed_flops},
                   {"memory_bytes", MemoryJson(f.memory)},
                   {"memory_basis", f.memory_basis},
                   {"gflops", time.gflops},
                   {"seconds", time.seconds},
                   {"seconds_basis", time.basis},
                   {"warnings", warnings}};
  if (f.device_memory) json["device_memory_bytes"] = DeviceMemoryJson(*f.device_memory);
  return json;
}

std::string Mebibytes(int64_t bytes) {
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

void AddMemory(const MemoryForecast& m, Table& table) {
  table.Add({"peak memory", Mebibytes(m.total())});
  table.Add({"  base weights", Mebibytes(m.weights)});
  table.Add({"  packed adapters", Mebibytes(m.packed)});
  table.Add({"  activations", Mebibytes(m.arena)});
  table.Add({"  trained and moments", Mebibytes(m.optimiser)});
  table.Add({"  writing a checkpoint", Mebibytes(m.checkpoint)});
  table.Add({"  rows", Mebibytes(m.rows)});
}

void AddDeviceMemory(const DeviceMemoryForecast& m, Table& table) {
  table.Add({"peak memory of the device", Mebibytes(m.total())});
  table.Add({"  base", Mebibytes(m.base)});
  table.Add({"  adapter and gradients", Mebibytes(m.adapter)});
  table.Add({"  moments", Mebibytes(m.moments)});
  table.Add({"  activations of the largest micro-batch", Mebibytes(m.activations)});
  table.Add({"  pool of the graphs", Mebibytes(m.graphs)});
}

std::string ForecastText(const RunForecast& f, const TimeEstimate& time) {
  Table table({"dry run: nothing was trained or written", ""});
  const auto add = [&](const char* what, const std::string& value) { table.Add({what, value}); };
  const auto count = [](int64_t n) { return absl::StrCat(n); };
  add("rows", absl::StrCat(f.num_rows, ", ", f.num_replay_rows, " of them replay"));
  add("tokens of the data", absl::StrCat(f.data_tokens, ", ", f.data_labelled_tokens, " labelled"));
  add("trainable parameters", count(f.trainable_parameters));
  add("optimiser steps", count(f.total_steps));
  add("tokens of all steps", absl::StrCat(f.tokens, ", ", f.labelled_tokens, " labelled"));
  add("padding saved", absl::StrCat(Percent(f.padding_share()), " of ", f.padded_tokens,
                                    " tokens in padded batches"));
  add("prefix tokens saved", count(f.shared_prefix_tokens()));
  add("tokens behind the last label saved", count(f.tail_tokens));
  add("tokens computed",
      absl::StrCat(f.computed_tokens, " in ", f.num_micro_batches, " micro-batches"));
  add("FLOPs", absl::StrFormat("%.4g", f.flops));
  AddMemory(f.memory, table);
  if (f.device_memory) AddDeviceMemory(*f.device_memory, table);
  add("time", absl::StrFormat("%.1f s", time.seconds));
  return absl::StrCat(table.ToText(), "memory: ", f.memory_basis, "\ntime: ", time.basis, "\n");
}

}  // namespace

absl::Status ShowDryRun(const GlobalOptions& global, const TrainingJob& job,
                        const ForecastOptions& options, const std::vector<std::string>& warnings,
                        double gflops) {
  ASSIGN_OR_RETURN(const RunForecast forecast, ForecastRun(job, options));
  const TimeEstimate time = EstimateTime(job, forecast.computed_flops, gflops);
  if (global.json) {
    PrintJson(ForecastJson(forecast, time, warnings));
  } else {
    std::printf("%s", ForecastText(forecast, time).c_str());
  }
  return absl::OkStatus();
}

void ShowSetDryRun(const GlobalOptions& global, const TrainingJob& any, const SetForecast& f,
                   bool upper_bound, double gflops) {
  const TimeEstimate time = EstimateTime(any, f.computed_flops, gflops);
  if (global.json) {
    Json json{{"dry_run", true},
              {"jobs", f.num_jobs},
              {"most_at_once", f.most_at_once},
              {"steps", f.steps},
              {"tokens", f.tokens},
              {"labelled_tokens", f.labelled_tokens},
              {"computed_tokens", f.computed_tokens},
              {"trainable_parameters", f.trainable_parameters},
              {"computed_flops", f.computed_flops},
              {"memory_bytes", MemoryJson(f.memory)},
              {"memory_basis", f.memory_basis},
              {"upper_bound", upper_bound},
              {"gflops", time.gflops},
              {"seconds", time.seconds},
              {"seconds_basis", time.basis}};
    if (f.device_memory) json["device_memory_bytes"] = DeviceMemoryJson(*f.device_memory);
    return PrintJson(json);
  }
  Table table({upper_bound ? "dry run of all: at most, whichever trials go on"
                           : "dry run of all: nothing was trained or written",
               ""});
  table.Add({upper_bound ? "trials" : "jobs",
             absl::StrCat(f.num_jobs, ", at most ", f.most_at_once, " in one step")});
  table.Add({"steps taken together", absl::StrCat(f.steps)});
  table.Add({"tokens of all steps", absl::StrCat(f.tokens, ", ", f.labelled_tokens, " labelled")});
  table.Add({"computed tokens", absl::StrCat(f.computed_tokens)});
  table.Add({"trained at once", absl::StrCat(f.trainable_parameters, " parameters")});
  AddMemory(f.memory, table);
  if (f.device_memory) AddDeviceMemory(*f.device_memory, table);
  table.Add({"time", absl::StrFormat("%.1f s", time.seconds)});
  std::printf("%smemory: %s\ntime: %s\n", table.ToText().c_str(), f.memory_basis.c_str(),
              time.basis.c_str());
}

}  // namespace evolora::cli
