#include "packed_lora.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace evolora {

LoraGroup::LoraGroup(const LlamaWeights& base, const LoraTensors& lora,
                     const std::vector<Part>& parts) {
  std::vector<at::Tensor> a_parts;
  int64_t rank_offset = 0;
  for (const Part& part : parts) {
    const auto found = lora.modules.find(part.path);
    if (found == lora.modules.end()) continue;
    const LoraTensor& module = found->second;
    a_parts.push_back(module.a);
    if (module.magnitude.defined()) {
      const at::Tensor weight = FindLinear(base, part.path);
      const at::Tensor factor = module.magnitude.div(AdaptedRowNorms(weight, module)).unsqueeze(1);
      parts_.push_back({PackedMatrix({module.b * factor}, module.scale),
                        PackedMatrix({weight * (factor - 1)}), rank_offset, part.out_offset});
    } else {
      parts_.push_back(
          {PackedMatrix({module.b}, module.scale), PackedMatrix(), rank_offset, part.out_offset});
    }
    rank_offset += module.a.size(0);
  }
  if (!a_parts.empty()) a_ = PackedMatrix(a_parts);
}

void LoraGroup::ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                         float* scratch) const {
  if (parts_.empty()) return;
  a_.Apply(x, ldx, rows, scratch, total_rank());
  for (const PackedPart& part : parts_) {
    part.b.ApplyAdd(scratch + part.rank_offset, total_rank(), rows, y + part.out_offset, ldy);
    if (part.frozen.out_features() > 0) {
      part.frozen.ApplyAdd(x, ldx, rows, y + part.out_offset, ldy);
    }
  }
}

PackedLora::PackedLora(const LlamaWeights& base, const LoraTensors& lora) {
  const LlamaConfig& c = base.config;
  const int64_t q = c.num_heads * c.head_dim;
  const int64_t kv = c.num_kv_heads * c.head_dim;
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string attention = absl::StrCat("model.layers.", i, ".self_attn.");
    const std::string mlp = absl::StrCat("model.layers.", i, ".mlp.");
    layers.push_back(
        {.qkv = LoraGroup(base, lora,
                          {{attention + "q_proj", 0},
                           {attention + "k_proj", q},
                           {attention + "v_proj", q + kv}}),
         .o = LoraGroup(base, lora, {{attention + "o_proj", 0}}),
         .gate_up = LoraGroup(base, lora,
                              {{mlp + "gate_proj", 0}, {mlp + "up_proj", c.intermediate_size}}),
         .down = LoraGroup(base, lora, {{mlp + "down_proj", 0}})});
    for (const LoraGroup* group :
         {&layers.back().qkv, &layers.back().o, &layers.back().gate_up, &layers.back().down}) {
      max_rank = std::max(max_rank, group->total_rank());
    }
  }
  for (const auto& [path, module] : lora.modules) {
    const int64_t frozen = module.magnitude.defined() ? module.a.size(1) * module.b.size(0) : 0;
    flops_per_token += 2.0 * static_cast<double>(module.a.numel() + module.b.numel() + frozen);
  }
}

}  // namespace evolora
