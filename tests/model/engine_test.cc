#include "evolora/model/engine.h"

#include "ATen/ATen.h"
#include "ATen/Parallel.h"
#include "evolora/model/reference_forward.h"
#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::RandomAdapter;
using testing::RandomIds;
using testing::RandomWeights;
using testing::SmallConfig;
using testing::StatusIs;

struct Architecture {
  const char* name;
  LlamaConfig config;
};

std::vector<Architecture> Architectures() {
  std::vector<Architecture> list = {{"llama", SmallConfig()}};
  list.push_back({"tied", SmallConfig()});
  list.back().config.tied_head = true;
  list.push_back({"qwen2", SmallConfig()});
  list.back().config.qkv_bias = true;
  list.push_back({"all biases", SmallConfig()});
  list.back().config.qkv_bias = list.back().config.output_bias = true;
  list.push_back({"qwen3", SmallConfig()});
  list.back().config.qk_norm = true;
  list.push_back({"window", SmallConfig()});
  list.back().config.sliding_window = 7;
  list.push_back({"window on one layer", SmallConfig()});
  list.back().config.sliding_window = 40;
  list.back().config.layer_uses_window = {false, true, false};
  list.push_back({"wide heads", SmallConfig()});
  list.back().config.head_dim = 66;
  list.back().config.num_kv_heads = 6;
  return list;
}

std::unique_ptr<Engine> MakeEngine(std::shared_ptr<const LlamaWeights> weights,
                                   const EngineOptions& options = {}) {
  auto engine = Engine::Create(std::move(weights), options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

// Logits after the last id, by the reference.
at::Tensor ReferenceLast(const LlamaWeights& weights, const LoraTensors* lora,
                         const std::vector<TokenId>& ids) {
  auto batch = PadRight(std::vector<std::vector<TokenId>>{ids});
  EXPECT_TRUE(batch.ok()) << batch.status();
  auto logits = ReferenceLogits(weights, lora, *batch);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return (*logits)[0][-1].contiguous();
}

double MaxGap(const std::vector<float>& a, const at::Tensor& b) {
  double gap = a.size() == static_cast<size_t>(b.numel()) ? 0 : 1e9;
  for (size_t i = 0; i < a.size(); ++i) {
    gap = std::max(gap, std::abs(static_cast<double>(a[i]) - b.const_data_ptr<float>()[i]));
  }
  return gap;
}

TEST(Engine, LogitsEqualTheReferenceForEveryArchitecture) {
  for (const Architecture& arch : Architectures()) {
    SCOPED_TRACE(arch.name);
    const auto weights = RandomWeights(arch.config, 7);
    const auto engine = MakeEngine(weights);
    const LoraAdapter adapter = RandomAdapter(arch.config, 5, 3, 2);
    ASSERT_OK_AND_ASSIGN(const std::string digest, engine->LoadAdapter(adapter));
    ASSERT_OK_AND_ASSIGN(const LoraTensors lora, LoraTensorsFromAdapter(arch.config, adapter));
    for (int64_t length : {1, 2, 31, 32, 33, 150}) {
      SCOPED_TRACE(length);
      const std::vector<TokenId> ids = RandomIds(arch.config, length, 5);
      ASSERT_OK_AND_ASSIGN(const auto scored, engine->Score(std::vector<ScoreRequest>{
                                                  {ids, "", true}, {ids, digest, true}}));
      EXPECT_LT(MaxGap(scored[0].last_logits, ReferenceLast(*weights, nullptr, ids)), 1e-4);
      EXPECT_LT(MaxGap(scored[1].last_logits, ReferenceLast(*weights, &lora, ids)), 1e-4);
      EXPECT_GT(MaxGap(scored[1].last_logits, ReferenceLast(*weights, nullptr, ids)), 1e-2);
    }
  }
}

// An adapter that replaces the embedding, the head and some norms, too.
LoraAdapter AdapterWithSavedModules(const LlamaConfig& config) {
  LoraAdapter adapter = RandomAdapter(config, 5, 3, 2);
  for (const NamedShape& module : ReplaceableModules(config)) {
    if (module.name.find(".2.") != std::string::npos) continue;
    const at::Tensor weight = at::randn(module.shape) * (module.shape.size() == 2 ? 0.3 : 1);
    const float* values = weight.const_data_ptr<float>();
    adapter.saved_modules.push_back({module.name, module.shape, {values, values + weight.numel()}});
  }
  return adapter;
}

TEST(Engine, RowsWithSavedModulesEqualTheReferenceAndLeaveTheOthersAlone) {
  for (const Architecture& arch : Architectures()) {
    SCOPED_TRACE(arch.name);
    const auto weights = RandomWeights(arch.config, 7);
    const auto engine = MakeEngine(weights);
    const LoraAdapter adapter = AdapterWithSavedModules(arch.config);
    ASSERT_OK_AND_ASSIGN(const LoraTensors lora, LoraTensorsFromAdapter(arch.config, adapter));
    const std::vector<TokenId> ids = RandomIds(arch.config, 40, 5);
    ASSERT_OK_AND_ASSIGN(const auto bare,
                         engine->Score(std::vector<ScoreRequest>{{ids, "", true}}));
    ASSERT_OK_AND_ASSIGN(const std::string digest, engine->LoadAdapter(adapter));
    ASSERT_OK_AND_ASSIGN(const auto scored,
                         engine->Score(std::vector<ScoreRequest>{
                             {ids, digest, true}, {ids, "", true}, {ids, digest, true}}));
    EXPECT_LT(MaxGap(scored[0].last_logits, ReferenceLast(*weights, &lora, ids)), 1e-4);
    EXPECT_EQ(scored[2].last_logits, scored[0].last_logits);
    EXPECT_EQ(scored[1].last_logits, bare[0].last_logits);
    EXPECT_NE(scored[1].last_logits, scored[0].last_logits);
    std::vector<EngineRequest> requests = {{.prompt = ids, .adapter = digest, .max_new_tokens = 5},
                                           {.prompt = ids, .max_new_tokens = 5}};
    ASSERT_OK_AND_ASSIGN(const auto both, engine->Generate(requests));
    ASSERT_OK_AND_ASSIGN(const auto first, engine->Generate(absl::MakeSpan(&requests[0], 1)));
    EXPECT_EQ(both[0].ids, first[0].ids);
    EXPECT_TRUE(engine->UnloadAdapter(digest).ok());
  }
}

TEST(Engine, ASavedModuleThatDoesNotFitIsRefused) {
  const auto engine = MakeEngine(RandomWeights(SmallConfig(), 7));
  LoraAdapter adapter = RandomAdapter(SmallConfig(), 5, 3, 2);
  adapter.saved_modules = {{"model.norm", {3}, {1, 2, 3}}};
  EXPECT_THAT(engine->LoadAdapter(adapter).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("model.norm: made for [3]")));
  adapter.saved_modules = {{"model.layers.0.mlp.up_proj_x", {3}, {1, 2, 3}}};
  EXPECT_THAT(engine->LoadAdapter(adapter).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("neither embedding nor")));
}

