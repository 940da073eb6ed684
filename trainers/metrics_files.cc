#include "metrics_files.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/array_file.h"
#include "tensorboard_events.h"

namespace evolora {
namespace {

constexpr char kFormat[] = "evolora-training-metrics";
constexpr char kEventPrefix[] = "events.out.tfevents.";
constexpr char kEventSuffix[] = ".evolora";

double TokensPerSecond(const StepReport& step) {
  return step.seconds > 0 ? static_cast<double>(step.tokens) / step.seconds : 0;
}

struct RealCurve {
  const char* tag;  // the array's name behind "train/"
  double (*value)(const StepReport&);
};
constexpr RealCurve kRealCurves[] = {
    {"train/loss", [](const StepReport& s) { return s.loss; }},
    {"train/grad_norm", [](const StepReport& s) { return s.grad_norm; }},
    {"train/learning_rate", [](const StepReport& s) { return s.learning_rate; }},
    {"train/seconds", [](const StepReport& s) { return s.seconds; }},
    {"train/tokens_per_second", TokensPerSecond},
};

struct CountCurve {
  const char* tag;
  int64_t (*value)(const StepReport&);
};
constexpr CountCurve kCountCurves[] = {
    {"train/tokens", [](const StepReport& s) { return s.tokens; }},
    {"train/labelled_tokens", [](const StepReport& s) { return s.labelled_tokens; }},
};

// Names of what the objective says of a step beside the curves above; equal at every step.
std::vector<std::string> FigureNames(absl::Span<const StepReport> history) {
  std::vector<std::string> names;
  for (const auto& [name, value] : history.front().figures) names.push_back(name);
  return names;
}

// NaN where a step lacks it.
double Figure(const StepReport& step, const std::string& name) {
  const auto found = step.figures.find(name);
  return found == step.figures.end() ? std::nan("") : found->second;
}

std::string ArrayName(const char* tag) { return std::string(tag).substr(sizeof("train/") - 1); }

template <typename T, typename Value>
Array Column(absl::Span<const StepReport> history, const Value& value) {
  std::vector<T> values;
  for (const StepReport& step : history) values.push_back(value(step));
  return {std::move(values), {static_cast<int64_t>(history.size())}};
}

ArrayFile MetricsArrays(absl::Span<const StepReport> history, const std::string& job_digest) {
  ArrayFile file;
  for (const RealCurve& curve : kRealCurves) {
    file.arrays[ArrayName(curve.tag)] = Column<double>(history, curve.value);
  }
  for (const CountCurve& curve : kCountCurves) {
    file.arrays[ArrayName(curve.tag)] = Column<int64_t>(history, curve.value);
  }
  for (const std::string& name : FigureNames(history)) {
    file.arrays["figures_" + name] =
        Column<double>(history, [&](const StepReport& s) { return Figure(s, name); });
  }
  file.arrays["step"] = Column<int64_t>(history, [](const StepReport& s) { return s.step; });
  file.arrays["unix_ms"] = Column<int64_t>(history, [](const StepReport& s) { return s.unix_ms; });
  file.attributes["format"] = std::string(kFormat);
  file.attributes["version"] = int64_t{1};
  file.attributes["job"] = job_digest;
  file.attributes["total_steps"] = history.back().total_steps;
  return file;
}

std::string EventBytes(absl::Span<const StepReport> steps) {
  const auto seconds = [](const StepReport& s) { return static_cast<double>(s.unix_ms) / 1000; };
  std::string bytes = TensorBoardStart(seconds(steps.front()));
  for (const StepReport& step : steps) {
    std::vector<TensorBoardScalar> scalars;
    for (const RealCurve& curve : kRealCurves) scalars.push_back({curve.tag, curve.value(step)});
    for (const CountCurve& curve : kCountCurves) {
      scalars.push_back({curve.tag, static_cast<double>(curve.value(step))});
    }
    for (const auto& [name, value] : step.figures) scalars.push_back({"train/" + name, value});
    bytes += TensorBoardStep(seconds(step), step.step, scalars);
  }
  return bytes;
}

std::string EventName(int64_t first_step) {
  return absl::StrFormat("%s%010d%s", kEventPrefix, first_step, kEventSuffix);
}

// Exactly the names EventName gives; a folder may hold other programs' event files.
bool IsEventName(absl::string_view name) {
  constexpr size_t kNumDigits = 10;
  if (!absl::ConsumePrefix(&name, kEventPrefix) || !absl::ConsumeSuffix(&name, kEventSuffix)) {
    return false;
  }
  return name.size() == kNumDigits &&
         std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

MetricsFiles::MetricsFiles(FileSystem& fs, std::string folder, std::string job_digest)
    : fs_(fs), folder_(std::move(folder)), job_digest_(std::move(job_digest)) {}

absl::Status MetricsFiles::CheckOwner() const {
  const std::string path = JoinPath(folder_, "metrics.h5");
  if (!fs_.Exists(path)) return absl::OkStatus();
  const absl::StatusOr<ArrayFile> file = ReadArrayFile(fs_, path);
  const bool readable = file.ok() && file->attributes.count("job") != 0;
  if (readable && file->attributes.at("job") == ArrayAttribute(job_digest_)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(path, readable ? " belongs to another job" : " is no metrics file of evolora",
                   ": name another folder for this run's metrics, or remove it"));
}

absl::Status MetricsFiles::RemoveEventFiles() {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, fs_.ListDirectory(folder_));
  for (const std::string& name : names) {
    if (IsEventName(name)) RETURN_IF_ERROR(fs_.RemoveFile(JoinPath(folder_, name)));
  }
  return absl::OkStatus();
}

absl::Status MetricsFiles::Start(absl::Span<const StepReport> history) {
  RETURN_IF_ERROR(fs_.CreateDirectories(folder_));
  RETURN_IF_ERROR(CheckOwner());
  RETURN_IF_ERROR(RemoveEventFiles());
  if (history.empty()) return fs_.RemoveFile(JoinPath(folder_, "metrics.h5"));
  return Write(history);
}

absl::Status MetricsFiles::Write(absl::Span<const StepReport> history) {
  const absl::Span<const StepReport> fresh = history.subspan(num_written_);
  if (fresh.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(
      fs_.WriteFileAtomic(JoinPath(folder_, EventName(fresh.front().step)), EventBytes(fresh)));
  num_written_ = history.size();
  return WriteArrayFile(fs_, JoinPath(folder_, "metrics.h5"), MetricsArrays(history, job_digest_));
}

}  // namespace evolora
