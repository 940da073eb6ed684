#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace evolora {

// One adapted linear layer: y = W x + scale * B (A x). With a magnitude (DoRA, Liu et al. 2024):
// y_o = magnitude_o / ||V_o|| * V_o x for each row V_o of V = W + scale * B A.
struct LoraModule {
  std::string path;  // full Hugging Face module path: model.layers.0.self_attn.q_proj
  int64_t rank = 0;  // r >= 1
  int64_t in_features = 0;
  int64_t out_features = 0;
  double scale = 1;      // alpha / r, or alpha / sqrt(r) for rsLoRA: the factor that is applied
  std::vector<float> a;  // [rank, in_features], row-major
  std::vector<float> b;  // [out_features, rank], row-major
  std::vector<float> magnitude;  // [out_features]; empty: plain LoRA
};

// A module whose weight takes the place of the base's as a whole (PEFT's modules_to_save): the
// embedding, the head or a norm. Beside a tied head each of the two is replaced for itself.
struct SavedModule {
  std::string path;            // full Hugging Face module path: lm_head, model.norm
  std::vector<int64_t> shape;  // [out, in], or [width] of a norm
  std::vector<float> weight;   // row-major
};

// A LoRA adapter in memory, torch-free: what trainers produce, PEFT folders hold and engines load.
// All modules have a magnitude or none has.
struct LoraAdapter {
  std::string base_name;  // base_model_name_or_path
  std::string base_revision;
  std::vector<LoraModule> modules;         // sorted by path, no two equal
  std::vector<SavedModule> saved_modules;  // likewise, and none of `modules`
};

// Whether the adapter is a DoRA: its modules have magnitudes. REQUIRES: valid.
bool HasMagnitudes(const LoraAdapter& adapter);

// Shapes, ranks, finite values, order. InvalidArgument names module and number.
absl::Status ValidateLoraAdapter(const LoraAdapter& adapter);

// SHA-256 over the canonical bytes (paths, ranks, scales, fp32 values; not the base's name):
// the identity under which engines, caches and manifests know it.
std::string AdapterDigest(const LoraAdapter& adapter);

}  // namespace evolora