TEST(Engine, LogitsOfADoraEqualTheReference) {
  for (const Architecture& arch : Architectures()) {
    SCOPED_TRACE(arch.name);
    const auto weights = RandomWeights(arch.config, 7);
    const auto engine = MakeEngine(weights);
    const LoraAdapter adapter = testing::RandomDora(arch.config, 5, 3, 2);
    LoraAdapter plain = adapter;
    for (LoraModule& module : plain.modules) module.magnitude.clear();
    ASSERT_OK_AND_ASSIGN(const std::string digest, engine->LoadAdapter(adapter));
    ASSERT_OK_AND_ASSIGN(const std::string plain_digest, engine->LoadAdapter(plain));
    ASSERT_OK_AND_ASSIGN(const LoraTensors lora, LoraTensorsFromAdapter(arch.config, adapter));
    for (int64_t length : {1, 33}) {
      const std::vector<TokenId> ids = RandomIds(arch.config, length, 5);
      ASSERT_OK_AND_ASSIGN(const auto scored,
                           engine->Score(std::vector<ScoreRequest>{
                               {ids, "", true}, {ids, digest, true}, {ids, plain_digest, true}}));
      const at::Tensor expected = ReferenceLast(*weights, &lora, ids);
      EXPECT_LT(MaxGap(scored[0].last_logits, ReferenceLast(*weights, nullptr, ids)), 1e-4);
      EXPECT_LT(MaxGap(scored[1].last_logits, expected), 1e-4);
      EXPECT_GT(MaxGap(scored[2].last_logits, expected), 1e-2);
    }
  }
}

