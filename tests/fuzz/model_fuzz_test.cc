// Readers that need the model library: base files and what `evolora train` is given.
#include <fstream>
#include <string>
#include <vector>

#include "evolora/adapters/gguf.h"
#include "evolora/model/base_model.h"
#include "evolora/trainers/recipe.h"
#include "evolora/trainers/training_data.h"
#include "support/mutate.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::MutationResult;
using ::evolora::testing::RunMutations;
using ::evolora::testing::SourcePath;
using ::evolora::testing::TempDir;

std::string File(const std::string& name) {
  return PosixFileSystem().ReadFile(SourcePath(name), 16 << 20).value();
}

// Mutations of one file of a base, the others as they are.
class BaseFuzz : public ::testing::Test {
 protected:
  absl::Status Load(const std::string& path) {
    return LoadBase(PosixFileSystem(), directory_.path() + path, {.fingerprint_weights = false})
        .status();
  }
  absl::Status Write(const std::string& name, const std::string& bytes) {
    std::ofstream file(directory_.path() + "/" + name, std::ios::binary | std::ios::trunc);
    file << bytes;
    return file.flush() ? absl::OkStatus() : absl::UnavailableError("cannot write " + name);
  }

  TempDir directory_;
};

TEST_F(BaseFuzz, HuggingFaceConfig) {
  ASSERT_TRUE(Write("model.safetensors", File("tests/golden/model/llama/model.safetensors")).ok());
  const MutationResult result = RunMutations(
      {File("tests/golden/model/llama/config.json")}, 1000, 1, [&](const std::string& config) {
        const absl::Status written = Write("config.json", config);
        return written.ok() ? Load("") : written;
      });
  EXPECT_GT(result.num_refused, 0);
}

TEST_F(BaseFuzz, Llama2cFile) {
  // The head decides; the weights behind it are numbers of any kind.
  const std::string file = File("tests/fixtures/stories260K/stories260K.bin");
  const std::string head = file.substr(0, 28);
  const MutationResult result = RunMutations({head}, 1000, 2, [&](const std::string& mutated) {
    const absl::Status written = Write("model.bin", mutated + file.substr(28));
    return written.ok() ? Load("/model.bin") : written;
  });
  EXPECT_GT(result.num_refused, 0);
}

// A file of one layer whose matrices are in blocks of as many types.
struct GgufBytes {
  std::string head;  // what describes the tensors
  std::string data;
};
GgufBytes MixedGguf() {
  using enum GgmlType;
  struct Tensor {
    const char* name;
    GgmlType type;
    std::vector<int64_t> shape;
  };
  const Tensor tensors[] = {
      {"token_embd.weight", kF16, {16, 256}},      {"output_norm.weight", kF32, {256}},
      {"blk.0.attn_norm.weight", kF32, {256}},     {"blk.0.ffn_norm.weight", kF32, {256}},
      {"blk.0.attn_q.weight", kQ4_K, {64, 256}},   {"blk.0.attn_k.weight", kQ5_K, {32, 256}},
      {"blk.0.attn_v.weight", kQ6_K, {32, 256}},   {"blk.0.attn_output.weight", kQ4_0, {256, 64}},
      {"blk.0.ffn_gate.weight", kQ5_0, {32, 256}}, {"blk.0.ffn_up.weight", kQ5_1, {32, 256}},
      {"blk.0.ffn_down.weight", kQ8_0, {256, 32}}};
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<GgufTensor> list;
  size_t num_bytes = 0;
  for (const Tensor& tensor : tensors) {
    const GgmlBlock block = *GgmlBlockOf(tensor.type);
    const int64_t rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
    bytes.emplace_back(
        static_cast<size_t>(rows * tensor.shape.back() / block.elements * block.bytes));
    // Small enough that every fp16 and fp32 number is finite.
    for (size_t i = 0; i < bytes.back().size(); ++i) bytes.back()[i] = (i * 37 + i / 64) & 0x3f;
    num_bytes += (bytes.back().size() + 31) / 32 * 32;
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    list.push_back({.name = tensors[i].name,
                    .type = tensors[i].type,
                    .shape = tensors[i].shape,
                    .bytes = bytes[i]});
  }
  const auto u32 = [](uint32_t value) { return GgufValue::U32(value); };
  const std::string file =
      *SerializeGguf({{"general.architecture", GgufValue::String("llama")},
                      {"llama.block_count", u32(1)},
                      {"llama.context_length", u32(64)},
                      {"llama.embedding_length", u32(256)},
                      {"llama.feed_forward_length", u32(32)},
                      {"llama.attention.head_count", u32(2)},
                      {"llama.attention.head_count_kv", u32(1)},
                      {"llama.attention.key_length", u32(32)},
                      {"llama.attention.value_length", u32(32)},
                      {"llama.attention.layer_norm_rms_epsilon", GgufValue::F32(1e-5f)},
                      {"llama.rope.freq_base", GgufValue::F32(10000)}},
                     list);
  return {file.substr(0, file.size() - num_bytes), file.substr(file.size() - num_bytes)};
}

// In the file's bits and as fp32: both read it, to the same numbers, or both refuse it.
TEST_F(BaseFuzz, GgufInFewBits) {
  const GgufBytes file = MixedGguf();
  const MutationResult result = RunMutations({file.head}, 1500, 5, [&](const std::string& head) {
    const absl::Status written = Write("model.gguf", head + file.data);
    if (!written.ok()) return written;
    const std::string path = directory_.path() + "/model.gguf";
    const auto wide = LoadBase(PosixFileSystem(), path);
    const auto few = LoadBase(PosixFileSystem(), path, {.storage = WeightStorage::kExact});
    EXPECT_EQ(few.status().code(), wide.status().code()) << few.status() << wide.status();
    if (few.ok() && wide.ok()) EXPECT_EQ(few->weights_fingerprint, wide->weights_fingerprint);
    return few.status();
  });
  EXPECT_GT(result.num_ok, 0);
  EXPECT_GT(result.num_refused, 0);
}

TEST(RecipeFuzz, EveryInputIsReadOrRefused) {
  const MutationResult result =
      RunMutations({R"({"rank":16,"alpha":32,"learning_rate":5e-4,"epochs":4,"seed":1})"}, 20000, 3,
                   [](const std::string& text) { return ParseRecipe(text).status(); });
  EXPECT_GT(result.num_ok, 0);
  EXPECT_GT(result.num_refused, 0);
}

TEST(TrainingRowsFuzz, EveryInputIsReadOrRefused) {
  const auto base =
      LoadBase(PosixFileSystem(), SourcePath("tests/fixtures/stories260K/stories260K.bin"),
               {.tokenizer_path = SourcePath("tests/fixtures/stories260K/tok512.model"),
                .chat_format = "chatml",
                .fingerprint_weights = false});
  ASSERT_TRUE(base.ok()) << base.status();
  const MutationResult result = RunMutations(
      {"{\"ids\":[1,2,3],\"labels\":[-100,2,3]}\n{\"prompt\":\"Once\",\"completion\":\" upon\"}\n"},
      5000, 4, [&](const std::string& text) { return ParseTrainingRows(text, *base).status(); });
  EXPECT_GT(result.num_ok, 0);
  EXPECT_GT(result.num_refused, 0);
}

}  // namespace
}  // namespace evolora
