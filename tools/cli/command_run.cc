// run: the main job.
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "evolora/core/status_macros.h"
#include "evolora/eval/memo_model.h"
#include "evolora/model/adapter_norm.h"
#include "evolora/pipeline/report.h"
#include "evolora/pipeline/run.h"
#include "evolora/pipeline/shift.h"
#include "evolora/pipeline/training_process.h"
#include "evolora/trainers/lora_trainer.h"
#include "interrupt.h"
#include "model_session.h"
#include "output.h"

namespace evolora::cli {
namespace {

struct RunCommand {
  std::string base;
  std::string stream;
  std::string router = "rules";
  std::string gate = "on";
  uint64_t seed = 0;
  int64_t window = 32;
  int64_t budget = 0;
  std::string device = "cpu";  // of training alone
};

std::string Machine(int threads) {
  std::ifstream info("/proc/cpuinfo");
  std::string line, name = "unknown CPU";
  while (std::getline(info, line)) {
    if (line.rfind("model name", 0) == 0) {
      name = line.substr(line.find(':') + 2);
      break;
    }
  }
  return absl::StrCat(name, ", ", threads, " threads, fp32");
}

std::string OwnExecutable() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  return length > 0 ? std::string(path, static_cast<size_t>(length)) : "evolora";
}

// KL and norm of a candidate's adapters, on the session's model.
ShiftMeter MakeShiftMeter(Home& home, ModelSession& session) {
  return [&home, &session](
             absl::Span<const AdapterSlot> adapters, absl::Span<const GenerateRequest> before,
             absl::Span<const GenerateRequest> after) -> absl::StatusOr<ShiftMeasures> {
    ShiftMeasures shift;
    ASSIGN_OR_RETURN(shift.mean_kl, MeanFirstTokenKl(*session.model, before, after));
    double norm = 0;
    for (const AdapterSlot& slot : adapters) {
      ASSIGN_OR_RETURN(const LoraAdapter adapter, LoadStoredAdapter(home, slot));
      ASSIGN_OR_RETURN(const double relative, MaxRelativeNorm(*session.weights, adapter));
      norm = std::max(norm, relative);
    }
    if (!adapters.empty()) shift.norm_ratio = norm;
    return shift;
  };
}

// What the user sees while the run goes: a live table on stdout, bars on stderr.
class LiveView {
 public:
  explicit LiveView(bool json) : json_(json) {}

  RunObserver Observer() {
    RunObserver observer;
    observer.on_progress = [this](const std::string& phase, int64_t done, int64_t total) {
      bar_.Update(phase, done, total);
    };
    observer.on_decision = [this](const Diagnosis& d, const Decision& decision, int64_t tokens) {
      ShowDecision(d, decision, tokens);
    };
    observer.on_verdict = [this](const std::string& what, const GateVerdict& verdict) {
      ShowVerdict(what, verdict);
    };
    observer.on_training = [this](const TrainingPlan& plan) {
      Line(absl::StrCat("train   ", plan.cluster, ": ", plan.example_case_ids.size(), " examples; ",
                        plan.reason),
           Json{{"event", "training"}, {"plan", TrainingPlanToJson(plan)}});
    };
    observer.on_commit = [this](const VersionRecord& record) {
      Line(absl::StrCat("commit  v", record.seq, " ", record.id.substr(0, 12), " is champion"),
           Json{{"event", "commit"}, {"version", record.id}, {"seq", record.seq}});
    };
    observer.on_note = [this](const std::string& text) {
      Line(absl::StrCat("note    ", text), Json{{"event", "note"}, {"text", text}});
    };
    return observer;
  }

  void ShowTraining(const TrainingProgress& progress) {
    bar_.Update(
        "train", progress.step, progress.total_steps,
        absl::StrFormat("loss %.4f, %.0f tokens/s", progress.loss, progress.tokens_per_second));
  }
  void ShowPhase(const std::string& phase, int64_t done, int64_t total) {
    bar_.Update(phase, done, total);
  }
  void Line(const std::string& text, const Json& json) {
    bar_.Clear();
    if (json_) return PrintJson(json);
    std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  }

 private:
  static std::string Rates(const Diagnosis& diagnosis) {
    std::vector<std::string> parts;
    for (const MeasuredRate& rate : diagnosis.rates) {
      parts.push_back(absl::StrCat(ProbeKindName(rate.kind),
                                   rate.target == ProbeTarget::kSiblings ? "(sib) " : " ",
                                   rate.counts.successes, "/", rate.counts.trials));
    }
    return absl::StrJoin(parts, " ");
  }

  void ShowDecision(const Diagnosis& d, const Decision& decision, int64_t tokens) {
    if (!json_ && !titled_) {
      bar_.Clear();
      std::printf("        %-20s %-13s %-44s %-20s %-16s %s\n", "failure", "cluster", "probe rates",
                  "diagnosis", "decision", "tokens");
      titled_ = true;
    }
    Line(absl::StrFormat("failure %-20s %-13s %-44s %-20s %-16s %d", Shorten(d.case_id, 20),
                         Shorten(d.cluster, 13), Shorten(Rates(d), 44),
                         absl::StrCat(FailureClassName(d.failure_class), d.inherited ? "*" : ""),
                         ActionName(decision.action), tokens),
         Json{{"event", "decision"},
              {"diagnosis", DiagnosisToJson(d)},
              {"decision", DecisionToJson(decision)},
              {"evolve_tokens", tokens}});
  }