TEST(Engine, LogProbabilitiesAreThoseOfTheReferencesLogits) {
  const auto weights = RandomWeights(SmallConfig(), 7);
  const std::vector<TokenId> ids = RandomIds(SmallConfig(), 40, 9);
  ASSERT_OK_AND_ASSIGN(const auto scored,
                       MakeEngine(weights)->Score(std::vector<ScoreRequest>{{ids, "", false}}));
  ASSERT_OK_AND_ASSIGN(const TokenBatch batch, PadRight(std::vector<std::vector<TokenId>>{ids}));
  ASSERT_OK_AND_ASSIGN(const at::Tensor logits, ReferenceLogits(*weights, nullptr, batch));
  const at::Tensor expected = at::log_softmax(logits[0], -1);
  ASSERT_EQ(scored[0].logprobs.size(), 39u);
  EXPECT_TRUE(scored[0].last_logits.empty());
  for (int64_t t = 0; t < 39; ++t) {
    EXPECT_NEAR(scored[0].logprobs[static_cast<size_t>(t)],
                expected[t][ids[static_cast<size_t>(t) + 1]].item<float>(), 1e-4);
  }
}

// Every way to compute the same row: alone, in company, in small steps, with other thread counts,
// from a shared prefix, token by token.
TEST(Engine, ARowsBitsDoNotDependOnItsCompanyStepsOrThreads) {
  for (const Architecture& arch : Architectures()) {
    SCOPED_TRACE(arch.name);
    const auto weights = RandomWeights(arch.config, 7);
    const LoraAdapter adapter = RandomAdapter(arch.config, 3, 4);
    const std::vector<TokenId> ids = RandomIds(arch.config, 90, 11);
    const int threads = at::get_num_threads();
    std::vector<std::vector<float>> results[2];  // bare base, adapter
    for (int num_threads : {1, 2}) {
      at::set_num_threads(num_threads);
      for (int64_t step : {7, 512}) {
        const auto engine = MakeEngine(weights, {.max_step_tokens = step});
        ASSERT_OK_AND_ASSIGN(const std::string digest, engine->LoadAdapter(adapter));
        for (int company : {0, 20}) {
          std::vector<ScoreRequest> requests;
          for (int i = 0; i < company; ++i) {
            requests.push_back({RandomIds(arch.config, 5 + i, 100 + static_cast<uint64_t>(i)),
                                i % 2 ? digest : "", false});
          }
          requests.push_back({ids, "", true});
          requests.push_back({ids, digest, true});
          ASSERT_OK_AND_ASSIGN(const auto scored, engine->Score(requests));
          results[0].push_back(scored[scored.size() - 2].last_logits);
          results[1].push_back(scored.back().last_logits);
        }
      }
    }
    at::set_num_threads(threads);
    for (const auto& kind : results) {
      for (const auto& result : kind) EXPECT_EQ(result, kind[0]);
    }
  }
}

std::vector<EngineRequest> MixedRequests(const LlamaConfig& config, const std::string& digest) {
  std::vector<EngineRequest> requests;
  const std::vector<TokenId> system = RandomIds(config, 70, 1);
  for (uint64_t i = 0; i < 14; ++i) {
    EngineRequest request{.prompt = RandomIds(config, 3 + static_cast<int64_t>(i) * 5, 50 + i),
                          .adapter = i % 3 == 1 ? digest : "",
                          .max_new_tokens = 5 + static_cast<int32_t>(i % 4) * 9};
    if (i >= 7) request.prompt.insert(request.prompt.begin(), system.begin(), system.end());
    if (i % 2 == 1) request.sampling = {.temperature = 0.8, .top_p = 0.9, .top_k = 12, .seed = i};
    requests.push_back(std::move(request));
  }
  return requests;
}

