// Steps of LoRA training through the device path on random weights of known models' shapes.
//
//   device_benchmark --model 8b|4b|1b|0.6b --length S [--tokens T] [--micro-batch T] [--steps N]
//                    [--warmup N] [--rank R] [--precision bf16|fp32] [--device cuda] [--no-graphs]
//
// A step is T tokens in rows of S, all labelled, through adapters on every linear layer, clipping
// and AdamW included, of which --micro-batch go through the model at once. Prints one JSON object.
// Layers share their random weights on the CPU; the device holds one copy for each.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "ATen/Context.h"
#include "ATen/DeviceAccelerator.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/randn.h"
#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "adapter_parameters.h"
#include "device/device_errors.h"
#include "device/device_optimizer.h"
#include "device/device_path.h"
#include "device/device_stream.h"
#include "device/open_device.h"
#include "evolora/core/clock.h"
#include "evolora/core/json.h"
#include "evolora/core/random.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/torch_status.h"

namespace evolora {
namespace {

struct Settings {
  std::string model = "1b";
  std::string precision = "bf16";
  std::string device = "cuda";
  int64_t length = 2048;
  int64_t tokens = 16384;
  int64_t micro_batch = 0;  // 0 = tokens
  int64_t steps = 20;
  int64_t warmup = 5;
  int64_t rank = 16;
  bool no_graphs = false;
};

struct Shape {
  const char* name;
  int64_t vocabulary, width, mlp_width, layers, heads, key_heads, head_width;
  bool qk_norm, tied;
};
constexpr Shape kShapes[] = {
    {"8b", 128256, 4096, 14336, 32, 32, 8, 128, false, false},  // Llama 3.1 8B
    {"4b", 151936, 2560, 9728, 36, 32, 8, 128, true, true},     // Qwen3 4B
    {"1b", 128256, 2048, 8192, 16, 32, 8, 64, false, true},     // Llama 3.2 1B
    {"0.6b", 151936, 1024, 3072, 28, 16, 8, 128, true, true},   // Qwen3 0.6B
    {"tiny", 512, 64, 128, 2, 4, 2, 16, true, true},            // to see that it runs
};

absl::StatusOr<LlamaConfig> ConfigOf(const std::string& model) {
  for (const Shape& shape : kShapes) {
    if (model != shape.name) continue;
    LlamaConfig c;
    c.architecture = shape.qk_norm ? "qwen3" : "llama";
    c.vocab_size = shape.vocabulary;
    c.hidden_size = shape.width;
    c.intermediate_size = shape.mlp_width;
    c.num_layers = shape.layers;
    c.num_heads = shape.heads;
    c.num_kv_heads = shape.key_heads;
    c.head_dim = shape.head_width;
    c.max_positions = 131072;
    c.rope_theta = shape.qk_norm ? 1e6 : 5e5;
    c.qk_norm = shape.qk_norm;
    c.tied_head = shape.tied;
    return c;
  }
  return absl::InvalidArgumentError(absl::StrCat("no model '", model, "'"));
}

at::Tensor Normal(int64_t rows, int64_t columns) {
  return at::randn({rows, columns}, at::kFloat).mul_(0.02);
}

LlamaWeights RandomWeights(const LlamaConfig& c) {
  const int64_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  LlamaLayer layer{.input_norm = at::ones({c.hidden_size}),
                   .post_norm = at::ones({c.hidden_size}),
                   .q = Normal(q, c.hidden_size),
                   .k = Normal(kv, c.hidden_size),
                   .v = Normal(kv, c.hidden_size),
                   .o = Normal(c.hidden_size, q),
                   .gate = Normal(c.intermediate_size, c.hidden_size),
                   .up = Normal(c.intermediate_size, c.hidden_size),
                   .down = Normal(c.hidden_size, c.intermediate_size)};
  if (c.qk_norm) layer.q_norm = layer.k_norm = at::ones({c.head_dim});
  LlamaWeights weights{.config = c,
                       .embedding = Normal(c.vocab_size, c.hidden_size),
                       .layers = std::vector<LlamaLayer>(static_cast<size_t>(c.num_layers), layer),
                       .final_norm = at::ones({c.hidden_size})};
  weights.head = c.tied_head ? weights.embedding : Normal(c.vocab_size, c.hidden_size);
  return weights;
}

std::vector<TrainingRow> RandomRows(const Settings& settings, const LlamaConfig& config) {
  Random random(1);
  std::vector<TrainingRow> rows(
      static_cast<size_t>(std::max<int64_t>(1, settings.tokens / settings.length)));
  for (TrainingRow& row : rows) {
    for (int64_t t = 0; t < settings.length; ++t) {
      row.ids.push_back(
          static_cast<TokenId>(random.NextBelow(static_cast<uint64_t>(config.vocab_size))));
    }
    row.labels = row.ids;
  }
  return rows;
}

struct Timing {
  std::vector<double> seconds;
  double loss = 0;
};

absl::StatusOr<Timing> RunSteps(const Settings& settings, const LoraRecipe& recipe,
                                GradientPath& path, AdapterParameters& parameters,
                                const std::vector<TrainingRow>& rows) {
  DeviceOptimizer optimizer(recipe, parameters);
  std::vector<int64_t> indices(rows.size());
  std::iota(indices.begin(), indices.end(), 0);
  const double targets =
      static_cast<double>(rows.size()) * static_cast<double>(settings.length - 1);
  Timing timing;
  for (int64_t step = 0; step < settings.warmup + settings.steps; ++step) {
    const double started = SystemClock().MonotonicSeconds();
    parameters.gradient.zero_();
    RETURN_IF_ERROR(path.EnqueueGradient(indices, 1 / targets));
    optimizer.Step(step, recipe.learning_rate);
    ASSIGN_OR_RETURN(const double loss, path.LossSum());
    optimizer.GradientNorm();
    timing.loss = loss / targets;
    if (step >= settings.warmup) {
      timing.seconds.push_back(SystemClock().MonotonicSeconds() - started);
    }
  }
  std::sort(timing.seconds.begin(), timing.seconds.end());
  return timing;
}

absl::StatusOr<Json> Measure(const Settings& settings) {
  ASSIGN_OR_RETURN(const c10::Device device, OpenDevice(settings.device));
  ASSIGN_OR_RETURN(const LlamaConfig config, ConfigOf(settings.model));
  const DeviceStream stream(device);
  at::manual_seed(1);
  const LlamaWeights base = RandomWeights(config);
  LoraRecipe recipe;
  recipe.rank = settings.rank;
  recipe.alpha = 2.0 * static_cast<double>(settings.rank);
  recipe.tokens_per_micro_batch = settings.micro_batch > 0 ? settings.micro_batch : settings.tokens;
  const std::vector<TrainingRow> rows = RandomRows(settings, config);
  ASSIGN_OR_RETURN(AdapterParameters parameters, AdapterParameters::Create(base, recipe, nullptr));
  parameters.MoveTo(device);
  const std::unique_ptr<GradientPath> path =
      MakeDevicePath({.base = &base, .lora = &parameters.lora(), .recipe = &recipe, .rows = rows},
                     {.device = device,
                      .dtype = settings.precision == "bf16" ? at::kBFloat16 : at::kFloat,
                      .graphs = !settings.no_graphs && device.is_cuda()});
  ASSIGN_OR_RETURN(const Timing timing, RunSteps(settings, recipe, *path, parameters, rows));
  const double median = timing.seconds[timing.seconds.size() / 2];
  const double tokens = static_cast<double>(rows.size()) * static_cast<double>(settings.length);
  Json result = {{"engine", "evolora"},
                 {"model", settings.model},
                 {"length", settings.length},
                 {"tokens_per_step", tokens},
                 {"micro_batch", recipe.tokens_per_micro_batch},
                 {"precision", settings.precision},
                 {"rank", settings.rank},
                 {"graphs", !settings.no_graphs && device.is_cuda()},
                 {"seconds_per_step", median},
                 {"fastest_step", timing.seconds.front()},
                 {"slowest_step", timing.seconds.back()},
                 {"tokens_per_second", tokens / median},
                 {"loss", timing.loss}};
  if (device.is_cuda()) {
    const auto stats = at::accelerator::getDeviceStats(device.index());
    result["peak_bytes"] = stats.allocated_bytes[0].peak;
  }
  return result;
}

}  // namespace
}  // namespace evolora

