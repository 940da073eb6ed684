#include "residual_start.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "ATen/core/grad_mode.h"
#include "ATen/ops/addmm.h"
#include "ATen/ops/linalg_qr.h"
#include "ATen/ops/linalg_svd.h"
#include "adapter_plan.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/lora_tensors.h"

namespace evolora {
namespace {

LoraTensor Pissa(const at::Tensor& weight, int64_t rank, double scale) {
  const auto [u, s, vh] = at::linalg_svd(weight, /*full_matrices=*/false);
  const at::Tensor root = s.narrow(0, 0, rank).div(scale).sqrt();
  return {(root.unsqueeze(1) * vh.narrow(0, 0, rank)).contiguous(),
          (u.narrow(1, 0, rank) * root).contiguous(), scale};
}

LoraTensor Olora(const at::Tensor& weight, int64_t rank, double scale) {
  const auto [q, r] = at::linalg_qr(weight);
  return {r.narrow(0, 0, rank).contiguous(), q.narrow(1, 0, rank).contiguous(), scale};
}

// Puts `now` where the weights hold `before`.
void Replace(LlamaWeights& weights, const at::Tensor& before, const at::Tensor& now) {
  for (LlamaLayer& w : weights.layers) {
    for (at::Tensor* place : {&w.q, &w.k, &w.v, &w.o, &w.gate, &w.up, &w.down}) {
      if (place->is_same(before)) *place = now;
    }
  }
}

// The rows of `a`, then those of `b`.
std::vector<float> Stack(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> both = a;
  both.insert(both.end(), b.begin(), b.end());
  return both;
}

// The columns of `b`, then those of -`start`: matrices [out, rank].
std::vector<float> JoinNegated(const std::vector<float>& b, const std::vector<float>& start,
                               int64_t rank) {
  std::vector<float> joined;
  joined.reserve(2 * b.size());
  const auto width = static_cast<size_t>(rank);
  for (size_t row = 0; row < b.size(); row += width) {
    for (size_t i = 0; i < width; ++i) joined.push_back(b[row + i]);
    for (size_t i = 0; i < width; ++i) joined.push_back(-start[row + i]);
  }
  return joined;
}

}  // namespace

absl::StatusOr<ResidualStart> MakeResidualStart(const LlamaWeights& base,
                                                const LoraRecipe& recipe) {
  const at::NoGradGuard no_grad;
  ASSIGN_OR_RETURN(const std::vector<PlannedModule> modules, PlanModules(base.config, recipe));
  auto residual = std::make_shared<LlamaWeights>(base);
  LoraTensors start;
  for (const PlannedModule& module : modules) {
    const at::Tensor weight = FindLinear(base, module.path);
    LoraTensor factors = recipe.init_lora_weights == LoraInit::kPissa
                             ? Pissa(weight, module.rank, module.scale)
                             : Olora(weight, module.rank, module.scale);
    Replace(*residual, weight,
            at::addmm(weight, factors.b, factors.a, /*beta=*/1, /*alpha=*/-module.scale));
    start.modules[module.path] = std::move(factors);
  }
  ASSIGN_OR_RETURN(LoraAdapter adapter, LoraTensorsToAdapter(start, "", ""));
  return ResidualStart{std::move(residual), std::move(adapter)};
}

LoraAdapter TrainedSince(const LoraAdapter& start, const LoraAdapter& trained) {
  LoraAdapter result = trained;
  for (size_t i = 0; i < result.modules.size(); ++i) {
    LoraModule& module = result.modules[i];
    const LoraModule& from = start.modules[i];
    module.a = Stack(module.a, from.a);
    module.b = JoinNegated(module.b, from.b, module.rank);
    module.rank *= 2;
  }
  return result;
}

}  // namespace evolora
