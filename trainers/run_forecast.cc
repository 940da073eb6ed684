#include "evolora/trainers/run_forecast.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "ATen/Parallel.h"
#include "adapter_plan.h"
#include "bf16_base.h"
#include "device/batch_shape.h"
#include "device/device_batches.h"
#include "device/device_forecast.h"
#include "device/head_rows.h"
#include "device/packed_attention.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/buffer.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/products.h"
#include "evolora/model/torch_status.h"
#include "loss.h"
#include "memory_forecast.h"
#include "row_order.h"
#include "side_by_side.h"
#include "step_cost.h"
#include "token_layout.h"

namespace evolora {
namespace {

int64_t LongestRow(absl::Span<const TrainingRow> rows, absl::Span<const int64_t> indices) {
  size_t longest = 0;
  for (const int64_t i : indices) {
    longest = std::max(longest, rows[static_cast<size_t>(i)].ids.size());
  }
  return static_cast<int64_t>(longest);
}

// Walks through the steps of a run without taking them.
class Walk {
 public:
  Walk(const TrainingJob& job, TrainingPath path, const ForecastOptions& options)
      : job_(job),
        path_(path),
        is_cuda_(options.device != "cpu"),
        graphs_(is_cuda_ && options.device_graphs) {}

  absl::StatusOr<RunForecast> Forecast() {
    RETURN_IF_ERROR(Check());
    CountData();
    out_.mean_step_tokens = MeanStepTokens(job_.rows, job_.recipe.rows_per_step);
    StepOrder order(job_.recipe, job_.rows);
    out_.total_steps = order.total_steps();
    for (int64_t step = 0; step < out_.total_steps; ++step) AddStep(order.RowsOf(step));
    ForecastMemory();
    return out_;
  }

 private:
  absl::Status Check() {
    RETURN_IF_ERROR(ValidateRecipe(job_.recipe));
    LintLimits limits = LimitsOf(job_);
    limits.max_cut_share = 0;
    RETURN_IF_ERROR(LintTrainingRows(job_.rows, limits));
    ASSIGN_OR_RETURN(loss_, MakeLoss(job_.recipe.objective, job_.rows));
    if (job_.recipe.method == TrainingMethod::kFull) return CheckFull();
    ASSIGN_OR_RETURN(modules_, PlanModules(job_.base->config, job_.recipe));
    ASSIGN_OR_RETURN(saved_, PlanSavedModules(job_.base->config, job_.recipe));
    return absl::OkStatus();
  }

  absl::Status CheckFull() const {
    if (!job_.init.has_value()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "the method 'full' trains the base, and an adapter to start from was given");
  }

  void CountData() {
    out_.num_rows = static_cast<int64_t>(job_.rows.size());
    for (const TrainingRow& row : job_.rows) {
      out_.num_replay_rows += row.replay ? 1 : 0;
      out_.data_tokens += static_cast<int64_t>(row.ids.size());
      out_.data_labelled_tokens += NumTargets(row);
      out_.memory.rows +=
          static_cast<int64_t>((row.ids.size() + row.labels.size()) * sizeof(TokenId) +
                               row.text.size() + sizeof(TrainingRow));
    }
    for (const PlannedModule& module : modules_) {
      out_.trainable_parameters += module.rank * (module.in_features + module.out_features);
      if (job_.recipe.use_dora) out_.trainable_parameters += module.out_features;
    }
    adapter_parameters_ = out_.trainable_parameters;
    if (job_.recipe.method == TrainingMethod::kFull) {
      out_.trainable_parameters = CountParameters(job_.base->config);
    }
    for (const NamedShape& module : saved_) {
      out_.trainable_parameters += std::accumulate(module.shape.begin(), module.shape.end(),
                                                   int64_t{1}, std::multiplies<>());
    }
  }

  void AddStep(const std::vector<int64_t>& step_rows) {
    const StepSize size = SizeOfStep(job_.rows, step_rows, job_.recipe.objective.kind);
    out_.tokens += size.tokens;
    out_.labelled_tokens += size.labelled_tokens;
    out_.flops += StepFlops(job_.base->config, job_.recipe, size);
    out_.padded_tokens += LongestRow(job_.rows, step_rows) * static_cast<int64_t>(step_rows.size());
    const StepSize computed =
        path_ == TrainingPath::kReference ? AddPadded(step_rows) : AddPacked(step_rows);
    // The adapter's six products: forward and activation gradient, and its own gradient, each for
    // A and B.
    const double flops =
        StepFlops(job_.base->config, job_.recipe, computed) +
        6.0 * static_cast<double>(adapter_parameters_) * static_cast<double>(computed.tokens);
    out_.computed_tokens += computed.tokens;
    out_.computed_flops += flops;
    out_.steps.push_back({size.tokens, size.labelled_tokens, computed.tokens, flops});
  }

