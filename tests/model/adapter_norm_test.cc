#include "evolora/model/adapter_norm.h"

#include "ATen/ATen.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"
#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

TEST(AdapterNorm, IsTheGreatestRatioOfTheFormedUpdates) {
  const LlamaConfig config = testing::SmallConfig();
  const auto weights = testing::RandomWeights(config, 3);
  const LoraAdapter adapter = testing::RandomAdapter(config, 3, 5, 2);
  ASSERT_OK_AND_ASSIGN(const LoraTensors lora, LoraTensorsFromAdapter(config, adapter));
  double greatest = 0;
  for (const auto& [path, module] : lora.modules) {
    const double update = at::matmul(module.b, module.a).norm().item<double>() * module.scale;
    greatest = std::max(greatest, update / FindLinear(*weights, path).norm().item<double>());
  }
  ASSERT_OK_AND_ASSIGN(const double norm, MaxRelativeNorm(*weights, adapter));
  EXPECT_NEAR(norm, greatest, 1e-5 * greatest);
}

TEST(AdapterNorm, OfADoraCountsTheMagnitudes) {
  const LlamaConfig config = testing::SmallConfig();
  const auto weights = testing::RandomWeights(config, 3);
  LoraAdapter adapter = testing::RandomAdapter(config, 3, 5, 40);
  ASSERT_EQ(adapter.modules.size(), 1u);
  adapter.modules[0].b.assign(adapter.modules[0].b.size(), 0);
  const at::Tensor weight = FindLinear(*weights, adapter.modules[0].path);
  const at::Tensor norms = weight.norm(2, 1);
  const float* data = norms.const_data_ptr<float>();
  for (int64_t o = 0; o < norms.numel(); ++o)
    adapter.modules[0].magnitude.push_back(1.25f * data[o]);
  ASSERT_OK_AND_ASSIGN(const double norm, MaxRelativeNorm(*weights, adapter));
  EXPECT_NEAR(norm, 0.25, 1e-5);
}

}  // namespace
}  // namespace evolora
