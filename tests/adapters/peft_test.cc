#include "evolora/adapters/peft.h"

#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/sample_adapter.h"
#include "evolora/adapters/dequantize.h"
#include "evolora/adapters/safetensors.h"
#include "evolora/core/json.h"
#include "support/failing_file_system.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::CrashPoint;
using ::evolora::testing::DeltaWeight;
using ::evolora::testing::FailingFileSystem;
using ::evolora::testing::IsOk;
using ::evolora::testing::SampleAdapter;
using ::evolora::testing::SampleDora;
using ::evolora::testing::SourcePath;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

FileSystem& Fs() { return PosixFileSystem(); }

std::string ReadAll(const std::string& path) { return Fs().ReadFile(path, 1 << 20).value(); }

Json ReadConfig(const std::string& dir) {
  return ParseJson(ReadAll(dir + "/adapter_config.json")).value();
}

std::vector<LinearLayer> BaseOf(const LoraAdapter& adapter) {
  std::vector<LinearLayer> base;
  for (const LoraModule& m : adapter.modules)
    base.push_back({m.path, m.in_features, m.out_features});
  return base;
}

void ExpectSameFunction(const LoraAdapter& x, const LoraAdapter& y, double tolerance) {
  ASSERT_EQ(x.modules.size(), y.modules.size());
  for (size_t i = 0; i < x.modules.size(); ++i) {
    SCOPED_TRACE(x.modules[i].path);
    EXPECT_EQ(x.modules[i].path, y.modules[i].path);
    const auto dx = DeltaWeight(x.modules[i]), dy = DeltaWeight(y.modules[i]);
    ASSERT_EQ(dx.size(), dy.size());
    for (size_t k = 0; k < dx.size(); ++k) ASSERT_NEAR(dx[k], dy[k], tolerance);
  }
}

TEST(WritePeftFolder, AnAdapterOfTheProfileReadsBackWithTheSameDigest) {
  for (int64_t rank : {8, 16, 32, 64}) {
    for (double scale : {2.0, 0.1, 1.0 / 3, -1.5}) {
      SCOPED_TRACE(rank);
      TempDir dir;
      const LoraAdapter adapter = SampleAdapter(rank, scale);
      ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("a"), adapter), IsOk());
      ASSERT_OK_AND_ASSIGN(const PeftAdapter read,
                           ReadPeftFolder(Fs(), dir.Join("a"), {BaseOf(adapter)}));
      EXPECT_EQ(AdapterDigest(read.adapter), AdapterDigest(adapter));
      EXPECT_EQ(read.adapter.base_name, "org/tiny");
      EXPECT_EQ(read.adapter.base_revision, "abc123");
      EXPECT_THAT(read.warnings, IsEmpty());
    }
  }
}

TEST(WritePeftFolder, SmallerRanksArePaddedAndTheScaleStays) {
  const std::pair<int64_t, int64_t> rows[] = {{1, 8}, {5, 8}, {9, 16}, {33, 64}};
  for (const auto& [rank, padded] : rows) {
    TempDir dir;
    const LoraAdapter adapter = SampleAdapter(rank, 0.3);
    ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("a"), adapter), IsOk());
    ASSERT_OK_AND_ASSIGN(const PeftAdapter read, ReadPeftFolder(Fs(), dir.Join("a")));
    EXPECT_EQ(read.adapter.modules[0].rank, padded);
    EXPECT_EQ(read.adapter.modules[0].scale, 0.3);
    ExpectSameFunction(read.adapter, adapter, 0);
    ASSERT_OK_AND_ASSIGN(const LoraAdapter portable, ToPortableProfile(adapter));
    EXPECT_EQ(AdapterDigest(read.adapter), AdapterDigest(portable));
  }
}