  // Of the fast and the device path.
  std::vector<TokenLayout> Layouts(const std::vector<int64_t>& step_rows) const {
    const bool share = job_.recipe.lora_dropout == 0;
    const absl::Span<const TrainingRow> sequences = loss_->sequences();
    const int64_t limit = job_.recipe.tokens_per_micro_batch, group = loss_->sequences_per_row();
    if (path_ == TrainingPath::kDevice) {
      return DeviceMicroBatches(sequences, step_rows, {.tokens = limit}, share, group);
    }
    std::vector<TokenLayout> layouts;
    const bool side_by_side = RunsSideBySide(job_.base->config, job_.recipe, *loss_);
    for (const auto& indices :
         FastMicroBatches(sequences, step_rows, job_.recipe, side_by_side, group)) {
      layouts.push_back(LayOutTokens(sequences, indices, share));
    }
    return layouts;
  }

  StepSize AddPacked(const std::vector<int64_t>& step_rows) {
    StepSize computed;
    AddTails(step_rows);
    for (const TokenLayout& layout : Layouts(step_rows)) {
      if (layout.predicting.empty()) continue;
      const auto tokens = static_cast<int64_t>(layout.ids.size());
      const auto predicting = static_cast<int64_t>(layout.predicting.size());
      const auto longest = std::max_element(layout.positions.begin(), layout.positions.end());
      computed.tokens += tokens;
      computed.labelled_tokens += predicting;
      largest_.tokens = std::max(largest_.tokens, tokens);
      largest_.predicting = std::max(largest_.predicting, predicting);
      largest_.row_tokens = std::max(largest_.row_tokens, *longest + 1);
      ++out_.num_micro_batches;
      if (path_ == TrainingPath::kDevice) AddShape(layout);
    }
    return computed;
  }

  void AddTails(const std::vector<int64_t>& step_rows) {
    const int64_t group = loss_->sequences_per_row();
    for (const int64_t i : step_rows) {
      for (int64_t s = i * group; s < (i + 1) * group; ++s) {
        const TrainingRow& row = loss_->sequences()[static_cast<size_t>(s)];
        out_.tail_tokens += static_cast<int64_t>(row.ids.size()) - TaughtLength(row);
      }
    }
  }

  void AddShape(const TokenLayout& layout) {
    const bool by_label = job_.recipe.objective.kind != ObjectiveKind::kSft;
    const HeadRows head = by_label ? RowsByLabel(layout) : RowsByToken(layout);
    BatchShape shape = ShapeOf(layout, head);
    if (graphs_) shape = Bucket(shape, job_.recipe.tokens_per_micro_batch);
    largest_shape_ = Joined(largest_shape_, shape);
  }

  StepSize AddPadded(const std::vector<int64_t>& step_rows) {
    StepSize computed = SizeOfStep(job_.rows, step_rows, job_.recipe.objective.kind);
    computed.tokens = 0;
    for (const std::vector<int64_t>& indices :
         MicroBatches(loss_->sequences(), step_rows, job_.recipe.tokens_per_micro_batch,
                      loss_->sequences_per_row())) {
      computed.tokens +=
          LongestRow(loss_->sequences(), indices) * static_cast<int64_t>(indices.size());
      ++out_.num_micro_batches;
    }
    return computed;
  }

  // Of the base as it lies in memory, and of its copy in few bits when it is not loaded so.
  int64_t BaseBytes() const {
    const LlamaConfig& c = job_.base->config;
    const CompactWeights* compact = job_.base->compact.get();
    int64_t floats = 0;
    for (const NamedShape& entry : TensorShapes(c)) {
      const bool is_matrix = entry.shape.size() == 2;
      if (is_matrix && compact != nullptr) continue;
      floats += is_matrix ? entry.shape[0] * entry.shape[1] : entry.shape[0];
    }
    const int64_t blocks = compact != nullptr ? CompactBytes(c, *compact) : BytesOfCopy(c);
    return floats * static_cast<int64_t>(sizeof(float)) + blocks;
  }

  // Of the copy in few bits that the run makes of a base in fp32.
  int64_t BytesOfCopy(const LlamaConfig& config) const {
    const WeightStorage storage =
        path_ == TrainingPath::kFast ? StorageToLoad(job_.recipe, "cpu") : job_.recipe.base_weights;
    const bool is_copied = storage != WeightStorage::kFp32 && storage != WeightStorage::kExact;
    return is_copied ? CompactBytes(config, storage) : 0;
  }

