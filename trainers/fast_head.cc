// M rows that predict something, D model width, V vocabulary.
#include "fast_head.h"

#include <algorithm>

#include "evolora/model/compact_weights.h"
#include "log_probs.h"
#include "norm_gradient.h"

namespace evolora {
namespace {

constexpr int64_t kMinRowsPerChunk = 16;

using Target = TokenLayout::Target;

int64_t NumRows(const TokenLayout& layout) {
  return static_cast<int64_t>(layout.predicting.size());
}

// The head's digits are made anew for every chunk of rows.
Factors HeadFactors(Factors factors, int64_t width, int64_t rows_per_chunk) {
  constexpr int64_t kMinRows = 128;
  const bool is_few = factors == Factors::kInt8x3 && rows_per_chunk < kMinRows;
  return is_few ? Factors::kFp32 : FactorsOfWidth(factors, width);
}

}  // namespace

FastHead::FastHead(const LlamaWeights& weights, Factors factors,
                   std::optional<int64_t> logits_per_chunk)
    : vocabulary_(weights.config.vocab_size),
      width_(weights.config.hidden_size),
      compact_(weights.head.defined() ? nullptr : &weights.compact->head),
      head_VD_(weights.head),
      rows_per_chunk_(
          RowsPerChunk(logits_per_chunk.value_or(LogitsPerChunk(factors)), vocabulary_)),
      factors_(HeadFactors(factors, width_, rows_per_chunk_)) {}

FastHead::FastHead(const at::Tensor& head_VD, std::optional<int64_t> logits_per_chunk,
                   Factors factors)
    : vocabulary_(head_VD.size(0)),
      width_(head_VD.size(1)),
      compact_(nullptr),
      head_VD_(head_VD),
      rows_per_chunk_(
          RowsPerChunk(logits_per_chunk.value_or(LogitsPerChunk(factors)), vocabulary_)),
      factors_(HeadFactors(factors, width_, rows_per_chunk_)) {}

int64_t FastHead::RowsPerChunk(int64_t logits_per_chunk, int64_t vocabulary) {
  return std::max(kMinRowsPerChunk, logits_per_chunk / vocabulary);
}

void FastHead::Logits(const float* hidden, int64_t rows, float* logits) const {
  Product product = {.left = hidden, .ldl = width_, .depth = width_};
  Product::Rows head;
  if (compact_ != nullptr) {
    product.weight = compact_;
    product.weight_transposed = true;
  } else {
    head = {head_VD_.const_data_ptr<float>(), vocabulary_};
    product.weight_rows = absl::MakeConstSpan(&head, 1);
  }
  SumOfProducts({product}, rows, vocabulary_, logits, vocabulary_, GemmStore::kSet, factors_);
}

void FastHead::HiddenGradient(const float* d_logits, int64_t rows, float* d_hidden) const {
  Product product = {.left = d_logits, .ldl = vocabulary_, .depth = vocabulary_};
  if (compact_ != nullptr) {
    product.weight = compact_;
  } else {
    product.right = head_VD_.const_data_ptr<float>();
    product.ldr = width_;
  }
  SumOfProducts({product}, rows, width_, d_hidden, width_, GemmStore::kSet, factors_);
}

void FastHead::AddHeadGradient(const float* d_logits, const float* hidden, int64_t rows) const {
  float* gradient = GradientOf(head_VD_);
  if (gradient == nullptr) return;
  const Product product = {.left = d_logits,
                           .ldl = vocabulary_,
                           .transposed = true,
                           .depth = rows,
                           .right = hidden,
                           .ldr = width_};
  SumOfProducts({product}, vocabulary_, width_, gradient, width_, GemmStore::kAdd, factors_);
}

LogitsChunk FastHead::ChunkOf(const TokenLayout& layout, int64_t begin, int64_t count,
                              float* logits) {
  const auto first_of = [&](int64_t row) {
    return std::lower_bound(layout.targets.begin(), layout.targets.end(), row,
                            [](const Target& target, int64_t r) { return target.row < r; }) -
           layout.targets.begin();
  };
  const auto from = static_cast<size_t>(first_of(begin));
  const auto to = static_cast<size_t>(first_of(begin + count));
  return {.logits = logits,
          .num_rows = count,
          .vocabulary = vocabulary_,
          .first_row = begin,
          .targets = absl::MakeConstSpan(layout.targets).subspan(from, to - from),
          .labels = layout.labels};
}

// Into log_probs_. The logits of a micro-batch of one chunk stay in logits_.
void FastHead::GiveLogProbs(const TokenLayout& layout, const float* hidden) {
  log_probs_.resize(layout.labels.size());
  for (int64_t begin = 0; begin < NumRows(layout); begin += rows_per_chunk_) {
    const int64_t count = std::min(rows_per_chunk_, NumRows(layout) - begin);
    const LogitsChunk chunk = ChunkOf(layout, begin, count, logits_.Reserve(count * vocabulary_));
    Logits(hidden + begin * width_, chunk.num_rows, chunk.logits);
    LabelLogProbs(chunk, absl::MakeSpan(log_probs_));
  }
}

double FastHead::CrossEntropySum(const TokenLayout& layout, const float* hidden) {
  GiveLogProbs(layout, hidden);
  double sum = 0;
  for (const double log_prob : log_probs_) sum -= log_prob;
  return sum;
}

// Of a loss that ties rows together.
void FastHead::LossOfTiedRows(Part& part, const float* hidden, float* d_hidden) {
  const TokenLayout& layout = *part.layout;
  const int64_t width = width_;
  GiveLogProbs(layout, hidden);
  part.loss_sum = part.loss->TakeLogProbs(layout.labels, log_probs_);
  const bool has_logits = NumRows(layout) <= rows_per_chunk_;
  for (int64_t begin = 0; begin < NumRows(layout); begin += rows_per_chunk_) {
    const int64_t count = std::min(rows_per_chunk_, NumRows(layout) - begin);
    const LogitsChunk chunk = ChunkOf(layout, begin, count, logits_.Reserve(count * vocabulary_));
    if (!has_logits) Logits(hidden + begin * width, count, chunk.logits);
    part.loss_sum += part.loss->LossAndGradient(chunk, part.factor);
    HiddenGradient(chunk.logits, count, d_hidden + begin * width);
    AddHeadGradient(chunk.logits, hidden + begin * width, count);
  }
}

// Of neighbouring rows.
void FastHead::LossOfPieces(absl::Span<const Piece> pieces, const float* hidden, float* d_hidden) {
  if (pieces.empty()) return;
  const int64_t width = width_, first_row = pieces.front().first_row;
  const int64_t rows = pieces.back().first_row + pieces.back().count - first_row;
  float* logits = logits_.Reserve(rows * vocabulary_);
  Logits(hidden + first_row * width, rows, logits);
  for (const Piece& piece : pieces) {
    const LogitsChunk chunk = ChunkOf(*piece.part->layout, piece.begin, piece.count,
                                      logits + (piece.first_row - first_row) * vocabulary_);
    piece.part->loss_sum += piece.part->loss->LossAndGradient(chunk, piece.part->factor);
  }
  HiddenGradient(logits, rows, d_hidden + first_row * width);
  AddHeadGradient(logits, hidden + first_row * width, rows);
}

void FastHead::LossAndGradient(absl::Span<Part> parts, const float* hidden, float* d_hidden) {
  const int64_t width = width_;
  std::vector<Piece> pieces;  // that share their products
  int64_t rows = 0;           // of the pieces
  const auto flush = [&] {
    LossOfPieces(pieces, hidden, d_hidden);
    pieces.clear();
    rows = 0;
  };
  int64_t first_row = 0;  // of the part
  for (Part& part : parts) {
    part.loss_sum = 0;
    const int64_t end = NumRows(*part.layout);
    if (part.loss->wants_log_probs()) {
      flush();
      LossOfTiedRows(part, hidden + first_row * width, d_hidden + first_row * width);
    } else {
      for (int64_t begin = 0; begin < end; begin += rows_per_chunk_) {
        const int64_t count = std::min(rows_per_chunk_, end - begin);
        if (rows + count > rows_per_chunk_) flush();
        pieces.push_back({&part, begin, count, first_row + begin});
        rows += count;
      }
    }
    first_row += end;
  }
  flush();
}

double FastHead::LossAndGradient(const TokenLayout& layout, const float* hidden, Loss& loss,
                                 double factor, float* d_hidden) {
  Part part = {.layout = &layout, .loss = &loss, .factor = factor};
  LossAndGradient(absl::MakeSpan(&part, 1), hidden, d_hidden);
  return part.loss_sum;
}

}  // namespace evolora
