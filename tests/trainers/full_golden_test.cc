// Whole runs of full fine-tuning against plain PyTorch: tests/golden/full, written by
// tools/golden/make_full_golden.py.
#include <string>
#include <vector>

#include "evolora/adapters/safetensors.h"
#include "evolora/model/llama_weights.h"
#include "evolora/trainers/full_trainer.h"
#include "support/fake_clock.h"
#include "trainers/golden_run.h"

namespace evolora {
namespace {

using ::evolora::testing::ExpectSameMatrix;
using ::evolora::testing::ExpectSameSteps;
using ::evolora::testing::FakeClock;
using ::evolora::testing::GoldenPath;
using ::evolora::testing::MakeGoldenJob;
using ::evolora::testing::ReadJson;
using ::evolora::testing::Recipes;

std::vector<float> Values(const at::Tensor& tensor) {
  const float* data = tensor.const_data_ptr<float>();
  return {data, data + tensor.numel()};
}

std::vector<float> Values(const TensorView& view) {
  std::vector<float> values(view.bytes.size() / sizeof(float));
  std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
  return values;
}

class FullGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(FullGolden, FiftyStepsEqualPlainPyTorch) {
  const std::string folder = "full/" + GetParam();
  const Json expected = ReadJson(GoldenPath(folder + "/expected.json"));
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile theirs,
                       SafetensorsFile::OpenFolder(PosixFileSystem(), GoldenPath(folder)));
  for (const Json& recipe : Recipes(expected)) {
    SCOPED_TRACE(DisplayJson(recipe));
    const TrainingJob job = MakeGoldenJob(recipe, expected["rows"], nullptr, expected["model"]);
    FakeClock clock;
    ASSERT_OK_AND_ASSIGN(const TrainedBase trained,
                         TrainFull(job, {}, PosixFileSystem(), clock, {}));
    EXPECT_EQ(trained.history.size(), 50u);
    ExpectSameSteps(trained.history, expected);
    const std::vector<NamedTensor> ours = NamedTensors(*trained.weights);
    const std::vector<NamedTensor> start = NamedTensors(*job.base);
    ASSERT_EQ(ours.size(), theirs.tensors().size());
    for (size_t i = 0; i < ours.size(); ++i) {
      SCOPED_TRACE(ours[i].name);
      const TensorView* view = theirs.Find(ours[i].name);
      ASSERT_NE(view, nullptr);
      ExpectSameMatrix(Values(ours[i].tensor), Values(*view), Values(start[i].tensor));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, FullGolden, ::testing::Values("tied", "biases", "head_norms"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace evolora
