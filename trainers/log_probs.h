#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gradient_path.h"
#include "loss.h"

namespace evolora {

// Log-probabilities (natural log) of the labels of the chunk's targets, to their places in
// `log_probs`, which is as long as chunk.labels.
void LabelLogProbs(const LogitsChunk& chunk, absl::Span<double> log_probs);

// The ids that the labels of a sequence ask for, in order.
std::vector<TokenId> TargetsOf(absl::Span<const TokenId> labels);

// Forward passes of the frozen model over sequences[i], i in `indices`, some at a time: a pure
// function of the arguments. take(i, FrozenPass::TargetHidden of sequence i), in order. Cancelled
// when `stop` was requested.
using TakeHidden = std::function<void(int64_t index, const at::Tensor& hidden_LD)>;
absl::Status ForFrozenHidden(FrozenPass& model, absl::Span<const TrainingRow> sequences,
                             absl::Span<const int64_t> indices, FrozenModel which,
                             const std::stop_token& stop, const TakeHidden& take);

// The logits of hidden states [L, D], some rows at a time: take(first row, [rows, V]).
void ForLogitsOf(FrozenPass& model, const at::Tensor& hidden_LD,
                 const std::function<void(int64_t first, absl::Span<float> logits)>& take);

// Log-probabilities of the targets of sequences[i], i in `indices`: one list each, in order.
// Errors: as ForFrozenHidden.
absl::StatusOr<std::vector<std::vector<double>>> FrozenLogProbs(
    FrozenPass& model, absl::Span<const TrainingRow> sequences, absl::Span<const int64_t> indices,
    FrozenModel which, const std::stop_token& stop);

}  // namespace evolora
