#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/model/llama_config.h"

namespace evolora {

// Reads a Hugging Face config.json of the Llama family with transformers' (5.x) defaults per model
// type. RoPE may stand in `rope_parameters` or in `rope_theta` + `rope_scaling`; the latter
// replaces the former entirely when both are there. Sizes (vocab_size, hidden_size,
// intermediate_size, num_hidden_layers, num_attention_heads) have no default here. Errors:
// InvalidArgument  not JSON, a wrong type, a missing size, ValidateLlamaConfig
//         Unimplemented    names the key: unknown, or with a value that is not implemented
absl::StatusOr<LlamaConfig> ParseHfConfig(absl::string_view json_text);

}  // namespace evolora