TEST(Engine, GeneratedRowsDoNotDependOnTheBatch) {
  const LlamaConfig config = SmallConfig();
  const auto weights = RandomWeights(config, 7);
  const LoraAdapter adapter = RandomAdapter(config, 4, 8);
  std::vector<std::vector<EngineCompletion>> runs;
  for (const EngineOptions& options :
       {EngineOptions{}, EngineOptions{.max_rows = 1}, EngineOptions{.max_rows = 3},
        EngineOptions{.max_step_tokens = 9}, EngineOptions{.max_cache_bytes = 200000}}) {
    const auto engine = MakeEngine(weights, options);
    ASSERT_OK_AND_ASSIGN(const std::string digest, engine->LoadAdapter(adapter));
    ASSERT_OK_AND_ASSIGN(auto completions, engine->Generate(MixedRequests(config, digest)));
    runs.push_back(std::move(completions));
  }
  for (const auto& run : runs) {
    ASSERT_EQ(run.size(), 14u);
    for (size_t i = 0; i < run.size(); ++i) {
      EXPECT_EQ(run[i].ids, runs[0][i].ids) << i;
      EXPECT_EQ(run[i].logprobs, runs[0][i].logprobs) << i;
      EXPECT_EQ(run[i].ids.size(), 5 + i % 4 * 9);
    }
  }
}

TEST(Engine, GreedyRowsFollowTheReferenceTokenByToken) {
  const LlamaConfig config = SmallConfig();
  const auto weights = RandomWeights(config, 21);
  const std::vector<TokenId> prompt = RandomIds(config, 6, 2);
  ASSERT_OK_AND_ASSIGN(const auto completions,
                       MakeEngine(weights)->Generate(
                           std::vector<EngineRequest>{{.prompt = prompt, .max_new_tokens = 30}}));
  std::vector<TokenId> context = prompt;
  ASSERT_EQ(completions[0].logprobs.size(), 30u);
  for (size_t i = 0; i < completions[0].ids.size(); ++i) {
    const TokenId id = completions[0].ids[i];
    const at::Tensor logits = ReferenceLast(*weights, nullptr, context);
    EXPECT_EQ(id, logits.argmax().item<int64_t>());
    EXPECT_NEAR(completions[0].logprobs[i], at::log_softmax(logits, -1)[id].item<float>(), 1e-4);
    context.push_back(id);
  }
  EXPECT_EQ(completions[0].ids.size(), 30u);
  EXPECT_FALSE(completions[0].stopped);
}

// Greedy rows of a small random model soon repeat themselves, so guesses are right and wrong.
TEST(Engine, GuessingAheadChangesNoOutput) {
  const LlamaConfig config = SmallConfig();
  const auto weights = RandomWeights(config, 7);
  const LoraAdapter adapter = RandomAdapter(config, 4, 8);
  std::vector<std::vector<EngineCompletion>> runs;
  for (const int64_t lookup : {0, 1, 7, 64}) {
    const auto engine = MakeEngine(weights, {.max_rows = 2, .max_lookup_tokens = lookup});
    ASSERT_OK_AND_ASSIGN(const std::string digest, engine->LoadAdapter(adapter));
    std::vector<EngineRequest> requests = MixedRequests(config, digest);
    for (EngineRequest& request : requests) request.max_new_tokens += 40;
    std::vector<TokenId> seen;
    requests[2].on_token = [&seen](TokenId id) {
      seen.push_back(id);
      return seen.size() == 23;
    };
    ASSERT_OK_AND_ASSIGN(const auto plain, engine->Generate({requests.data() + 4, 1}));
    requests[4].stop_ids = {plain[0].ids[30]};
    ASSERT_OK_AND_ASSIGN(auto completions, engine->Generate(requests));
    EXPECT_EQ(completions[2].ids, seen);
    EXPECT_EQ(seen.size(), 23u);
    runs.push_back(std::move(completions));
  }
  for (const auto& run : runs) {
    for (size_t i = 0; i < run.size(); ++i) {
      EXPECT_EQ(run[i].ids, runs[0][i].ids) << i;
      EXPECT_EQ(run[i].logprobs, runs[0][i].logprobs) << i;
      EXPECT_EQ(run[i].stopped, runs[0][i].stopped) << i;
    }
  }
}

