#pragma once

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weight_source.h"

namespace evolora {

// Reads the header of a llama2.c file, whose bytes must outlive the source. Little-endian:
//
//   legacy    := header weights_legacy
//   version 1 := "24ka" version:i32=1 header shared_head:u8 zero* (256 bytes in all) weights_1
//   header    := dim hidden_dim num_layers num_heads num_kv_heads vocab_size seq_len   (i32 each;
//                legacy: vocab_size < 0 says that the head is not the embedding)
//
// weights_legacy: embedding, attention norms, q, k, v, o, MLP norms, gate (w1), down (w2), up (w3),
// final norm, two RoPE tables (unused), head if not shared; weights_1: attention norms, MLP norms,
// final norm, embedding, q, k, v, o, gate, down, up, head if not shared. Each stacked over layers.
// Errors: InvalidArgument (numbers), DataLoss (size), Unimplemented (version 2 and later).
absl::StatusOr<WeightSource> OpenLlama2c(absl::Span<const uint8_t> file);

}  // namespace evolora