TEST(WritePeftFolder, RanksBeyondTheProfileAreWrittenAndSaidToBeSo) {
  for (const int64_t rank : {65, 128, 200, 512}) {
    SCOPED_TRACE(rank);
    TempDir dir;
    const LoraAdapter adapter = SampleAdapter(rank);
    EXPECT_THAT(ServeabilityWarnings(adapter),
                ElementsAre(HasSubstr(absl::StrCat("rank ", rank, ": beyond 64"))));
    ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("a"), adapter), IsOk());
    ASSERT_OK_AND_ASSIGN(const PeftAdapter read, ReadPeftFolder(Fs(), dir.Join("a")));
    ASSERT_OK_AND_ASSIGN(const LoraAdapter written, ToPortableProfile(adapter));
    EXPECT_EQ(AdapterDigest(read.adapter), AdapterDigest(written));
    EXPECT_EQ(read.adapter.modules[0].rank, rank <= 128 ? 128 : rank <= 256 ? 256 : 512);
  }
  EXPECT_THAT(ServeabilityWarnings(SampleAdapter(64)), IsEmpty());
}

TEST(WritePeftFolder, DifferentScalesAndRanksAreFoldedIntoB) {
  LoraAdapter adapter = SampleAdapter(4);
  adapter.modules[0] = SampleAdapter(2, 0.7).modules[0];
  adapter.modules[3].scale = -3;
  TempDir dir;
  ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("a"), adapter), IsOk());
  ASSERT_OK_AND_ASSIGN(const PeftAdapter read, ReadPeftFolder(Fs(), dir.Join("a")));
  for (const LoraModule& module : read.adapter.modules) {
    EXPECT_EQ(module.scale, 1);
    EXPECT_EQ(module.rank, 8);
  }
  ExpectSameFunction(read.adapter, adapter, 1e-6);
}

TEST(WritePeftFolder, HalfTypesHoldTheRoundedValues) {
  const LoraAdapter adapter = SampleAdapter(8);
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    TempDir dir;
    PeftWriteOptions options;
    options.dtype = dtype;
    ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("a"), adapter, options), IsOk());
    ASSERT_OK_AND_ASSIGN(const PeftAdapter read, ReadPeftFolder(Fs(), dir.Join("a")));
    ASSERT_OK_AND_ASSIGN(const LoraAdapter portable, ToPortableProfile(adapter, dtype));
    EXPECT_EQ(AdapterDigest(read.adapter), AdapterDigest(portable));
    EXPECT_NE(AdapterDigest(read.adapter), AdapterDigest(adapter));
    EXPECT_NEAR(read.adapter.modules[0].a[3], adapter.modules[0].a[3], 0.002);
  }
}

TEST(WritePeftFolder, WhatTheProfileCannotHoldIsRefused) {
  TempDir dir;
  const auto write = [&](const LoraAdapter& adapter, DType dtype = DType::kF32) {
    PeftWriteOptions options;
    options.dtype = dtype;
    return WritePeftFolder(Fs(), dir.Join("a"), adapter, options);
  };
  EXPECT_THAT(write(SampleAdapter(513)), StatusIs(kInvalid, HasSubstr("rank 513")));
  LoraAdapter large = SampleAdapter(8);
  large.modules[1].b[0] = 70000;
  EXPECT_THAT(write(large, DType::kF16), StatusIs(kInvalid, HasSubstr("70000")));
  EXPECT_THAT(write(large, DType::kI8), StatusIs(kInvalid, HasSubstr("I8")));
  large.modules[1].b[0] = NAN;
  EXPECT_THAT(write(large), StatusIs(kInvalid, HasSubstr("not finite")));
  LoraAdapter nameless = SampleAdapter(8);
  nameless.base_name = "";
  EXPECT_THAT(write(nameless), StatusIs(kInvalid, HasSubstr("base_name")));
  LoraAdapter not_text = SampleAdapter(8);
  not_text.base_name = "\xff";
  EXPECT_THAT(write(not_text), StatusIs(kInvalid, ::testing::_));
  EXPECT_THAT(write(SampleAdapter(8, 1e308)), StatusIs(kInvalid, HasSubstr("lora_alpha")));
  EXPECT_THAT(Fs().ListDirectory(dir.path()).value(), IsEmpty());
}

