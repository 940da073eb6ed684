#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "evolora/adapters/effect_proof.h"
#include "evolora/adapters/lora_adapter.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/core/file_system.h"

namespace evolora {

// A linear layer of a base model.
struct LinearLayer {
  std::string path;  // full Hugging Face module path
  int64_t in_features = 0;
  int64_t out_features = 0;
};

struct PeftReadOptions {
  // The base's linear layers. When given: each tensor must belong to one of them and fit it, and
  // each one that the config targets must have its tensors. Empty: not checked.
  std::vector<LinearLayer> base_modules;
};

struct PeftAdapter {
  LoraAdapter adapter;
  std::vector<std::string> warnings;  // odd, but without effect on the function
};

// Reads `dir`/adapter_config.json and `dir`/adapter_model.safetensors. Never opens a pickle.
//
// What PEFT loads in silence and does not apply as the author meant it is an error here: A without
// B, no tensors, a missing or other prefix, tensors of layers that do not exist, base tensors in
// the file, targets without tensors, tensors without target, ranks that differ from the config,
// values that are not finite, an adapter_model.bin (.pt, .pth, .pkl) in the folder.
// Errors: NotFound, InvalidArgument, DataLoss (of the readers), Unimplemented (biases, LoRA on
//         embeddings, ...; see ParsePeftConfig); each names file, key or tensor.
absl::StatusOr<PeftAdapter> ReadPeftFolder(const FileSystem& fs, const std::string& dir,
                                           const PeftReadOptions& options = {});

struct PeftWriteOptions {
  DType dtype = DType::kF32;  // kF32, kF16 or kBF16; half types round to nearest even
  // The base's linear layers: each module must be one of them, and they decide whether leaf names
  // ("q_proj") describe the targets exactly. Empty: judged from the adapter's own layers.
  std::vector<LinearLayer> base_modules;
  // Written as effect_proof.json when it has probes.
  EffectProof effect_proof;
};

inline constexpr int64_t kMaxPortableRank = 64;
inline constexpr int64_t kMaxWrittenRank = 512;

// The adapter that a reader of the written folder gets: portable LoRA profile. One rank out of
// {8, 16, 32, 64}, beyond the profile {128, 256, 512} (smaller ones are zero-padded up), one scale
// = alpha / r: kept when all modules share it, else 1 with each module's own folded into its B;
// values rounded to `dtype`. Identity (same digest) for an adapter that has the profile already. A
// DoRA keeps its magnitudes, saved modules keep their weights (rounded); neither is a portable
// adapter, nor is one above rank 64: see ServeabilityWarnings. InvalidArgument: not a valid
// adapter, a rank above 512, or a value outside the range of `dtype`.
absl::StatusOr<LoraAdapter> ToPortableProfile(const LoraAdapter& adapter,
                                              DType dtype = DType::kF32);

// What keeps common servers from loading a folder of this adapter, a sentence each, for the user
// and the model card. Empty for plain LoRA. REQUIRES: valid.
std::vector<std::string> ServeabilityWarnings(const LoraAdapter& adapter);

// Writes a new PEFT folder in the portable profile (adapters/FORMAT.md): adapter_config.json,
// adapter_model.safetensors, README.md and, if given, effect_proof.json.
//
// Writes:  `dir`.tmp first, then one rename: `dir` is complete or absent.
// Errors:  FailedPrecondition `dir` exists; InvalidArgument as ToPortableProfile, an empty
//          base_name, an effect proof of another adapter digest than the written one has, or a
//          module that options.base_modules lacks or has in another size.
// Threads: one call for a `dir` at a time.
absl::Status WritePeftFolder(FileSystem& fs, const std::string& dir, const LoraAdapter& adapter,
                             const PeftWriteOptions& options = {});

}  // namespace evolora
