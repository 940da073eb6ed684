#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "evolora/model/buffer.h"
#include "evolora/model/compact_matrix.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/products.h"
#include "loss.h"
#include "token_layout.h"

namespace evolora {

// The head with the losses of the targets of micro-batches.
class FastHead {
 public:
  // More where the head's digits are made anew for every chunk.
  static constexpr int64_t LogitsPerChunk(Factors factors) {
    return int64_t{factors == Factors::kInt8x3 ? 12 : 4} << 20;
  }
  static int64_t RowsPerChunk(int64_t logits_per_chunk, int64_t vocabulary);

  // The head of `weights`, which outlive the object. Of logits, no more than about
  // `logits_per_chunk` (default: LogitsPerChunk) exist at once (but always those of 16 rows). A
  // head that requires a gradient is trained, too. `factors`: of its products.
  explicit FastHead(const LlamaWeights& weights, Factors factors = Fp32Factors(),
                    std::optional<int64_t> logits_per_chunk = std::nullopt);
  // head_VD fp32, contiguous.
  explicit FastHead(const at::Tensor& head_VD,
                    std::optional<int64_t> logits_per_chunk = std::nullopt,
                    Factors factors = Fp32Factors());

  // A micro-batch with its loss.
  struct Part {
    const TokenLayout* layout = nullptr;
    Loss* loss = nullptr;
    double factor = 1;
    double loss_sum = 0;  // out
  };
  // hidden: the hidden states of each part's layout.predicting after the final norm, [M, D], one
  // part after another. Gives the sum of each part's losses and writes d(sum * its factor) / d
  // hidden. A part's numbers have the bits that they have without the others. Adds to a trained
  // head's gradient.
  void LossAndGradient(absl::Span<Part> parts, const float* hidden, float* d_hidden);
  // Of one part.
  double LossAndGradient(const TokenLayout& layout, const float* hidden, Loss& loss, double factor,
                         float* d_hidden);

  // The sum of the cross entropies of the layout's labels.
  double CrossEntropySum(const TokenLayout& layout, const float* hidden);

  // logits [rows, V] of hidden [rows, D].
  void Logits(const float* hidden, int64_t rows, float* logits) const;

 private:
  // Rows of one part that get their loss in one call: `count` from `begin` of the part on, which
  // are rows of all parts' from `first_row` on.
  struct Piece {
    Part* part;
    int64_t begin;
    int64_t count;
    int64_t first_row;
  };
  LogitsChunk ChunkOf(const TokenLayout& layout, int64_t begin, int64_t count, float* logits);
  void GiveLogProbs(const TokenLayout& layout, const float* hidden);
  void LossOfTiedRows(Part& part, const float* hidden, float* d_hidden);
  void LossOfPieces(absl::Span<const Piece> pieces, const float* hidden, float* d_hidden);
  void HiddenGradient(const float* d_logits, int64_t rows, float* d_hidden) const;
  void AddHeadGradient(const float* d_logits, const float* hidden, int64_t rows) const;

  const int64_t vocabulary_, width_;
  const CompactMatrix* compact_;  // null: head_VD_
  at::Tensor head_VD_;
  int64_t rows_per_chunk_;
  Factors factors_;
  Buffer logits_;
  std::vector<double> log_probs_;  // of the labels of a micro-batch
};

}  // namespace evolora