TEST(WritePeftFolder, ConfigIsThePortableProfile) {
  TempDir dir;
  ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("a"), SampleAdapter(8, 2)), IsOk());
  const Json config = ReadConfig(dir.Join("a"));
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["r"], 8);
  EXPECT_EQ(config["lora_alpha"], 16);
  EXPECT_TRUE(config["lora_alpha"].is_number_integer());
  EXPECT_EQ(config["target_modules"], Json({"q_proj", "v_proj"}));
  EXPECT_EQ(config["base_model_name_or_path"], "org/tiny");
  EXPECT_EQ(config["revision"], "abc123");
  EXPECT_EQ(config["bias"], "none");
  EXPECT_EQ(config["rank_pattern"], Json::object());
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile file,
                       SafetensorsFile::Open(Fs(), dir.Join("a/adapter_model.safetensors")));
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_NE(file.Find("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"), nullptr);
  EXPECT_THAT(ReadAll(dir.Join("a/README.md")), HasSubstr("base_model: \"org/tiny\"\n"));
  EXPECT_THAT(Fs().ListDirectory(dir.Join("a")).value(),
              ElementsAre("README.md", "adapter_config.json", "adapter_model.safetensors"));
}

TEST(WritePeftFolder, ADoraReadsBackAndSaysWhoRefusesIt) {
  EXPECT_THAT(ServeabilityWarnings(SampleAdapter(8)), IsEmpty());
  for (int64_t rank : {3, 16}) {
    SCOPED_TRACE(rank);
    TempDir dir;
    const LoraAdapter adapter = SampleDora(rank);
    EXPECT_THAT(ServeabilityWarnings(adapter), ElementsAre(HasSubstr("vLLM")));
    ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("a"), adapter), IsOk());
    ASSERT_OK_AND_ASSIGN(const PeftAdapter read,
                         ReadPeftFolder(Fs(), dir.Join("a"), {BaseOf(adapter)}));
    ExpectSameFunction(read.adapter, adapter, 0);
    for (size_t i = 0; i < adapter.modules.size(); ++i) {
      EXPECT_EQ(read.adapter.modules[i].magnitude, adapter.modules[i].magnitude);
    }
    EXPECT_EQ(ReadConfig(dir.Join("a"))["use_dora"], true);
    EXPECT_THAT(ReadAll(dir.Join("a/README.md")), HasSubstr("vLLM and llama.cpp refuse it"));
  }
}

TEST(WritePeftFolder, SavedModulesReadBackAndSayWhoRefusesThem) {
  LoraAdapter adapter = SampleAdapter(8);
  adapter.saved_modules = {{"lm_head", {3, 2}, {1, 2, 3, 4, 5, 6.1f}}, {"model.norm", {2}, {7, 8}}};
  const std::string plain = AdapterDigest(SampleAdapter(8));
  EXPECT_NE(AdapterDigest(adapter), plain);
  const std::vector<std::string> warnings = ServeabilityWarnings(adapter);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_THAT(warnings[0], HasSubstr("modules_to_save (lm_head, model.norm)"));
  TempDir dir;
  ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("a"), adapter), IsOk());
  EXPECT_THAT(ReadAll(dir.Join("a/README.md")), HasSubstr(warnings[0]));
  EXPECT_EQ(ReadConfig(dir.Join("a"))["modules_to_save"], Json({"lm_head", "model.norm"}));
  ASSERT_OK_AND_ASSIGN(const PeftAdapter read, ReadPeftFolder(Fs(), dir.Join("a")));
  EXPECT_EQ(AdapterDigest(read.adapter), AdapterDigest(adapter));
  ASSERT_OK_AND_ASSIGN(const LoraAdapter half, ToPortableProfile(adapter, DType::kBF16));
  EXPECT_EQ(half.saved_modules[0].weight[5], 6.09375f);
}

TEST(ValidateLoraAdapter, SavedModulesHaveTheirShapeOrderAndFiniteValues) {
  const struct {
    std::vector<SavedModule> saved;
    const char* message;
  } rows[] = {
      {{{"lm_head", {3, 2}, {1, 2, 3}}}, "3 values are not its 2-dimensional shape"},
      {{{"lm_head", {}, {}}}, "0-dimensional"},
      {{{"lm_head", {0}, {}}}, "a side of 0"},
      {{{"model.norm", {1}, {1}}, {"lm_head", {1}, {1}}}, "is not after"},
      {{{"lm_head", {1}, {NAN}}}, "weight[0] is not finite"},
      {{{"model.layers.0.self_attn.q_proj", {1}, {1}}}, "both adapted and saved"},
  };
  for (const auto& row : rows) {
    LoraAdapter adapter = SampleAdapter(8);
    adapter.saved_modules = row.saved;
    EXPECT_THAT(ValidateLoraAdapter(adapter), StatusIs(kInvalid, HasSubstr(row.message)));
  }
}

