#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "evolora/adapters/peft.h"
#include "evolora/core/file_system.h"
#include "evolora/core/tokenizer.h"
#include "evolora/data/chat_format.h"
#include "evolora/model/llama_config.h"
#include "evolora/model/weight_storage.h"

namespace evolora {

struct LlamaWeights;  // llama_weights.h, which brings in LibTorch

enum class BaseSource { kGguf, kHuggingFace, kLlama2c };
const char* BaseSourceName(BaseSource source);  // "gguf", "hf", "llama2c"

struct LoadOptions {
  // Where the tokenizer is when not with the model: a SentencePiece .model file, a tokenizer.json
  // (tokenizer_config.json beside it is read too), or a folder that holds one of them. Overrides
  // the model's own. "" = the model's own; a model without one loads for ids only.
  std::string tokenizer_path;
  // Name for ParseChatFormatName; "" = recognised from the model's chat template.
  std::string chat_format;
  // Hashing costs about 0.15 s per 100M parameters and core; without it weights_fingerprint is "".
  bool fingerprint_weights = true;
  // Another than kFp32 gives weights in few bits (LlamaWeights::compact), kExact where the file has
  // them. Those that round have no fingerprint. REQUIRES of them: !fingerprint_weights.
  WeightStorage storage = WeightStorage::kFp32;
};

// A base model: what adapters are trained on and run beside. Immutable, may be shared.
struct BaseModel {
  std::string path;
  BaseSource source = BaseSource::kHuggingFace;
  std::shared_ptr<const LlamaWeights> weights;
  std::shared_ptr<const Tokenizer> tokenizer;  // null: ids only
  // How chats are written; FailedPrecondition or Unimplemented when the model has no chat template
  // or an unknown one. Plain prompts work without.
  absl::StatusOr<ChatFormat> chat_format = absl::FailedPreconditionError("no chat format");
  std::string shape_fingerprint;
  std::string weights_fingerprint;

  const LlamaConfig& config() const;  // of the weights. REQUIRES: weights
};

// Loads a base by what `path` is:
//   file that starts with "GGUF"  llama (Llama, Mistral, SmolLM2), qwen2, qwen3; q and k rows of
//   llama
//                                 files come back to rotate-half order; rope_freqs.weight is used
//   folder with config.json       Hugging Face: LlamaForCausalLM, MistralForCausalLM,
//                                 Qwen2ForCausalLM, Qwen3ForCausalLM; one or several safetensors
//   any other file                llama2.c, legacy or version 1 (fp32)
// Weights become fp32, or what `storage` says. A stored lm_head that equals the embedding of a tied
// model is dropped; one that differs unties it, as in transformers.
//
// Errors: NotFound         no such file
//         InvalidArgument  fingerprint_weights beside a storage that rounds; missing, unexpected,
//                          misshapen or non-finite tensor; absurd or contradictory hyper-parameter;
//                          tokenizer larger than the vocabulary
//         Unimplemented    a key of the config that evolora does not know, or a value it does not
//                          implement (activation, RoPE kind, quantisation, experts): names it
//         DataLoss         truncated file
absl::StatusOr<BaseModel> LoadBase(const FileSystem& fs, const std::string& path,
                                   const LoadOptions& options = {});

// SHA-256 over the names and shapes of the tensors: equal for all files an adapter fits.
//   digest of "name [d0, d1]\n" for each of TensorShapes(config)
std::string ShapeFingerprint(const LlamaConfig& config);

// SHA-256 over the function itself: equal for equal fp32 values and hyper-parameters, whatever file
// they came from and however they are kept (not rounded). Zeros of either sign are equal.
//   digest of "function <heads> <kv heads> <eps> <biases, norms, windows> <sha256 of the RoPE
//   frequencies>\n" and "name F32 [d0, d1] <sha256 of the fp32 bytes>\n" for each tensor
// Uses LibTorch's threads.
absl::StatusOr<std::string> WeightsFingerprint(const LlamaWeights& weights);

// The linear layers of a base in the form PEFT readers and writers take.
std::vector<LinearLayer> LinearLayers(const LlamaConfig& config);

}  // namespace evolora
