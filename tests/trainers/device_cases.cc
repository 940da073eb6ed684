#include "trainers/device_cases.h"

#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "ATen/ops/norm.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/random.h"
#include "gtest/gtest.h"

namespace evolora::testing {
namespace {

TrainingRow RandomRow(const LlamaConfig& config, int64_t length) {
  const auto seed = static_cast<uint64_t>(length);
  TrainingRow row{.ids = RandomIds(config, length, seed)};
  row.labels = row.ids;
  Random random(seed + 1);
  for (size_t t = 0; t + 1 < row.labels.size(); ++t) {
    if (random.NextBelow(2) == 0) row.labels[t] = kIgnoreLabel;
  }
  return row;
}

DeviceCase Make(std::string name, const std::function<void(DeviceCase&)>& change) {
  DeviceCase c{.name = std::move(name)};
  c.recipe.rank = 4;
  c.recipe.alpha = 8;
  change(c);
  for (const int64_t length : {9, 2, 17, 5, 70}) c.rows.push_back(RandomRow(c.config, length));
  return c;
}

AdapterParameters RandomParameters(const DeviceCase& c, const LlamaWeights& base) {
  absl::StatusOr<AdapterParameters> parameters =
      AdapterParameters::Create(base, c.recipe, /*init=*/nullptr);
  EXPECT_TRUE(parameters.ok()) << parameters.status();
  Random random(11);
  float* values = parameters->value.mutable_data_ptr<float>();
  for (int64_t i = 0; i < parameters->value.numel(); ++i) {
    values[i] = static_cast<float>(random.NextDouble() - 0.5) * 0.3f;
  }
  return *std::move(parameters);
}

double AddAllRows(const DeviceCase& c, GradientPath& path) {
  std::vector<int64_t> indices(c.rows.size());
  std::iota(indices.begin(), indices.end(), 0);
  const absl::StatusOr<double> loss = path.AddGradient(indices, /*factor=*/0.1);
  EXPECT_TRUE(loss.ok()) << loss.status();
  return loss.value_or(0);
}

}  // namespace

std::vector<DeviceCase> ArchitectureCases() {
  return {
      Make("head_dim 10 of 24 / 6", [](DeviceCase&) {}),
      Make("one key head", [](DeviceCase& c) { c.config.num_kv_heads = 1; }),
      Make("as many key heads", [](DeviceCase& c) { c.config.num_kv_heads = 6; }),
      Make("vocabulary 41, tied head",
           [](DeviceCase& c) {
             c.config.vocab_size = 41;
             c.config.tied_head = true;
           }),
      Make("attention biases",
           [](DeviceCase& c) {
             c.config.qkv_bias = true;
             c.config.output_bias = true;
           }),
      Make("norms of q and k", [](DeviceCase& c) { c.config.qk_norm = true; }),
      Make("window 5 in every layer", [](DeviceCase& c) { c.config.sliding_window = 5; }),
      Make("window 60 in one layer",
           [](DeviceCase& c) {
             c.config.sliding_window = 60;
             c.config.layer_uses_window = {false, true, false};
           }),
      Make("llama3 RoPE",
           [](DeviceCase& c) {
             c.config.rope_scaling = RopeScaling::kLlama3;
             c.config.rope_factor = 8;
             c.config.rope_original_positions = 64;
           }),
      Make("one layer", [](DeviceCase& c) { c.config.num_layers = 1; }),
      Make("head_dim 64, whole accesses",
           [](DeviceCase& c) {
             c.config.head_dim = 64;
             c.config.hidden_size = 128;
             c.config.intermediate_size = 96;
             c.config.vocab_size = 64;
             c.config.qk_norm = true;
           }),
  };
}

std::vector<DeviceCase> AdapterCases() {
  std::vector<DeviceCase> cases;
  for (const int64_t rank : {1, 3, 16}) {
    cases.push_back(
        Make(absl::StrCat("rank ", rank), [&](DeviceCase& c) { c.recipe.rank = rank; }));
  }
  cases.push_back(Make("ranks and scales by pattern", [](DeviceCase& c) {
    c.recipe.rank_pattern = {{"k_proj", 2}, {"up_proj", 7}};
    c.recipe.alpha_pattern = {{"v_proj", 3}, {"gate_proj", 1}};
  }));
  const std::vector<std::vector<std::string>> targets = {
      {"q_proj"},
      {"v_proj"},
      {"q_proj", "v_proj"},
      {"k_proj", "up_proj"},
      {"down_proj"},
      {"o_proj"},
      {"gate_proj", "self_attn.o_proj"},
      {"model.layers.1.mlp.down_proj"},
      {"model.layers.2.self_attn.o_proj"},
      {"model.layers.1.self_attn.k_proj", "model.layers.2.mlp.up_proj"},
      {"model.layers.2.mlp.down_proj"}};
  for (const std::vector<std::string>& names : targets) {
    cases.push_back(Make(absl::StrCat(names.size(), " targets, ", names.front()),
                         [&](DeviceCase& c) { c.recipe.target_modules = names; }));
  }
  return cases;
}

DeviceGradient ReferenceGradient(const DeviceCase& c) {
  const std::shared_ptr<const LlamaWeights> base = RandomWeights(c.config, 3);
  AdapterParameters parameters = RandomParameters(c, *base);
  const double loss = AddAllRows(
      c,
      *MakeReferencePath(
          {.base = base.get(), .lora = &parameters.lora(), .recipe = &c.recipe, .rows = c.rows}));
  return {loss, std::move(parameters)};
}

DeviceGradient PathGradient(const DeviceCase& c, const DevicePathOptions& options) {
  const std::shared_ptr<const LlamaWeights> base = RandomWeights(c.config, 3);
  AdapterParameters parameters = RandomParameters(c, *base);
  parameters.MoveTo(options.device);
  const double loss = AddAllRows(
      c, *MakeDevicePath(
             {.base = base.get(), .lora = &parameters.lora(), .recipe = &c.recipe, .rows = c.rows},
             options));
  parameters.MoveTo(at::kCPU);
  return {loss, std::move(parameters)};
}

std::string Difference(const DeviceGradient& actual, const DeviceGradient& expected,
                       double tolerance) {
  if (!(std::abs(actual.loss_sum - expected.loss_sum) <= tolerance * expected.loss_sum)) {
    return absl::StrCat("loss ", actual.loss_sum, " instead of ", expected.loss_sum);
  }
  for (const auto& [path, module] : actual.parameters.lora().modules) {
    const LoraTensor& other = expected.parameters.lora().modules.at(path);
    for (const auto& [mine, theirs] :
         {std::pair(module.a.grad(), other.a.grad()), std::pair(module.b.grad(), other.b.grad())}) {
      const double norm = theirs.norm().item<double>();
      const double error = mine.sub(theirs).norm().item<double>();
      if (norm > 0 && error <= tolerance * norm) continue;
      return absl::StrCat(path, ": off by ", error, " of ", norm);
    }
  }
  return "";
}

TrainingJob DeviceJob() {
  const DeviceCase c = Make("job", [](DeviceCase& change) { change.config.qk_norm = true; });
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