TEST(WritePeftFolder, LeafNamesOnlyWhenTheyMeanExactlyTheAdaptedModules) {
  TempDir dir;
  LoraAdapter partial = SampleAdapter(8);
  partial.modules.erase(partial.modules.begin() + 1);  // v_proj of layer 0 is not adapted
  ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("hole"), partial), IsOk());
  EXPECT_EQ(ReadConfig(dir.Join("hole"))["target_modules"][0], "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(ReadConfig(dir.Join("hole"))["target_modules"].size(), 3u);
  // All layers of the adapter, but the base has one more.
  PeftWriteOptions options;
  options.base_modules = BaseOf(SampleAdapter(8, 2, 3));
  ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("base"), SampleAdapter(8), options), IsOk());
  EXPECT_EQ(ReadConfig(dir.Join("base"))["target_modules"].size(), 4u);
  ASSERT_THAT(ReadPeftFolder(Fs(), dir.Join("base"), {options.base_modules}), IsOk());
}

TEST(WritePeftFolder, AModuleThatTheBaseLacksIsRefused) {
  TempDir dir;
  PeftWriteOptions options;
  options.base_modules = BaseOf(SampleAdapter(8, 2, 1));
  EXPECT_THAT(WritePeftFolder(Fs(), dir.Join("a"), SampleAdapter(8), options),
              StatusIs(kInvalid, HasSubstr("layers.1.self_attn.q_proj' does not exist")));
  EXPECT_THAT(Fs().ListDirectory(dir.path()).value(), IsEmpty());
}

TEST(WritePeftFolder, EffectProofTravelsWithTheDigestOfTheWrittenAdapter) {
  TempDir dir;
  const float base[] = {1, 2, 3}, adapted[] = {3, 2, 1};
  PeftWriteOptions options;
  options.effect_proof.base_weights_fingerprint = std::string(64, 'b');
  options.effect_proof.tolerance = 0.1;
  options.effect_proof.probes = {MakeEffectProbe({1}, base, adapted, 2).value()};
  options.effect_proof.adapter_digest = AdapterDigest(SampleAdapter(5));
  EXPECT_THAT(WritePeftFolder(Fs(), dir.Join("a"), SampleAdapter(5), options),
              StatusIs(kInvalid, HasSubstr("effect proof is of adapter")));
  options.effect_proof.adapter_digest = AdapterDigest(ToPortableProfile(SampleAdapter(5)).value());
  ASSERT_THAT(WritePeftFolder(Fs(), dir.Join("a"), SampleAdapter(5), options), IsOk());
  ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(ReadAll(dir.Join("a/effect_proof.json"))));
  EXPECT_THAT(EffectProofFromJson(json), IsOk());
}

TEST(WritePeftFolder, AnExistingFolderIsNeverTouched) {
  TempDir dir;
  ASSERT_TRUE(Fs().CreateDirectories(dir.Join("a")).ok());
  EXPECT_THAT(WritePeftFolder(Fs(), dir.Join("a"), SampleAdapter(8)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("exists")));
  EXPECT_THAT(Fs().ListDirectory(dir.Join("a")).value(), IsEmpty());
}

TEST(WritePeftFolder, ACrashAtAnyWriteLeavesTheWholeFolderOrNone) {
  const LoraAdapter adapter = SampleAdapter(8);
  for (CrashPoint point : {CrashPoint::kBefore, CrashPoint::kTorn, CrashPoint::kAfter}) {
    int n = 1;
    for (;; ++n) {
      TempDir dir;
      FailingFileSystem fs(Fs());
      fs.CrashAt(n, point);
      const absl::Status status = WritePeftFolder(fs, dir.Join("a"), adapter);
      if (!fs.crashed()) {
        EXPECT_THAT(status, IsOk());
        break;
      }
      if (Fs().Exists(dir.Join("a"))) {
        ASSERT_OK_AND_ASSIGN(const PeftAdapter read, ReadPeftFolder(Fs(), dir.Join("a")));
        EXPECT_EQ(AdapterDigest(read.adapter), AdapterDigest(adapter));
      } else {
        EXPECT_THAT(WritePeftFolder(Fs(), dir.Join("a"), adapter), IsOk()) << "after call " << n;
      }
    }
    EXPECT_GT(n, 5);
  }
}

