#include "evolora/model/hf_folder.h"

#include <functional>
#include <string>
#include <vector>

#include "evolora/model/base_model.h"
#include "evolora/model/llama_weights.h"
#include "model/random_model.h"
#include "support/failing_file_system.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::FailingFileSystem;
using ::evolora::testing::IsOk;
using ::evolora::testing::RandomWeights;
using ::evolora::testing::SmallConfig;
using ::evolora::testing::SourcePath;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::HasSubstr;

struct Row {
  std::string name;
  std::function<void(LlamaConfig&)> change;
};

std::vector<Row> Configs() {
  return {
      {"llama", [](LlamaConfig&) {}},
      {"tied", [](LlamaConfig& c) { c.tied_head = true; }},
      {"biases", [](LlamaConfig& c) { c.qkv_bias = c.output_bias = true; }},
      {"linear RoPE",
       [](LlamaConfig& c) {
         c.rope_scaling = RopeScaling::kLinear;
         c.rope_factor = 2.5;
       }},
      {"llama3 RoPE",
       [](LlamaConfig& c) {
         c.rope_theta = 500000;
         c.rope_scaling = RopeScaling::kLlama3;
         c.rope_factor = 8;
         c.rope_original_positions = 64;
       }},
      {"mistral with a window",
       [](LlamaConfig& c) {
         c.architecture = "mistral";
         c.sliding_window = 5;
       }},
      {"mistral without", [](LlamaConfig& c) { c.architecture = "mistral"; }},
      {"qwen2 with windows in some layers",
       [](LlamaConfig& c) {
         c.architecture = "qwen2";
         c.qkv_bias = true;
         c.sliding_window = 7;
         c.layer_uses_window = {false, true, false};
       }},
      {"qwen2 with windows in all",
       [](LlamaConfig& c) {
         c.architecture = "qwen2";
         c.qkv_bias = true;
         c.sliding_window = 7;
       }},
      {"qwen3",
       [](LlamaConfig& c) {
         c.architecture = "qwen3";
         c.qk_norm = true;
       }},
  };
}

TEST(WriteHfFolder, LoadBaseGivesTheSameFunctionBack) {
  for (const Row& row : Configs()) {
    SCOPED_TRACE(row.name);
    LlamaConfig config = SmallConfig();
    row.change(config);
    const auto weights = RandomWeights(config, 5);
    const TempDir dir;
    ASSERT_THAT(WriteHfFolder(PosixFileSystem(), dir.Join("base"), *weights, {}), IsOk());
    ASSERT_OK_AND_ASSIGN(const BaseModel base, LoadBase(PosixFileSystem(), dir.Join("base")));
    ASSERT_OK_AND_ASSIGN(const std::string fingerprint, WeightsFingerprint(*weights));
    EXPECT_EQ(base.weights_fingerprint, fingerprint);
    EXPECT_EQ(base.config().architecture, config.architecture);
    EXPECT_EQ(base.config().max_positions, config.max_positions);
  }
}

TEST(WriteHfFolder, RefusesWhatNoConfigSays) {
  const Row rows[] = {
      {"single frequencies",
       [](LlamaConfig& c) {
         c.rope_freq_factors.assign(static_cast<size_t>(c.head_dim / 2), 1.5);
       }},
      {"a llama with windows", [](LlamaConfig& c) { c.sliding_window = 4; }},
      {"a llama with biases on q, k and v alone", [](LlamaConfig& c) { c.qkv_bias = true; }},
      {"a llama with norms of q and k", [](LlamaConfig& c) { c.qk_norm = true; }},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    LlamaConfig config = SmallConfig();
    row.change(config);
    EXPECT_THAT(HfConfigJson(config),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("config.json: ")));
  }
}

TEST(WriteHfFolder, IsCompleteOrAbsentWhateverWriteFails) {
  const auto weights = RandomWeights(SmallConfig(), 5);
  const HfFolderExtras extras{
      .bos_id = 1, .eos_id = 2, .files = {{"tokenizer_config.json", "{}"}, {"note.txt", "x"}}};
  int failures = 0;
  for (int64_t n = 1;; ++n) {
    const TempDir dir;
    FailingFileSystem failing(PosixFileSystem());
    failing.FailAt(n, absl::ResourceExhaustedError("disk full"));
    const absl::Status status = WriteHfFolder(failing, dir.Join("base"), *weights, extras);
    ASSERT_EQ(PosixFileSystem().Exists(dir.Join("base")), status.ok()) << "write " << n;
    if (status.ok()) break;
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("disk full")));
    ++failures;
    ASSERT_THAT(WriteHfFolder(PosixFileSystem(), dir.Join("base"), *weights, extras), IsOk());
    EXPECT_TRUE(PosixFileSystem().Exists(dir.Join("base/note.txt")));
    EXPECT_THAT(WriteHfFolder(PosixFileSystem(), dir.Join("base"), *weights, extras),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("exists")));
  }
  EXPECT_GE(failures, 4);  // three files and the renaming
}

TEST(TokenizerFiles, AreThoseOfTheFolderOrTheGivenOne) {
  const TempDir dir;
  ASSERT_THAT(PosixFileSystem().CreateDirectories(dir.Join("hf")), IsOk());
  for (const char* name : {"config.json", "tokenizer.json", "chat_template.jinja", "other.json"}) {
    ASSERT_THAT(PosixFileSystem().WriteFileAtomic(dir.Join(std::string("hf/") + name), name),
                IsOk());
  }
  ASSERT_OK_AND_ASSIGN(const auto own, TokenizerFiles(PosixFileSystem(), dir.Join("hf"), ""));
  const std::map<std::string, std::string> expected = {
      {"tokenizer.json", "tokenizer.json"}, {"chat_template.jinja", "chat_template.jinja"}};
  EXPECT_EQ(own, expected);
  const std::string model = SourcePath("tests/fixtures/stories260K/tok512.model");
  ASSERT_OK_AND_ASSIGN(const auto given, TokenizerFiles(PosixFileSystem(), dir.Join("hf"), model));
  ASSERT_EQ(given.size(), 1u);
  EXPECT_FALSE(given.at("tokenizer.model").empty());
  ASSERT_OK_AND_ASSIGN(
      const auto none,
      TokenizerFiles(PosixFileSystem(), SourcePath("tests/fixtures/stories260K/stories260K.bin"),
                     ""));
  EXPECT_TRUE(none.empty());
}

}  // namespace
}  // namespace evolora
