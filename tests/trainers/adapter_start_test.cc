// Where adapters start, and what they are when they come back.
#include <cmath>
#include <memory>
#include <vector>

#include "evolora/model/llama_weights.h"
#include "evolora/model/reference_forward.h"
#include "evolora/trainers/lora_trainer.h"
#include "residual_start.h"
#include "support/status_matchers.h"
#include "trainers/tiny_job.h"

namespace evolora {
namespace {

using ::evolora::testing::StatusIs;
using ::evolora::testing::TinyJob;
using ::evolora::testing::Train;
using ::testing::HasSubstr;

TEST(TrainLora, StartsFromAGivenAdapter) {
  TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter first, Train(job));
  job.init = first.adapter;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter second, Train(job));
  EXPECT_LT(second.history.front().loss, first.history.front().loss);
  job.recipe.rank = 3;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("of rank 3")));
}

TEST(TrainLora, MagnitudesLearnAndGoOnFromWhereTheyWere) {
  TrainingJob job = TinyJob();
  job.recipe.use_dora = true;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter first, Train(job));
  ASSERT_TRUE(HasMagnitudes(first.adapter));
  for (const LoraModule& module : first.adapter.modules) {
    const at::Tensor norms = FindLinear(*job.base, module.path).norm(2, 1);
    double moved = 0;
    for (int64_t o = 0; o < norms.numel(); ++o) {
      moved +=
          std::abs(norms.const_data_ptr<float>()[o] - module.magnitude[static_cast<size_t>(o)]);
    }
    EXPECT_GT(moved, 1e-3) << module.path;
  }
  job.init = first.adapter;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter second, Train(job));
  EXPECT_LT(second.history.front().loss, first.history.front().loss);
  job.recipe.use_dora = false;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("use_dora")));
}

TEST(TrainLora, ADoraStartsAtTheFunctionOfAGivenPlainAdapter) {
  TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter plain, Train(job));
  job.init = plain.adapter;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter second, Train(job));
  job.recipe.use_dora = true;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter dora, Train(job));
  EXPECT_NEAR(dora.history.front().loss, second.history.front().loss, 1e-5);
}

TEST(TrainLora, ARowWithoutDirectionHasNoMagnitude) {
  TrainingJob job = TinyJob();
  job.recipe.use_dora = true;
  auto weights = std::make_shared<LlamaWeights>(*job.base);
  weights->layers[1].up = weights->layers[1].up.clone();
  weights->layers[1].up[5].zero_();
  job.base = weights;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("row 5 of model.layers.1.mlp.up_proj is zero")));
}

at::Tensor Logits(const LlamaWeights& weights, const LoraAdapter& adapter,
                  const std::vector<TokenId>& ids) {
  const auto lora = LoraTensorsFromAdapter(weights.config, adapter);
  EXPECT_TRUE(lora.ok()) << lora.status();
  const auto batch = PadRight(std::vector<std::vector<TokenId>>{ids});
  const auto logits = ReferenceLogits(weights, &*lora, *batch);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return *logits;
}

double Gap(const at::Tensor& x, const at::Tensor& y) { return x.sub(y).abs().max().item<double>(); }

// The rows of A and columns of B that training moved: the first half of the exported ones.
LoraAdapter FirstHalf(LoraAdapter adapter) {
  for (LoraModule& m : adapter.modules) {
    m.a.resize(m.a.size() / 2);
    std::vector<float> b;
    for (int64_t i = 0; i < m.out_features * m.rank; ++i) {
      if (i % m.rank < m.rank / 2) b.push_back(m.b[static_cast<size_t>(i)]);
    }
    m.b = b;
    m.rank /= 2;
  }
  return adapter;
}

TEST(TrainLora, AnAdapterTakenOutOfTheBaseComesBackAsPlainLora) {
  for (const LoraInit init : {LoraInit::kPissa, LoraInit::kOlora}) {
    SCOPED_TRACE(static_cast<int>(init));
    TrainingJob job = TinyJob();
    job.recipe.init_lora_weights = init;
    job.recipe.use_rslora = true;
    job.recipe.rank_pattern = {{"q_proj", 2}, {"up_proj", 7}};
    ASSERT_OK_AND_ASSIGN(const ResidualStart start, MakeResidualStart(*job.base, job.recipe));
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
    const std::vector<TokenId>& ids = job.rows[0].ids;
    const at::Tensor untouched = Logits(*job.base, trained.adapter, ids);
    const at::Tensor residual = Logits(*start.base, FirstHalf(trained.adapter), ids);
    EXPECT_LT(Gap(untouched, residual), 1e-4);
    EXPECT_LT(trained.history.back().loss, trained.history.front().loss);

    job.recipe.learning_rate = 0;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter still, Train(job));
    const at::Tensor base = Logits(*job.base, still.adapter, ids);
    EXPECT_LT(Gap(base, Logits(*start.base, start.adapter, ids)), 1e-4);
    EXPECT_GT(Gap(base, untouched), 1e-2);
  }
}

TEST(TrainLora, AStartThatTheRunWouldIgnoreIsRefused) {
  TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter first, Train(job));
  job.init = first.adapter;
  job.recipe.init_lora_weights = LoraInit::kPissa;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("starts from a given adapter")));
}

}  // namespace
}  // namespace evolora