TEST(Engine, StopIdsAndOnTokenEndARow) {
  const LlamaConfig config = SmallConfig();
  const auto engine = MakeEngine(RandomWeights(config, 21));
  const EngineRequest plain{.prompt = RandomIds(config, 6, 2), .max_new_tokens = 30};
  ASSERT_OK_AND_ASSIGN(const auto all, engine->Generate(std::vector<EngineRequest>{plain}));
  const std::vector<TokenId>& ids = all[0].ids;
  const TokenId stop = ids[12];
  const auto first = std::find(ids.begin(), ids.end(), stop);

  EngineRequest by_id = plain;
  by_id.stop_ids = {stop};
  EngineRequest by_call = plain;
  by_call.on_token = [stop](TokenId id) { return id == stop; };
  ASSERT_OK_AND_ASSIGN(const auto stopped,
                       engine->Generate(std::vector<EngineRequest>{by_id, by_call}));
  EXPECT_TRUE(stopped[0].stopped && stopped[1].stopped);
  EXPECT_EQ(stopped[0].ids, std::vector<TokenId>(ids.begin(), first));
  EXPECT_EQ(stopped[1].ids, std::vector<TokenId>(ids.begin(), first + 1));
  EXPECT_EQ(stopped[0].stop_id, stop);
  EXPECT_EQ(stopped[0].stop_logprob, all[0].logprobs[static_cast<size_t>(first - ids.begin())]);
  EXPECT_EQ(stopped[1].stop_id, -1);
  EXPECT_EQ(all[0].stop_id, -1);
}

TEST(Engine, AZeroAdapterIsTheBareBaseExactly) {
  const LlamaConfig config = SmallConfig();
  const auto engine = MakeEngine(RandomWeights(config, 7));
  LoraAdapter adapter = RandomAdapter(config, 4, 8);
  for (LoraModule& module : adapter.modules) module.b.assign(module.b.size(), 0.0f);
  ASSERT_OK_AND_ASSIGN(const std::string digest, engine->LoadAdapter(adapter));
  const std::vector<TokenId> ids = RandomIds(config, 50, 3);
  ASSERT_OK_AND_ASSIGN(const auto scored, engine->Score(std::vector<ScoreRequest>{
                                              {ids, "", true}, {ids, digest, true}}));
  EXPECT_EQ(scored[0].last_logits, scored[1].last_logits);
  EXPECT_EQ(scored[0].logprobs, scored[1].logprobs);
}

TEST(Engine, EqualSeedsGiveEqualTextAndOtherSeedsOther) {
  const LlamaConfig config = SmallConfig();
  const auto engine = MakeEngine(RandomWeights(config, 7));
  std::vector<EngineRequest> requests;
  for (uint64_t seed : {1, 1, 2}) {
    requests.push_back(
        {.prompt = {1, 2, 3}, .max_new_tokens = 40, .sampling = {.temperature = 1, .seed = seed}});
  }
  ASSERT_OK_AND_ASSIGN(const auto rows, engine->Generate(requests));
  EXPECT_EQ(rows[0].ids, rows[1].ids);
  EXPECT_NE(rows[0].ids, rows[2].ids);
}

TEST(Engine, SharedPromptsAreComputedOnce) {
  const LlamaConfig config = SmallConfig();
  const auto weights = RandomWeights(config, 7);
  const EngineRequest request{.prompt = RandomIds(config, 200, 5), .max_new_tokens = 1};
  const auto one = MakeEngine(weights);
  const auto five = MakeEngine(weights);
  ASSERT_OK_AND_ASSIGN(const auto a, one->Generate(std::vector<EngineRequest>(1, request)));
  ASSERT_OK_AND_ASSIGN(const auto b, five->Generate(std::vector<EngineRequest>(5, request)));
  EXPECT_EQ(a[0].ids, b[4].ids);
  EXPECT_EQ(five->spent().prompt_tokens, 1000);
  EXPECT_LT(five->spent().flops, 1.1 * one->spent().flops);
}

TEST(Engine, ALaterPromptTakesOverWhatAnEarlierCallComputed) {
  const LlamaConfig config = SmallConfig();
  const auto weights = RandomWeights(config, 7);
  const LoraAdapter adapter = RandomAdapter(config, 4, 8);
  const auto keeping = MakeEngine(weights);
  const auto forgetful = MakeEngine(weights, {.max_prefix_bytes = 0});
  for (Engine* engine : {keeping.get(), forgetful.get()}) {
    ASSERT_OK_AND_ASSIGN(const std::string digest, engine->LoadAdapter(adapter));
    ASSERT_TRUE(engine->Generate(MixedRequests(config, digest)).ok());
  }
  const double kept_before = keeping->spent().flops;
  const double forgetful_before = forgetful->spent().flops;
  std::vector<EngineRequest> requests = MixedRequests(config, AdapterDigest(adapter));
  for (EngineRequest& request : requests) {
    request.prompt.push_back(5);
    request.max_new_tokens = 2;
  }
  ASSERT_OK_AND_ASSIGN(const auto kept, keeping->Generate(requests));
  ASSERT_OK_AND_ASSIGN(const auto computed, forgetful->Generate(requests));
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(kept[i].ids, computed[i].ids) << i;
    EXPECT_EQ(kept[i].logprobs, computed[i].logprobs) << i;
  }
  EXPECT_LT(keeping->spent().flops - kept_before,
            0.5 * (forgetful->spent().flops - forgetful_before));
}