TEST(WritePeftFolder, AFailedWriteIsReportedAndLeavesNothing) {
  for (int n = 1; n <= 6; ++n) {
    TempDir dir;
    FailingFileSystem fs(Fs());
    fs.FailAt(n, absl::ResourceExhaustedError("disk full"));
    EXPECT_THAT(WritePeftFolder(fs, dir.Join("a"), SampleAdapter(8)),
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("disk full")));
    EXPECT_THAT(Fs().ListDirectory(dir.path()).value(), IsEmpty()) << n;
  }
}

// tests/fixtures/adapters/peft_patterns: saved by PEFT 0.21 (tools/golden/peft_golden.py).
TEST(ReadPeftFolder, AFolderOfPeftGivesPeftsScalesAndDeltas) {
  const std::string dir = SourcePath("tests/fixtures/adapters/peft_patterns");
  ASSERT_OK_AND_ASSIGN(const PeftAdapter read, ReadPeftFolder(Fs(), dir));
  EXPECT_THAT(read.warnings, IsEmpty());
  std::ifstream expected(dir + "/expected.txt");
  std::string path;
  int64_t rank, in, out;
  double scale, check;
  size_t i = 0;
  for (; expected >> path >> rank >> in >> out >> scale >> check; ++i) {
    SCOPED_TRACE(path);
    ASSERT_LT(i, read.adapter.modules.size());
    const LoraModule& module = read.adapter.modules[i];
    EXPECT_EQ(module.path, path);
    EXPECT_EQ(module.rank, rank);
    EXPECT_EQ(module.in_features, in);
    EXPECT_EQ(module.out_features, out);
    EXPECT_EQ(module.scale, scale);
    const std::vector<double> delta = DeltaWeight(module);
    double sum = 0;
    for (size_t k = 0; k < delta.size(); ++k) sum += static_cast<double>(k % 97) * delta[k];
    EXPECT_NEAR(sum, check, 1e-9 * std::abs(check));
  }
  EXPECT_EQ(i, read.adapter.modules.size());
}

// Builds broken folders from a good one.
class PeftFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(WritePeftFolder(Fs(), Path(), SampleAdapter(8)), IsOk());
    auto file = SafetensorsFile::Open(Fs(), Model());
    ASSERT_THAT(file, IsOk());
    for (const TensorView& t : file->tensors()) {
      values_[t.name] = std::string(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
      tensors_[t.name] = t;
    }
    config_ = ReadConfig(Path());
  }

  std::string Path() const { return dir_.Join("a"); }
  std::string Model() const { return Path() + "/adapter_model.safetensors"; }
  static std::string Key(const std::string& end) {
    return "base_model.model.model.layers.0.self_attn." + end;
  }

  void Add(const std::string& name, std::vector<int64_t> shape) {
    int64_t count = CountElements(shape).value();
    values_[name] = std::string(4 * count, '\0');
    tensors_[name] = {name, DType::kF32, std::move(shape), {}};
  }
  void Rename(const std::string& from, const std::string& to) {
    values_[to] = values_[from];
    tensors_[to] = tensors_[from];
    Remove(from);
  }
  void Remove(const std::string& name) {
    values_.erase(name);
    ASSERT_EQ(tensors_.erase(name), 1u) << name;
  }

  absl::StatusOr<PeftAdapter> Read(const PeftReadOptions& options = {}) {
    std::vector<TensorView> list;
    for (auto& [name, tensor] : tensors_) {
      const std::string& bytes = values_[name];
      list.push_back({name,
                      tensor.dtype,
                      tensor.shape,
                      {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}});
    }
    EXPECT_THAT(WriteSafetensors(Fs(), Model(), list, {}), IsOk());
    EXPECT_THAT(Fs().WriteFileAtomic(Path() + "/adapter_config.json", config_.dump()), IsOk());
    return ReadPeftFolder(Fs(), Path(), options);
  }

  TempDir dir_;
  std::map<std::string, std::string> values_;
  std::map<std::string, TensorView> tensors_;
  Json config_;
};