int main(int argc, char** argv) {
  evolora::Settings settings;
  CLI::App app("steps of LoRA training on random weights");
  app.add_option("--model", settings.model, "8b, 4b, 1b, 0.6b or tiny");
  app.add_option("--length", settings.length, "tokens of a row")->check(CLI::Range(2, 131072));
  app.add_option("--tokens", settings.tokens, "tokens of a step")->check(CLI::Range(2, 1 << 24));
  app.add_option("--micro-batch", settings.micro_batch, "of them at once; 0 = all")
      ->check(CLI::Range(0, 1 << 24));
  app.add_option("--steps", settings.steps, "steps that are timed")->check(CLI::Range(1, 100000));
  app.add_option("--warmup", settings.warmup, "steps before")->check(CLI::Range(0, 100000));
  app.add_option("--rank", settings.rank, "of the adapters")->check(CLI::Range(1, 512));
  app.add_option("--precision", settings.precision)->check(CLI::IsMember({"bf16", "fp32"}));
  app.add_flag("--no-graphs", settings.no_graphs, "starts every kernel by itself");
  app.add_option("--device", settings.device, "cpu, cuda or cuda:N");
  CLI11_PARSE(app, argc, argv);
  const auto result = evolora::CatchTorch("benchmark", [&] {
    return evolora::NameOutOfMemory([&] { return evolora::Measure(settings); });
  });
  if (!result.ok()) {
    // device_table.py looks for these words.
    const bool full = absl::IsResourceExhausted(result.status());
    std::fprintf(stderr, "device_benchmark: %s%s\n", full ? "out of memory: " : "",
                 std::string(result.status().message()).c_str());
    return 1;
  }
  std::printf("%s\n", result->dump().c_str());
  return 0;
}