  void ForecastMemory() {
    const int64_t trained = out_.trainable_parameters * static_cast<int64_t>(sizeof(float));
    out_.memory.weights = BaseBytes();
    if (job_.recipe.init_lora_weights != LoraInit::kKaiming) {  // the adapted ones less the start
      for (const PlannedModule& module : modules_) {
        out_.memory.weights +=
            module.in_features * module.out_features * static_cast<int64_t>(sizeof(float));
      }
    }
    if (path_ != TrainingPath::kDevice) out_.memory.optimiser = 4 * trained;
    out_.memory.checkpoint = 9 * trained;  // three vectors as arrays, as an HDF5 image, sealed
    out_.memory_basis = "counted from shapes; the program and its libraries come on top";
    if (path_ == TrainingPath::kReference) {
      out_.memory_basis += "; the reference path's activations are not counted";
    }
    if (path_ == TrainingPath::kDevice) ForecastDevice();
    if (path_ != TrainingPath::kFast) return;
    const LlamaConfig& config = job_.base->config;
    out_.memory.packed = PackedBytes(config, modules_);
    out_.runs_apart = !saved_.empty();
    out_.micro_batch_tokens = largest_.tokens;
    if (!RunsSideBySide(config, job_.recipe, *loss_)) {
      out_.memory.arena =
          ArenaBytes(config, job_.recipe, modules_, largest_, at::get_num_threads());
      return;
    }
    const int64_t lane = ArenaBytes(config, job_.recipe, modules_, largest_, /*num_threads=*/1) +
                         trained + out_.memory.packed;
    out_.memory.arena = NumLanes(job_.recipe) * lane;
  }

  void ForecastDevice() {
    const bool bf16 = job_.recipe.precision == TrainingPrecision::kBf16;
    const LlamaConfig& config = job_.base->config;
    out_.device_memory = ForecastDeviceMemory(
        {.config = config,
         .recipe = job_.recipe,
         .modules = modules_,
         .saved = saved_,
         .trainable_parameters = out_.trainable_parameters,
         .largest = largest_shape_,
         .packed = FlashComputes(config, is_cuda_, bf16 ? at::kBFloat16 : at::kFloat),
         .graphs = graphs_});
    out_.memory_basis +=
        "; on the device the driver's context, the libraries' workspaces and gaps between tensors "
        "come on top";
    if (job_.recipe.lora_dropout > 0) {
      out_.memory_basis += "; with lora_dropout the device path computes every row whole";
    }
  }

  const TrainingJob& job_;
  const TrainingPath path_;
  const bool is_cuda_, graphs_;
  std::vector<PlannedModule> modules_;
  std::vector<NamedShape> saved_;
  int64_t adapter_parameters_ = 0;
  std::unique_ptr<Loss> loss_;
  LargestMicroBatch largest_;
  BatchShape largest_shape_;  // on the device path
  RunForecast out_;
};

}  // namespace

double RunForecast::padding_share() const {
  if (padded_tokens == 0) return 0;
  return 1 - static_cast<double>(tokens) / static_cast<double>(padded_tokens);
}

int64_t RunForecast::shared_prefix_tokens() const {
  return std::max<int64_t>(0, tokens - tail_tokens - computed_tokens);
}

absl::StatusOr<RunForecast> ForecastRun(const TrainingJob& job, const ForecastOptions& options) {
  const bool fast_elsewhere = options.device != "cpu" && job.recipe.path == TrainingPath::kFast;
  const TrainingPath path = fast_elsewhere ? TrainingPath::kDevice : job.recipe.path;
  return CatchTorch("forecast", [&] { return Walk(job, path, options).Forecast(); });
}

double MeasureGflops(const TrainingJob& job, const Clock& clock) {
  const LlamaConfig& config = job.base->config;
  const int64_t rows = std::min<int64_t>(job.recipe.tokens_per_micro_batch, 2048);
  const int64_t depth = config.hidden_size, columns = 2 * config.intermediate_size;
  const double flops = 2.0 * static_cast<double>(rows * depth) * static_cast<double>(columns);
  const Factors factors = FactorsOf(job.recipe);
  Buffer x, panels, y;
  std::fill_n(x.Reserve(rows * depth), rows * depth, 0.5f);
  const int64_t panel_size = (columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns * depth;
  // With all digits, so that no bf16 part is left out.
  std::fill_n(panels.Reserve(panel_size), panel_size, 0.1f);
  y.Reserve(rows * columns);
  const Product product = {.left = x.data(), .ldl = depth, .depth = depth, .right = panels.data()};
  // About 0.02 s a run at 100 GFLOP/s; the first one warms up.
  const auto repeats = static_cast<int64_t>(std::max(1.0, 2e9 / flops));
  double best = 0;
  for (int run = 0; run < 4; ++run) {
    const double started = clock.MonotonicSeconds();
    for (int64_t i = 0; i < repeats; ++i) {
      SumOfProducts({product}, rows, columns, y.data(), columns, GemmStore::kSet, factors);
    }
    const double seconds = clock.MonotonicSeconds() - started;
    if (run > 0 && seconds > 0) {
      best = std::max(best, flops * static_cast<double>(repeats) / seconds / 1e9);
    }
  }
  return best;
}

}  // namespace evolora