  void ShowVerdict(const std::string& what, const GateVerdict& verdict) {
    Line(absl::StrCat("gate    ", what, ": ", GateOutcomeName(verdict.outcome), "; ",
                      verdict.reason),
         Json{{"event", "verdict"}, {"candidate", what}, {"verdict", GateVerdictToJson(verdict)}});
  }

  bool json_;
  bool titled_ = false;
  ProgressBar bar_;
};

absl::StatusOr<RunOptions> OptionsOf(const RunCommand& command, const ModelSession& session,
                                     const GlobalOptions& global) {
  RunOptions options{.base = session.base.Reference(),
                     .model_fingerprint = ModelFingerprint(session, global),
                     .gate = command.gate == "on",
                     .seed = command.seed,
                     .window = command.window,
                     .evolve_token_budget = command.budget};
  ASSIGN_OR_RETURN(options.decisions.router, ParseRouter(command.router));
  options.decisions.seed = command.seed;
  const LlamaConfig& config = session.model->config();
  options.solve.count_flops = [config](int64_t prompt, int64_t generated) {
    return LayerFlopsPerToken(config, (prompt + generated) / 2) *
               static_cast<double>(prompt + generated) +
           HeadFlopsPerRow(config) * static_cast<double>(generated + 1);
  };
  return options;
}

std::string Interval95(const Interval& interval) {
  return absl::StrFormat("%+.1f to %+.1f", 100 * interval.low, 100 * interval.high);
}

void PrintSummary(const FinalComparison& comparison, const RunResult& result) {
  for (const SplitComparison& split : comparison.splits) {
    Table table({split.split, "cases", "before", "after", "won", "lost", "change, points (95 %)"});
    std::vector<PairedSummary> rows = split.clusters;
    rows.push_back(split.total);
    for (const PairedSummary& row : rows) {
      table.Add({row.cluster.empty() ? "all" : row.cluster, absl::StrCat(row.num_cases),
                 absl::StrCat(row.both_right + row.only_champion),
                 absl::StrCat(row.both_right + row.only_candidate),
                 absl::StrCat(row.only_candidate), absl::StrCat(row.only_champion),
                 Interval95(row.difference)});
    }
    std::printf("\n%s", table.ToText().c_str());
  }
  const auto tokens = [](const Compute& c) {
    return c.prompt_tokens + c.generated_tokens + c.trained_tokens;
  };
  std::printf("\nsolve %ld tokens, evolve %ld tokens (%ld of them trained)\n",
              static_cast<long>(tokens(result.solve)), static_cast<long>(tokens(result.evolve)),
              static_cast<long>(result.evolve.trained_tokens));
}

// Wall time of all sessions of a run, this one included; kept as evidence, never decided on.
absl::StatusOr<double> KeepSession(Home& home, const std::string& run_id, double seconds) {
  RETURN_IF_ERROR(home.evidence().Append(EvidenceKind::kCheckpoint, run_id,
                                         absl::StrCat("session/", home.clock().NowUnixMs()),
                                         Json{{"wall_seconds", seconds}}));
  ASSIGN_OR_RETURN(const auto rows, home.evidence().List(EvidenceKind::kCheckpoint, run_id));
  double total = 0;
  for (const StoredEvidence& row : rows) total += row.evidence.value.value("wall_seconds", 0.0);
  return total;
}

// One run from open to report.
class RunJob {
 public:
  RunJob(const GlobalOptions& global, const RunCommand& command)
      : global_(global), command_(command), view_(global.json) {}

  absl::Status Run() {
    const double started = SystemClock().MonotonicSeconds();
    RETURN_IF_ERROR(CheckTrainingDevice(command_.device));
    ASSIGN_OR_RETURN(const Stream stream, LoadStream(PosixFileSystem(), command_.stream));
    ASSIGN_OR_RETURN(home_, OpenHome(global_));
    ASSIGN_OR_RETURN(session_, OpenModel(global_, command_.base, ManyRows()));
    ASSIGN_OR_RETURN(options_, OptionsOf(command_, session_, global_));
    const std::string run_id = RunId(options_, stream);
    Announce(stream, run_id);
    const Interrupt interrupt;
    absl::StatusOr<RunResult> result =
        RunLoop(Tools(), stream, options_, view_.Observer(), interrupt.token());
    const double seconds = SystemClock().MonotonicSeconds() - started;
    ASSIGN_OR_RETURN(const double wall_seconds, KeepSession(*home_, run_id, seconds));
    if (absl::IsCancelled(result.status())) {
      return absl::CancelledError("stopped; the same command goes on from here");
    }
    if (!result.ok()) return result.status();
    return Report(stream, *result, wall_seconds);
  }

