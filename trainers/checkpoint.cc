#include "checkpoint.h"

#include <algorithm>
#include <utility>

#include "ATen/ops/empty.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/array_file.h"

namespace evolora {
namespace {

// loss, grad_norm, learning_rate, tokens, labelled, seconds, unix_ms
constexpr int64_t kHistoryColumns = 7;
constexpr int64_t kColumnsWithoutTime = 6;  // as the first checkpoints were written
constexpr absl::string_view kFiguresPrefix = "figures_";

std::string CheckpointPath(const std::string& work_dir) {
  return JoinPath(work_dir, "checkpoint.h5");
}

Array FlatArray(const at::Tensor& flat) {
  const at::Tensor values = flat.cpu();
  const float* data = values.const_data_ptr<float>();
  return {std::vector<float>(data, data + values.numel()), {values.numel()}};
}

absl::Status Restore(const ArrayFile& file, const std::string& name, at::Tensor& flat) {
  ASSIGN_OR_RETURN(const absl::Span<const float> values, file.Values<float>(name));
  if (static_cast<int64_t>(values.size()) != flat.numel()) {
    return absl::DataLossError(absl::StrCat("checkpoint: ", name, " has ", values.size(),
                                            " values, the run ", flat.numel()));
  }
  at::Tensor host = at::empty(flat.sizes(), at::kFloat);
  std::copy(values.begin(), values.end(), host.mutable_data_ptr<float>());
  flat.copy_(host);
  return absl::OkStatus();
}

Array HistoryArray(const std::vector<StepReport>& history) {
  std::vector<double> values;
  for (const StepReport& r : history) {
    values.insert(
        values.end(),
        {r.loss, r.grad_norm, r.learning_rate, static_cast<double>(r.tokens),
         static_cast<double>(r.labelled_tokens), r.seconds, static_cast<double>(r.unix_ms)});
  }
  return {std::move(values), {static_cast<int64_t>(history.size()), kHistoryColumns}};
}

absl::StatusOr<std::vector<StepReport>> HistoryFrom(const ArrayFile& file) {
  ASSIGN_OR_RETURN(const absl::Span<const double> values, file.Values<double>("history"));
  const std::vector<int64_t>& shape = file.arrays.at("history").shape;
  if (shape.size() != 2 || (shape[1] != kHistoryColumns && shape[1] != kColumnsWithoutTime)) {
    return absl::DataLossError("checkpoint: the history has not one row for each step");
  }
  const auto columns = static_cast<size_t>(shape[1]);
  const auto total = file.attributes.find("total_steps");
  if (total == file.attributes.end() || !std::holds_alternative<int64_t>(total->second)) {
    return absl::DataLossError("checkpoint: no total_steps");
  }
  std::vector<StepReport> history;
  for (size_t i = 0; i + columns <= values.size(); i += columns) {
    const bool has_time = shape[1] == kHistoryColumns;
    history.push_back({.step = static_cast<int64_t>(history.size()) + 1,
                       .total_steps = std::get<int64_t>(total->second),
                       .loss = values[i],
                       .grad_norm = values[i + 1],
                       .learning_rate = values[i + 2],
                       .tokens = static_cast<int64_t>(values[i + 3]),
                       .labelled_tokens = static_cast<int64_t>(values[i + 4]),
                       .seconds = values[i + 5],
                       .unix_ms = has_time ? static_cast<int64_t>(values[i + 6]) : 0});
  }
  return history;
}

// Arrays "figures_<name>", one value a step.
void AddFigures(const std::vector<StepReport>& history, ArrayFile& file) {
  if (history.empty()) return;
  for (const auto& [name, first] : history.front().figures) {
    std::vector<double> values;
    for (const StepReport& r : history) values.push_back(r.figures.at(name));
    const auto count = static_cast<int64_t>(values.size());
    file.arrays[absl::StrCat(kFiguresPrefix, name)] = {std::move(values), {count}};
  }
}

absl::Status ReadFigures(const ArrayFile& file, std::vector<StepReport>& history) {
  for (const auto& [path, array] : file.arrays) {
    if (!absl::StartsWith(path, kFiguresPrefix)) continue;
    ASSIGN_OR_RETURN(const absl::Span<const double> values, file.Values<double>(path));
    if (values.size() != history.size()) {
      return absl::DataLossError(absl::StrCat("checkpoint: ", path, " has ", values.size(),
                                              " values, the history ", history.size()));
    }
    const std::string name = path.substr(kFiguresPrefix.size());
    for (size_t i = 0; i < values.size(); ++i) history[i].figures[name] = values[i];
  }
  return absl::OkStatus();
}

}  // namespace

std::string JobDigest(const TrainingJob& job) {
  Json recipe = RecipeToJson(job.recipe);
  recipe.erase("checkpoint_every_steps");  // how often, not what
  recipe.erase("max_cut_share");           // how strict; the rows are cut already
  recipe.erase("require_end_of_turn");
  return Sha256Hex(CanonicalJson(Json{{"base", job.base_weights_fingerprint},
                                      {"rows", TrainingRowsDigest(job.rows)},
                                      {"recipe", recipe},
                                      {"init", job.init ? AdapterDigest(*job.init) : ""}}));
}

absl::Status SaveCheckpoint(FileSystem& fs, const std::string& work_dir,
                            const std::string& job_digest, const FlatParameters& parameters,
                            const std::vector<StepReport>& history) {
  ArrayFile file;
  file.arrays["value"] = FlatArray(parameters.value);
  file.arrays["moment1"] = FlatArray(parameters.moment1);
  file.arrays["moment2"] = FlatArray(parameters.moment2);
  file.arrays["history"] = HistoryArray(history);
  AddFigures(history, file);
  file.attributes["job"] = job_digest;
  file.attributes["total_steps"] = history.empty() ? int64_t{0} : history.back().total_steps;
  return WriteArrayFile(fs, CheckpointPath(work_dir), file);
}

absl::StatusOr<std::optional<std::vector<StepReport>>> LoadCheckpoint(FileSystem& fs,
                                                                      const std::string& work_dir,
                                                                      const std::string& job_digest,
                                                                      FlatParameters& parameters) {
  const std::string path = CheckpointPath(work_dir);
  if (!fs.Exists(path)) return std::optional<std::vector<StepReport>>();
  ASSIGN_OR_RETURN(const ArrayFile file, ReadArrayFile(fs, path));
  const auto job = file.attributes.find("job");
  if (job == file.attributes.end() || job->second != ArrayAttribute(job_digest)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path,
                     " belongs to another job (base, data, recipe or start differ): "
                     "train into another folder or without --resume"));
  }
  RETURN_IF_ERROR(Restore(file, "value", parameters.value));
  RETURN_IF_ERROR(Restore(file, "moment1", parameters.moment1));
  RETURN_IF_ERROR(Restore(file, "moment2", parameters.moment2));
  ASSIGN_OR_RETURN(std::vector<StepReport> history, HistoryFrom(file));
  RETURN_IF_ERROR(ReadFigures(file, history));
  return std::make_optional(std::move(history));
}

}  // namespace evolora
