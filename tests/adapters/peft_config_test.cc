#include "evolora/adapters/peft_config.h"

#include <cmath>
#include <string>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

// A minimal config with `extra` members.
std::string Config(const std::string& extra, const std::string& targets = R"(["q_proj"])") {
  return R"({"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":)" + targets +
         (extra.empty() ? "" : ",") + extra + "}";
}

PeftMatcher Matcher(const std::string& text) {
  absl::StatusOr<PeftConfig> config = ParsePeftConfig(text);
  EXPECT_THAT(config, testing::IsOk());
  absl::StatusOr<PeftMatcher> matcher = PeftMatcher::Create(*config);
  EXPECT_THAT(matcher, testing::IsOk());
  return *std::move(matcher);
}

TEST(PeftConfig, ReadsTheFieldsThatCount) {
  ASSERT_OK_AND_ASSIGN(
      const PeftConfig config,
      ParsePeftConfig(Config(R"("base_model_name_or_path":"org/base","revision":"r1",
          "use_rslora":true,"layers_to_transform":3,"layers_pattern":"layers",
          "exclude_modules":["x"],"lora_dropout":0.5,"inference_mode":true)")));
  EXPECT_EQ(config.base_model_name_or_path, "org/base");
  EXPECT_EQ(config.revision, "r1");
  EXPECT_EQ(config.rank, 4);
  EXPECT_EQ(config.alpha, 8);
  EXPECT_TRUE(config.use_rslora);
  EXPECT_THAT(config.layers_to_transform, ElementsAre(3));
  EXPECT_THAT(config.layers_pattern, ElementsAre("layers"));
}

TEST(PeftConfig, WhatChangesTheFunctionIsRefusedByName) {
  const char* keys[] = {R"("bias":"all")",
                        R"("bias":"lora_only")",
                        R"("layer_replication":[[0,4]])",
                        R"("lora_bias":true)",
                        R"("use_qalora":true)",
                        R"("trainable_token_indices":[1])",
                        R"("alora_invocation_tokens":[1])",
                        R"("arrow_config":{"top_k":3})",
                        R"("use_bdlora":{"nblocks":2})",
                        R"("target_parameters":["w"])",
                        R"("fan_in_fan_out":true)",
                        R"("megatron_config":{"a":1})",
                        R"("ensure_weight_tying":true)",
                        R"("kasa_config":{"beta":1})",
                        R"("init_lora_weights":"pissa")",
                        R"("init_lora_weights":"pissa_niter_4")",
                        R"("init_lora_weights":"olora")",
                        R"("init_lora_weights":"corda")",
                        R"("init_lora_weights":"loftq")",
                        R"("init_lora_weights":"lora_ga")",
                        R"("init_lora_weights":"new_one")",
                        R"("use_new_thing":true)",
                        R"("new_config":{"a":1})",
                        R"("new_list":[0])"};
  for (const std::string key : keys) {
    SCOPED_TRACE(key);
    const std::string name = key.substr(1, key.find('"', 1) - 1);
    EXPECT_THAT(ParsePeftConfig(Config(key)), StatusIs(kUnimplemented, HasSubstr(name)));
  }
}

TEST(PeftConfig, ModulesToSaveMatchByTheEndOfTheirPathAsText) {
  ASSERT_OK_AND_ASSIGN(const PeftConfig config,
                       ParsePeftConfig(Config(R"("modules_to_save":["lm_head","norm"])")));
  EXPECT_THAT(config.modules_to_save, ElementsAre("lm_head", "norm"));
  ASSERT_OK_AND_ASSIGN(const PeftMatcher matcher, PeftMatcher::Create(config));
  EXPECT_TRUE(matcher.IsSaved("lm_head"));
  EXPECT_TRUE(matcher.IsSaved("model.layers.0.input_layernorm"));
  EXPECT_FALSE(matcher.IsSaved("model.embed_tokens"));
  EXPECT_THAT(ParsePeftConfig(Config(R"("modules_to_save":"lm_head")")),
              StatusIs(kInvalid, HasSubstr("modules_to_save: not a list")));
}

TEST(PeftConfig, DoraIsRead) {
  ASSERT_OK_AND_ASSIGN(const PeftConfig plain, ParsePeftConfig(Config(R"("use_dora":null)")));
  EXPECT_FALSE(plain.use_dora);
  ASSERT_OK_AND_ASSIGN(const PeftConfig dora, ParsePeftConfig(Config(R"("use_dora":true)")));
  EXPECT_TRUE(dora.use_dora);
}

TEST(PeftConfig, WhatDoesNotChangeTheFunctionPasses) {
  std::vector<std::string> warnings;
  const char* keys[] = {R"("use_dora":false)",
                        R"("bias":"none")",
                        R"("modules_to_save":null)",
                        R"("modules_to_save":[])",
                        R"("init_lora_weights":true)",
                        R"("init_lora_weights":false)",
                        R"("init_lora_weights":"gaussian")",
                        R"("init_lora_weights":"eva","eva_config":{"rho":2})",
                        R"("loftq_config":{})",
                        R"("auto_mapping":{"a":"b"})",
                        R"("layers_pattern":[])",
                        R"("layers_pattern":"")",
                        R"("layers_to_transform":[])",
                        R"("megatron_core":"megatron.core")"};
  for (const char* key : keys) {
    SCOPED_TRACE(key);
    EXPECT_THAT(ParsePeftConfig(Config(key), &warnings), testing::IsOk());
  }
  EXPECT_THAT(warnings, IsEmpty());
  for (const char* key : {R"("new_off":false)", R"("new_null":null)", R"("new_number":16)",
                          R"("new_text":"x")", R"("new_empty":{})"}) {
    SCOPED_TRACE(key);
    warnings.clear();
    EXPECT_THAT(ParsePeftConfig(Config(key), &warnings), testing::IsOk());
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_THAT(warnings[0], HasSubstr("unknown key 'new_"));
  }
}

TEST(PeftConfig, BrokenValuesAreRefusedByName) {
  const struct {
    std::string text;
    const char* message;
  } rows[] = {
      {"", "adapter_config.json"},
      {"[]", "not a JSON object"},
      {"{}", "peft_type: missing"},
      {R"({"peft_type":"LORA","r":4,"lora_alpha":8})", "target_modules: missing"},
      {R"({"peft_type":"LORA","r":4,"target_modules":["q"]})", "lora_alpha: missing"},
      {R"({"peft_type":"LORA","lora_alpha":4,"target_modules":["q"]})", "r: missing"},
      {R"({"peft_type":"LOHA","r":4,"lora_alpha":8,"target_modules":["q"]})", "'LOHA'"},
      {Config(R"("r":4)"), "adapter_config.json"},  // a key twice
      {Config("", "null"), "target_modules: missing"},
      {Config("", "[]"), "target_modules: empty list"},
      {Config("", R"("")"), "target_modules: empty"},
      {Config("", R"([1])"), "target_modules: an entry"},
      {Config("", "7"), "target_modules: neither"},
      {R"({"peft_type":"LORA","r":0,"lora_alpha":8,"target_modules":["q"]})", "r: not an integer"},
      {R"({"peft_type":"LORA","r":4.0,"lora_alpha":8,"target_modules":["q"]})",
       "r: not an integer"},
      {R"({"peft_type":"LORA","r":4,"lora_alpha":NaN,"target_modules":["q"]})",
       "line 1, column 40"},
      {R"({"peft_type":"LORA","r":4,"lora_alpha":1e999,"target_modules":["q"]})", "line 1"},
      {R"({"peft_type":"LORA","r":4,"lora_alpha":0,"target_modules":["q"]})", "lora_alpha: 0"},
      {R"({"peft_type":"LORA","r":4,"lora_alpha":"8","target_modules":["q"]})",
       "lora_alpha: not a n"},
      {Config(R"("rank_pattern":{"q_proj":0})"), "rank_pattern['q_proj']"},
      {Config(R"("alpha_pattern":{"q_proj":null})"), "alpha_pattern['q_proj']"},
      {Config(R"("rank_pattern":[])"), "rank_pattern: not an object"},
      {Config(R"("use_rslora":1)"), "use_rslora: not a bool"},
      {Config(R"("layers_to_transform":"all")"), "layers_to_transform"},
      {Config(R"("layers_to_transform":[-1])"), "layers_to_transform"},
      {Config(R"("layers_pattern":5)"), "layers_pattern"},
      {Config(R"("revision":5)"), "revision: not a text"},
      {Config(R"("init_lora_weights":5)"), "init_lora_weights"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.text);
    EXPECT_THAT(ParsePeftConfig(row.text), StatusIs(kInvalid, HasSubstr(row.message)));
  }
}

TEST(PeftMatcher, TheFirstPatternOfTheFileWins) {
  // Sorted by key, "a.*" would come first: PEFT reads the file's order.
  const PeftMatcher matcher = Matcher(Config(
      R"("rank_pattern":{"q_proj":1,"attn.q_proj":2,"attn\\..*":3},
         "alpha_pattern":{"v_proj":30,".*":40})"));
  EXPECT_EQ(matcher.Rank("m.attn.q_proj"), 1);
  EXPECT_EQ(matcher.Rank("m.attn.k_proj"), 3);
  EXPECT_EQ(matcher.Rank("attn.k_proj"), 3);
  EXPECT_EQ(matcher.Rank("m.xattn.k_proj"), 4);   // a component must begin where the key does
  EXPECT_EQ(matcher.Rank("m.attn.q_proj.x"), 3);  // and the key must reach the end
  EXPECT_EQ(matcher.Scale("m.attn.v_proj"), 30.0 / 3);
  EXPECT_EQ(matcher.Scale("m.xattn.k_proj"), 40.0 / 4);
}

TEST(PeftMatcher, RsLoraDividesByTheRoot) {
  EXPECT_EQ(Matcher(Config("")).Scale("q_proj"), 2);
  EXPECT_EQ(Matcher(Config(R"("use_rslora":true)")).Scale("q_proj"), 4);
  EXPECT_EQ(Matcher(Config(R"("use_rslora":true,"rank_pattern":{"q_proj":3})")).Scale("q_proj"),
            8 / std::sqrt(3.0));
}

TEST(PeftMatcher, TargetsFollowPeft) {
  const struct {
    std::string config;
    const char* path;
    bool expected;
  } rows[] = {
      {Config(""), "model.layers.0.q_proj", true},
      {Config(""), "q_proj", true},
      {Config(""), "model.xq_proj", false},
      {Config(""), "model.q_proj.x", false},
      {Config("", R"(["layers.0.q_proj"])"), "model.layers.0.q_proj", true},
      {Config("", R"(".*\\.[qv]_proj")"), "model.layers.0.v_proj", true},
      {Config("", R"(".*\\.[qv]_proj")"), "v_proj", false},
      {Config("", R"("q_proj")"), "model.q_proj", false},  // a text is a pattern of the whole path
      {Config("", R"("all-linear")"), "model.layers.0.mlp.up_proj", true},
      {Config("", R"("all-linear")"), "lm_head", false},
      {Config(R"("exclude_modules":["layers.1.q_proj"])"), "model.layers.1.q_proj", false},
      {Config(R"("exclude_modules":["layers.1.q_proj"])"), "model.layers.0.q_proj", true},
      {Config(R"("exclude_modules":".*1.*")"), "model.layers.1.q_proj", false},
      {Config(R"("layers_to_transform":[1,3])"), "model.layers.3.attn.q_proj", true},
      {Config(R"("layers_to_transform":[1,3])"), "model.layers.2.attn.q_proj", false},
      {Config(R"("layers_to_transform":1)"), "model.layers.2.experts.1.q_proj", false},
      {Config(R"("layers_to_transform":2)"), "model.layers.2.experts.1.q_proj", true},
      {Config(R"("layers_to_transform":2)"), "model.q_proj", false},
      {Config(R"("layers_to_transform":2,"layers_pattern":"blocks")"), "a.blocks.2.q_proj", true},
      {Config(R"("layers_to_transform":2,"layers_pattern":["h","layers"])"), "layers.2.q_proj",
       true},
      {Config(R"("layers_to_transform":2,"layers_pattern":"blocks")"), "layers.2.q_proj", false},
      {Config(R"("layers_to_transform":2)", R"(["layers.1.q_proj"])"), "layers.1.q_proj", true},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.config + " " + row.path);
    EXPECT_EQ(Matcher(row.config).IsTarget(row.path), row.expected);
  }
}

TEST(PeftMatcher, PatternsThatCannotBeBoundedAreRefused) {
  const struct {
    std::string config;
    const char* key;
  } rows[] = {
      {Config("", R"("(?=.*q_proj).*")"), "target_modules"},
      {Config("", R"("(a)\\1")"), "target_modules"},
      {Config("", R"("(((a{100}){100}){100}){100}")"), "target_modules"},
      {Config("", "\"" + std::string(2000, 'a') + "\""), "target_modules"},
      {Config(R"("exclude_modules":"(")"), "exclude_modules"},
      {Config(R"("rank_pattern":{"[":1})"), "rank_pattern"},
      {Config(R"x("alpha_pattern":{"(?!x)":1})x"), "alpha_pattern"},
      {Config(R"("layers_to_transform":1,"layers_pattern":"[")"), "layers_pattern"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.config.substr(0, 100));
    ASSERT_OK_AND_ASSIGN(const PeftConfig config, ParsePeftConfig(row.config));
    EXPECT_THAT(PeftMatcher::Create(config).status(), StatusIs(kUnimplemented, HasSubstr(row.key)));
  }
}

TEST(PeftMatcher, AnExponentialPatternAnswersAtOnce) {
  // Hangs Python's re for hours.
  const PeftMatcher matcher = Matcher(Config("", R"("(([a-z]+)+)+\\.weight")"));
  EXPECT_FALSE(matcher.IsTarget(std::string(200, 'a') + "!"));
}

}  // namespace
}  // namespace evolora