 private:
  RunTools Tools() {
    TrainingProcessOptions training{.executable = OwnExecutable(),
                                    .base_name = command_.base,
                                    .num_threads = NumThreads(global_),
                                    .device = command_.device};
    training.on_progress = [this](const TrainingProgress& progress) {
      view_.ShowTraining(progress);
    };
    return {.home = home_.get(),
            .model = session_.model.get(),
            .load_adapter = AdapterLoader(session_),
            .train = MakeTrainingProcessRunner(*home_, std::move(training)),
            .measure_shift = MakeShiftMeter(*home_, session_)};
  }

  void Announce(const Stream& stream, const std::string& run_id) {
    view_.Line(
        absl::StrFormat("run %s: base %s, %d stream, %d query, %d anchor, %d sealed test cases, "
                        "router %s, gate %s, seed %d",
                        run_id, session_.base.name, stream.stream().size(), stream.query().size(),
                        stream.anchor().size(), stream.num_sealed(), command_.router, command_.gate,
                        command_.seed),
        Json{{"event", "start"}, {"run", run_id}, {"seed", command_.seed}});
  }

  absl::Status Report(const Stream& stream, const RunResult& result, double wall_seconds) {
    MemoModel memo(*session_.model, home_->evidence(), options_.model_fingerprint);
    Solver solver(memo, options_.solve);
    ASSIGN_OR_RETURN(const OpenedVersion before,
                     OpenVersion(*home_, result.start_version, AdapterLoader(session_)));
    ASSIGN_OR_RETURN(const OpenedVersion after,
                     OpenVersion(*home_, result.final_version, AdapterLoader(session_)));
    StoreLookRecorder recorder(home_->evidence(), result.run_id);
    ASSIGN_OR_RETURN(const FinalComparison comparison,
                     CompareVersions(solver, before.view, after.view, stream, recorder,
                                     "final report of the run",
                                     [&](const std::string& split, int64_t done, int64_t total) {
                                       view_.ShowPhase(absl::StrCat("report: ", split), done,
                                                       total);
                                     }));
    const ReportContext context{.run_id = result.run_id,
                                .base_name = session_.base.name,
                                .stream_name = command_.stream,
                                .stream_digest = stream.digest(),
                                .router = command_.router,
                                .gate = options_.gate,
                                .seed = command_.seed,
                                .machine = Machine(NumThreads(global_)),
                                .start_version = result.start_version,
                                .final_version = result.final_version,
                                .solve = result.solve,
                                .evolve = result.evolve,
                                .wall_seconds = wall_seconds};
    ASSIGN_OR_RETURN(const Json report, BuildReport(*home_, stream, context, comparison));
    return Write(report, comparison, result);
  }

  absl::Status Write(const Json& report, const FinalComparison& comparison,
                     const RunResult& result) {
    FileSystem& files = home_->files();
    RETURN_IF_ERROR(files.CreateDirectories(home_->ReportDirectory()));
    const std::string stem = JoinPath(home_->ReportDirectory(), result.run_id);
    RETURN_IF_ERROR(files.WriteFileAtomic(stem + ".json", DisplayJson(report)));
    RETURN_IF_ERROR(files.WriteFileAtomic(stem + ".html", RenderReportHtml(report)));
    if (global_.json) {
      PrintJson(Json{{"event", "result"},
                     {"run", result.run_id},
                     {"start", result.start_version},
                     {"final", result.final_version},
                     {"fixed", report["fixed"]},
                     {"splits", report["splits"]},
                     {"cost", report["cost"]},
                     {"report", stem + ".html"}});
      return absl::OkStatus();
    }
    PrintSummary(comparison, result);
    const Json& fixed = report["fixed"];
    std::printf("stream failures fixed: %ld of %ld\nfinal version %s\nreport: %s.html\n",
                static_cast<long>(fixed.value("fixed", int64_t{0})),
                static_cast<long>(fixed.value("failures", int64_t{0})),
                result.final_version.c_str(), stem.c_str());
    return absl::OkStatus();
  }

  const GlobalOptions& global_;
  const RunCommand& command_;
  LiveView view_;
  std::unique_ptr<Home> home_;
  ModelSession session_;
  RunOptions options_;
};

}  // namespace

void AddRunCommand(CLI::App& app, GlobalOptions& global) {
  auto options = std::make_shared<RunCommand>();
  CLI::App* command =
      app.add_subcommand("run", "the whole loop on a stream; goes on where it stopped");
  command->add_option("--base", options->base, "base model of this home")->required();
  command->add_option("--stream", options->stream, "stream file (data/SCHEMA.md)")->required();
  command
      ->add_option("--router", options->router,
                   "rules, always-patch, always-lora, fixed-schedule or random")
      ->capture_default_str();
  command->add_option("--gate", options->gate, "on, or off to commit every candidate unjudged")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "stream order, probe samples, adapter init")
      ->capture_default_str();
  command->add_option("--window", options->window, "episodes between two rounds of judging")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--budget", options->budget, "tokens for evolving (0 = no limit)")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--device", options->device,
                   "where adapters are trained: cpu, cuda or cuda:N; all else runs on the CPU")
      ->capture_default_str();
  command->callback([&global, options] { FinishCommand(RunJob(global, *options).Run()); });
}

}  // namespace evolora::cli
