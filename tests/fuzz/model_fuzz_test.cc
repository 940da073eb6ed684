// Readers that need the model library: base files and what `evolora train` is given.
#include <fstream>
#include <string>

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