TEST(Engine, RefusesBadRowsByNumber) {
  const LlamaConfig config = SmallConfig();
  const auto engine = MakeEngine(RandomWeights(config, 7), {.max_cache_bytes = 500000});
  struct BadRow {
    const char* name;
    EngineRequest request;
    absl::StatusCode code;
    const char* message;
  };
  const std::vector<BadRow> rows = {
      {"empty", {.prompt = {}}, absl::StatusCode::kInvalidArgument, "row 1: empty prompt"},
      {"high id", {.prompt = {3, 37}}, absl::StatusCode::kInvalidArgument, "id 37 at position 1"},
      {"low id", {.prompt = {-1}}, absl::StatusCode::kInvalidArgument, "id -1 at position 0"},
      {"too long",
       {.prompt = std::vector<TokenId>(500, 1), .max_new_tokens = 13},
       absl::StatusCode::kInvalidArgument,
       "row 1: 500 prompt and 13 new tokens exceed the context of 512"},
      {"no tokens",
       {.prompt = {1}, .max_new_tokens = 0},
       absl::StatusCode::kInvalidArgument,
       "max_new_tokens = 0"},
      {"adapter",
       {.prompt = {1}, .adapter = "feed"},
       absl::StatusCode::kNotFound,
       "row 1: adapter feed is not loaded"},
      {"temperature",
       {.prompt = {1}, .sampling = {.temperature = -1}},
       absl::StatusCode::kInvalidArgument,
       "row 1: temperature"},
      {"top_p",
       {.prompt = {1}, .sampling = {.temperature = 1, .top_p = 0}},
       absl::StatusCode::kInvalidArgument,
       "top_p"},
      {"memory",
       {.prompt = std::vector<TokenId>(440, 1)},
       absl::StatusCode::kResourceExhausted,
       "max_cache_bytes is 500000"},
  };
  for (const BadRow& row : rows) {
    SCOPED_TRACE(row.name);
    EXPECT_THAT(engine->Generate(std::vector<EngineRequest>{{.prompt = {1}}, row.request}),
                StatusIs(row.code, HasSubstr(row.message)));
  }
  EXPECT_EQ(engine->spent().generated_tokens, 0);
}

TEST(Engine, AdaptersLoadOnceAndUnload) {
  const LlamaConfig config = SmallConfig();
  const auto engine = MakeEngine(RandomWeights(config, 7));
  const LoraAdapter adapter = RandomAdapter(config, 4, 8);
  ASSERT_OK_AND_ASSIGN(const std::string digest, engine->LoadAdapter(adapter));
  EXPECT_EQ(digest, AdapterDigest(adapter));
  ASSERT_OK_AND_ASSIGN(const std::string again, engine->LoadAdapter(adapter));
  EXPECT_EQ(engine->LoadedAdapters(), std::vector<std::string>{digest});
  EXPECT_TRUE(engine->UnloadAdapter(digest).ok());
  EXPECT_THAT(engine->UnloadAdapter(digest),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("not loaded")));

  LlamaConfig other = config;
  other.intermediate_size = 45;
  EXPECT_THAT(
      engine->LoadAdapter(RandomAdapter(other, 4, 8)),
      StatusIs(
          absl::StatusCode::kInvalidArgument,
          HasSubstr("model.layers.0.mlp.down_proj: made for [24, 45], the base has [24, 44]")));
  other = config;
  other.num_layers = 4;
  EXPECT_THAT(engine->LoadAdapter(RandomAdapter(other, 4, 8)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("model.layers.3")));
}

}  // namespace
}  // namespace evolora