TEST_F(PeftFolder, UnchangedItIsRead) { EXPECT_THAT(Read(), IsOk()); }

TEST_F(PeftFolder, AWithoutBIsRefused) {
  Remove(Key("q_proj.lora_B.weight"));
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("has lora_A, lacks lora_B")));
}

TEST_F(PeftFolder, BWithoutAIsRefused) {
  Remove(Key("q_proj.lora_A.weight"));
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("has lora_B, lacks lora_A")));
}

TEST_F(PeftFolder, UseDoraAndTheMagnitudesHaveToAgree) {
  config_["use_dora"] = true;
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("lacks a lora_magnitude_vector")));
  for (const char* layer : {"0", "1"}) {
    const std::string prefix =
        std::string("base_model.model.model.layers.") + layer + ".self_attn.";
    Add(prefix + "q_proj.lora_magnitude_vector", {8});
    Add(prefix + "v_proj.lora_magnitude_vector", {4});
  }
  EXPECT_THAT(Read(), IsOk());
  Add(Key("v_proj.lora_magnitude_vector"), {8});
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("shape [8], B has 4 rows")));
  config_["use_dora"] = "yes";
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("use_dora: not a bool")));
}

TEST_F(PeftFolder, NoTensorsIsRefused) {
  tensors_.clear();
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("no tensors")));
}

TEST_F(PeftFolder, OtherTensorNamesAreRefusedByName) {
  const struct {
    std::string name;
    absl::StatusCode code;
    const char* message;
  } rows[] = {
      {"model.layers.0.self_attn.q_proj.lora_A.weight", kInvalid, "does not begin with"},
      {"base_model.model.layers.0.q_proj.lora_A.default.weight", kInvalid, "ends neither"},
      {Key("q_proj.weight"), kInvalid, "over the base's own weights"},
      {Key("q_proj.base_layer.weight"), kInvalid, "over the base's own weights"},
      {"lm_head.weight", kInvalid, "over the base's own weights"},
      {Key("q_proj.lora_magnitude_vector"), kInvalid,
       "has a lora_magnitude_vector, use_dora is false"},
      {Key("q_proj.lora_magnitude_vector.weight"), kInvalid, "over the base's own weights"},
      {Key("q_proj.lora_B.bias"), kUnimplemented, ".bias"},
      {Key("q_proj.bias"), kUnimplemented, ".bias"},
      {"base_model.model.model.embed_tokens.lora_embedding_A", kUnimplemented, "lora_embedding_A"},
      {"base_model.model.lm_head.modules_to_save.weight", kUnimplemented, "modules_to_save"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.name);
    Add(row.name, {2, 2});
    EXPECT_THAT(Read(), StatusIs(row.code, HasSubstr(row.message)));
    Remove(row.name);
  }
}

TEST_F(PeftFolder, SavedModulesAndTheirConfigHaveToAgree) {
  Add("base_model.model.lm_head.weight", {2, 2});
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("over the base's own weights")));
  config_["modules_to_save"] = {"lm_head"};
  EXPECT_THAT(Read(), IsOk());
  config_["modules_to_save"] = {"lm_head", "embed_tokens"};
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("'embed_tokens' has no tensors")));
}

TEST_F(PeftFolder, ALayerThatDoesNotExistIsRefusedWhenTheBaseIsKnown) {
  const PeftReadOptions options = {BaseOf(SampleAdapter(8))};
  EXPECT_THAT(Read(options), IsOk());
  for (const char* half : {"lora_A", "lora_B"}) {
    Add(std::string("base_model.model.model.layers.99.self_attn.q_proj.") + half + ".weight",
        {8, 8});
  }
  EXPECT_THAT(Read(), IsOk());
  EXPECT_THAT(Read(options), StatusIs(kInvalid, HasSubstr("layers.99.self_attn.q_proj' does not")));
}

