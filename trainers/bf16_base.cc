#include "bf16_base.h"

#include "evolora/model/compact_weights.h"

namespace evolora {
namespace {

at::Tensor LlamaLayer::*const kVectors[] = {
    &LlamaLayer::input_norm, &LlamaLayer::post_norm, &LlamaLayer::q_bias, &LlamaLayer::k_bias,
    &LlamaLayer::v_bias,     &LlamaLayer::o_bias,    &LlamaLayer::q_norm, &LlamaLayer::k_norm};

at::Tensor Rounded(const at::Tensor& vector) {
  return vector.defined() ? vector.to(at::kBFloat16).to(at::kFloat) : vector;
}

}  // namespace

LlamaWeights Bf16Base(const LlamaWeights& base) {
  LlamaWeights rounded = base.compact != nullptr ? base : CompactCopy(base, WeightStorage::kBf16);
  rounded.final_norm = Rounded(rounded.final_norm);
  for (LlamaLayer& layer : rounded.layers) {
    for (const auto vector : kVectors) layer.*vector = Rounded(layer.*vector);
  }
  return rounded;
}

Factors FactorsOf(const LoraRecipe& recipe) {
  return recipe.precision == TrainingPrecision::kFp32 ? Fp32Factors() : Factors::kBf16;
}

}  // namespace evolora
