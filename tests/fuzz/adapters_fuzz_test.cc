#include <string>
#include <vector>

#include "evolora/adapters/dequantize.h"
#include "evolora/adapters/gguf.h"
#include "evolora/adapters/peft_config.h"
#include "evolora/adapters/safetensors.h"
#include "evolora/core/status_macros.h"
#include "support/mutate.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::MutationResult;
using ::evolora::testing::RunMutations;
using ::evolora::testing::SourcePath;

constexpr int64_t kIterations = 100'000;

absl::Span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string Fixture(const std::string& name) {
  return PosixFileSystem().ReadFile(SourcePath("tests/fixtures/adapters/" + name), 1 << 20).value();
}

// Both ways have to be taken: a driver whose inputs all fail at the first byte tests nothing.
void ExpectBothOutcomes(const MutationResult& result) {
  EXPECT_GT(result.num_ok, 0);
  EXPECT_GT(result.num_refused, 0);
}

// Reads every byte that the views promise.
absl::Status ReadEverything(const SafetensorsFile& file) {
  for (const TensorView& tensor : file.tensors()) {
    ASSIGN_OR_RETURN(const int64_t count, CountElements(tensor.shape));
    std::vector<float> values(count);
    const absl::Status status = DequantizeToFloat(tensor.dtype, tensor.bytes, count, values.data());
    if (!status.ok() && status.code() != absl::StatusCode::kUnimplemented) return status;
  }
  return absl::OkStatus();
}

TEST(SafetensorsFuzz, EveryInputIsReadOrRefused) {
  std::string data(26, '\5');
  const TensorView tensors[] = {{"w", DType::kF32, {2, 2}, Bytes(data).first(16)},
                                {"b", DType::kF16, {5}, Bytes(data).first(10)}};
  const std::string small = SerializeSafetensors(tensors, {{"format", "pt"}}).value();
  ExpectBothOutcomes(RunMutations({small, Fixture("official.safetensors")}, kIterations, 1,
                                  [](const std::string& input) {
                                    auto file = SafetensorsFile::Parse(Bytes(input));
                                    return file.ok() ? ReadEverything(*file) : file.status();
                                  }));
}

absl::Status ReadGguf(const std::string& input) {
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Parse(Bytes(input)));
  for (const GgufTensor& tensor : file.tensors()) {
    ASSIGN_OR_RETURN(const int64_t count, CountElements(tensor.shape));
    std::vector<float> values(count);
    RETURN_IF_ERROR(DequantizeToFloat(tensor.type, tensor.bytes, count, values.data()));
  }
  for (const auto& [key, value] : file.values()) {
    file.GetI32Array(key).IgnoreError();
    file.GetU32(key).IgnoreError();
    file.GetString(key).IgnoreError();
  }
  return absl::OkStatus();
}

TEST(GgufFuzz, EveryInputIsReadOrRefused) {
  const std::string data(320, '\5');
  const int32_t ints[] = {1, -2, 3};
  const std::pair<std::string, GgufValue> values[] = {
      {"general.architecture", GgufValue::String("llama")},
      {"llama.block_count", GgufValue::U32(2)},
      {"eps", GgufValue::F32(1e-5f)},
      {"flag", GgufValue::Bool(true)},
      {"tokens", GgufValue::StringArray({"<s>", "a", "bc"})},
      {"types", GgufValue::I32Array(ints)}};
  const GgufTensor tensors[] = {{"w", GgmlType::kF32, {2, 2}, Bytes(data).first(16)},
                                {"q", GgmlType::kQ4_1, {2, 32}, Bytes(data).first(40)},
                                {"k", GgmlType::kQ6_K, {256}, Bytes(data).first(210)}};
  const std::string small = SerializeGguf({values, 2}, {tensors, 1}).value();
  const std::string full = SerializeGguf(values, tensors).value();
  ExpectBothOutcomes(RunMutations({small, full}, kIterations, 2, ReadGguf));
}

absl::Status ReadConfig(const std::string& input) {
  ASSIGN_OR_RETURN(const PeftConfig config, ParsePeftConfig(input));
  ASSIGN_OR_RETURN(const PeftMatcher matcher, PeftMatcher::Create(config));
  for (const char* path : {"model.layers.0.self_attn.q_proj", "lm_head", ""}) {
    matcher.IsTarget(path);
    matcher.Scale(path);
  }
  return absl::OkStatus();
}

TEST(PeftConfigFuzz, EveryInputIsReadOrRefused) {
  const std::vector<std::string> seeds = {
      Fixture("peft_patterns/adapter_config.json"),
      R"({"peft_type":"LORA","r":8,"lora_alpha":16,"target_modules":"(.*\\.)?[qv]_proj",)"
      R"("exclude_modules":["lm_head"],"layers_to_transform":[0,1],"layers_pattern":["layers"]})",
      R"({"peft_type":"LORA","r":8,"lora_alpha":1.5,"target_modules":"all-linear","use_rslora":true,)"
      R"("rank_pattern":{"q_.*":4,"layers\\.\\d+\\.mlp":2},"alpha_pattern":{"^model":3e0}})"};
  ExpectBothOutcomes(RunMutations(seeds, kIterations, 3, ReadConfig));
}

}  // namespace
}  // namespace evolora
