#pragma once

#include "absl/status/statusor.h"
#include "evolora/adapters/gguf.h"
#include "evolora/data/tokenizer_spec.h"
#include "weight_source.h"

namespace evolora {

// Reads hyper-parameters and the tensor table of a GGUF model (architectures llama, qwen2, qwen3);
// `file` must outlive the source.
// Errors: Unimplemented    another architecture, or a key "<architecture>.*" that is not known or
// has
//                          a value that is not implemented: names it
//         InvalidArgument  a missing key, a tensor name that is not known
absl::StatusOr<WeightSource> OpenGguf(const GgufFile& file);

// The tokenizer.ggml.* values. NotFound when the file has no tokenizer.
absl::StatusOr<GgufVocabulary> ReadGgufVocabulary(const GgufFile& file);

}  // namespace evolora