TEST_F(PeftFolder, SizesHaveToFitTheBase) {
  PeftReadOptions options = {BaseOf(SampleAdapter(8))};
  options.base_modules[1].out_features = 8;
  EXPECT_THAT(Read(options), StatusIs(kInvalid, HasSubstr("8 -> 4, the base has 8 -> 8")));
}

TEST_F(PeftFolder, ATargetedLayerWithoutTensorsIsRefused) {
  const PeftReadOptions options = {BaseOf(SampleAdapter(8, 2, 3))};
  EXPECT_THAT(Read(options),
              StatusIs(kInvalid, HasSubstr("layers.2.self_attn.q_proj' is targeted")));
}

TEST_F(PeftFolder, TargetsAndTensorsHaveToAgree) {
  config_["target_modules"] = {"q_proj", "v_proj", "o_proj"};
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("'o_proj' has no tensors")));
  config_["target_modules"] = {"q_proj"};
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("v_proj' has tensors, but")));
  config_["target_modules"] = {"q_proj", "v_proj"};
  config_["exclude_modules"] = {"layers.1.self_attn.v_proj"};
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("layers.1.self_attn.v_proj' has tensors, but")));
}

TEST_F(PeftFolder, AnExcludedTargetNeedsNoTensors) {
  config_["target_modules"] = {"q_proj", "v_proj", "k_proj"};
  config_["exclude_modules"] = {"k_proj"};
  EXPECT_THAT(Read(), IsOk());
}

TEST_F(PeftFolder, RanksHaveToAgreeWithTheConfig) {
  config_["r"] = 4;
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("rank 8, the config says 4")));
  config_["rank_pattern"] = {{"q_proj", 8}, {"v_proj", 8}};
  EXPECT_THAT(Read(), IsOk());
}

TEST_F(PeftFolder, ShapesHaveToBeMatricesOfOneRank) {
  Add(Key("q_proj.lora_B.weight"), {8, 7});
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("does not follow A's rank 8")));
  Add(Key("q_proj.lora_B.weight"), {8, 8, 1});
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("not a matrix")));
}

TEST_F(PeftFolder, ValuesHaveToBeFinite) {
  const float nan = NAN;
  values_[Key("v_proj.lora_B.weight")].replace(4, 4, reinterpret_cast<const char*>(&nan), 4);
  EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr("v_proj: B[1] is not finite")));
}

TEST_F(PeftFolder, IntegersAreNoWeights) {
  tensors_[Key("q_proj.lora_A.weight")].dtype = DType::kI32;
  EXPECT_THAT(Read(), StatusIs(kUnimplemented, HasSubstr("I32")));
}

TEST_F(PeftFolder, PicklesAreRefusedOrReported) {
  ASSERT_TRUE(Fs().WriteFileAtomic(Path() + "/optimizer.pt", "x").ok());
  ASSERT_OK_AND_ASSIGN(const PeftAdapter read, Read());
  EXPECT_THAT(read.warnings, ElementsAre(HasSubstr("optimizer.pt")));
  for (const char* name : {"adapter_model.bin", "adapter_model.pt"}) {
    ASSERT_TRUE(Fs().WriteFileAtomic(Path() + "/" + name, "x").ok());
    EXPECT_THAT(Read(), StatusIs(kInvalid, HasSubstr(name)));
    ASSERT_TRUE(Fs().RemoveFile(Path() + "/" + name).ok());
  }
}

TEST_F(PeftFolder, MissingFilesAreNamed) {
  ASSERT_TRUE(Fs().RemoveFile(Model()).ok());
  EXPECT_THAT(ReadPeftFolder(Fs(), Path()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("adapter_model.safetensors")));
  ASSERT_TRUE(Fs().RemoveFile(Path() + "/adapter_config.json").ok());
  EXPECT_THAT(ReadPeftFolder(Fs(), Path()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("adapter_config.json")));
}

TEST_F(PeftFolder, ATornFileIsDataLoss) {
  const std::string bytes = ReadAll(Model());
  ASSERT_TRUE(Fs().WriteFileAtomic(Model(), bytes.substr(0, bytes.size() - 1)).ok());
  EXPECT_THAT(ReadPeftFolder(Fs(), Path()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("adapter_model.safetensors")));
}

}  // namespace
}  // namespace evolora
