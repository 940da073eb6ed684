// R ranks of all parts, `in` and `out` features.
#include "low_rank_group.h"

#include <algorithm>
#include <cmath>

#include "ATen/Parallel.h"
#include "evolora/model/kernels.h"

namespace evolora {
namespace {

int64_t NumPanels(int64_t columns) { return (columns + kPanelColumns - 1) / kPanelColumns; }

// gradient_RI += values_RI * scale * column_scale_I.
void AddScaled(const float* values, float scale, const float* column_scale, int64_t rank,
               int64_t in, float* gradient) {
  at::parallel_for(0, rank, std::max<int64_t>(1, (int64_t{1} << 13) / in),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t r = begin; r < end; ++r) {
                       for (int64_t i = 0; i < in; ++i) {
                         const float of_column = column_scale != nullptr ? column_scale[i] : 1.0f;
                         gradient[r * in + i] += values[r * in + i] * scale * of_column;
                       }
                     }
                   });
}

// gradient_OR += scale * transpose of values_RO, outputs [begin, end).
void AddTransposed(const float* values, float scale, int64_t rank, int64_t out, int64_t begin,
                   int64_t end, float* gradient) {
  constexpr int64_t kBlock = 16;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t last = std::min(end, first + kBlock);
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t o = first; o < last; ++o) gradient[o * rank + r] += scale * values[r * out + o];
    }
  }
}

// Rows of W + scale B A that are formed at once to take their norms.
constexpr int64_t kNormRows = 128;

// y_MO = or += z_MO * factors_O.
void StoreScaled(const float* z, const float* factors, int64_t rows, int64_t out, float* y,
                 GemmStore store) {
  at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * out; i < end * out; i += out) {
      for (int64_t o = 0; o < out; ++o) {
        const float value = z[i + o] * factors[o];
        y[i + o] = store == GemmStore::kSet ? value : y[i + o] + value;
      }
    }
  });
}

// gradient_O += sum over rows of dy_MO z_MO / norms_O, outputs [begin, end) of rows of `out`
// values.
void AddMagnitudeGradient(const float* dy, const float* z, const float* norms, int64_t rows,
                          int64_t out, int64_t begin, int64_t end, float* gradient) {
  std::vector<double> sums(static_cast<size_t>(end - begin));
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t o = begin; o < end; ++o) {
      sums[static_cast<size_t>(o - begin)] +=
          static_cast<double>(dy[m * out + o]) * static_cast<double>(z[m * out + o]);
    }
  }
  for (int64_t o = begin; o < end; ++o) {
    gradient[o] +=
        static_cast<float>(sums[static_cast<size_t>(o - begin)] / static_cast<double>(norms[o]));
  }
}

}  // namespace

LowRankGroup::LowRankGroup(const std::vector<Part>& parts, int64_t in,
                           const AdapterDropout* dropout, Factors factors)
    : dropout_(dropout), product_factors_(factors), in_(in) {
  int64_t a_columns = 0;
  for (const Part& part : parts) AddPart(part, a_columns);
  for (const AdaptedPart& part : parts_) {
    if (!part.lora->magnitude.defined()) continue;
    factors_.assign(static_cast<size_t>(out_), 1.0f);
    norms_.assign(static_cast<size_t>(out_), 1.0f);
  }
  if (rank_ == 0) return;
  FindBRanges();
  const int64_t a_size = NumPanels(a_columns) * in_ * kPanelColumns;
  const int64_t b_size = NumPanels(out_) * rank_ * kPanelColumns;
  std::fill_n(a_panels_.Reserve(a_size), a_size, 0.0f);
  std::fill_n(b_panels_.Reserve(b_size), b_size, 0.0f);
  a_rows_.Reserve(rank_ * in_);
}

void LowRankGroup::AddPart(const Part& part, int64_t& a_columns) {
  if (part.lora != nullptr) {
    const int64_t rank = part.lora->a.size(0);
    if (dropout_ != nullptr) a_columns = NumPanels(a_columns) * kPanelColumns;
    parts_.push_back(
        {part.weight, part.out, part.lora, out_, rank_, rank, a_columns, part.dropout_key});
    rank_ += rank;
    a_columns += rank;
  }
  out_ += part.out;
}

void LowRankGroup::FindBRanges() {
  for (int64_t first = 0; first < out_; first += kPanelColumns) {
    const int64_t last = std::min(out_, first + kPanelColumns);
    DepthRange range;
    for (const AdaptedPart& part : parts_) {
      const bool inside = part.out_offset < last && part.out_offset + part.out_features() > first;
      if (!inside) continue;
      if (range.count == 0) range.begin = part.rank_offset;
      range.count = part.rank_offset + part.rank - range.begin;
    }
    b_ranges_.push_back(range);
  }
}

void LowRankGroup::Pack() {
  for (const AdaptedPart& part : parts_) {
    PackA(part);
    PackB(part);
    if (part.lora->magnitude.defined()) PackMagnitude(part);
  }
}

void LowRankGroup::PackA(const AdaptedPart& part) {
  const float* a = part.lora->a.const_data_ptr<float>();
  for (int64_t r = 0; r < part.rank;) {
    const int64_t column = part.a_column + r;
    const int64_t in_panel = column % kPanelColumns;
    const int64_t count = std::min(part.rank - r, kPanelColumns - in_panel);
    float* panel = a_panels_.data() + column / kPanelColumns * in_ * kPanelColumns + in_panel;
    Kernels().transpose(a + r * in_, in_, count, in_, 1, panel, kPanelColumns);
    r += count;
  }
  float* rows = a_rows_.data() + part.rank_offset * in_;
  for (int64_t i = 0; i < part.rank * in_; ++i) rows[i] = part.scale() * a[i];
}

void LowRankGroup::PackB(const AdaptedPart& part) {
  const float* b = part.lora->b.const_data_ptr<float>();
  for (int64_t o = 0; o < part.out_features();) {
    const int64_t column = part.out_offset + o;
    const int64_t in_panel = column % kPanelColumns;
    const int64_t count = std::min(part.out_features() - o, kPanelColumns - in_panel);
    float* panel = b_panels_.data() +
                   (column / kPanelColumns * rank_ + part.rank_offset) * kPanelColumns + in_panel;
    Kernels().transpose(b + o * part.rank, part.rank, count, part.rank, part.scale(), panel,
                        kPanelColumns);
    o += count;
  }
}

// Sums in one order, whatever the number of threads.
void LowRankGroup::RowNorms(const AdaptedPart& part, float* norms) {
  const int64_t in = in_, out = part.out_features();
  const auto scale = static_cast<double>(part.lora->scale);
  float* update = sums_.Reserve(kNormRows * in);
  for (int64_t first = 0; first < out; first += kNormRows) {
    const int64_t count = std::min(kNormRows, out - first);
    const Product product = {.left = part.lora->b.const_data_ptr<float>() + first * part.rank,
                             .ldl = part.rank,
                             .depth = part.rank,
                             .right = part.lora->a.const_data_ptr<float>(),
                             .ldr = in};
    SumOfProducts({product}, count, in, update, in, GemmStore::kSet);
    const float* weight = part.weight.const_data_ptr<float>() + first * in;
    at::parallel_for(0, count, 8, [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) {
        double squares = 0;
        for (int64_t i = o * in; i < (o + 1) * in; ++i) {
          const double value =
              static_cast<double>(weight[i]) + scale * static_cast<double>(update[i]);
          squares += value * value;
        }
        norms[first + o] = static_cast<float>(std::sqrt(squares));
      }
    });
  }
}

void LowRankGroup::PackMagnitude(const AdaptedPart& part) {
  RowNorms(part, norms_.data() + part.out_offset);
  const float* magnitude = part.lora->magnitude.const_data_ptr<float>();
  for (int64_t o = 0; o < part.out_features(); ++o) {
    const auto column = static_cast<size_t>(part.out_offset + o);
    factors_[column] = magnitude[o] / norms_[column];
  }
}

// The rows with the part's features dropped, in `room`; x itself when nothing is.
const float* LowRankGroup::Masked(const AdaptedPart& part, const float* x, int64_t rows,
                                  const uint64_t* keys, float* room) const {
  if (keys == nullptr) return x;
  at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      dropout_->Mask(part.dropout_key, keys[m], in_, x + m * in_, room + m * in_);
    }
  });
  return room;
}

void LowRankGroup::LowRank(const float* x, int64_t rows, const uint64_t* keys, float* low,
                           Buffer& scratch) const {
  if (dropout_ == nullptr) {
    const Product down = {.left = x, .ldl = in_, .depth = in_, .right = a_panels_.data()};
    return SumOfProducts({down}, rows, rank_, low, rank_, GemmStore::kSet, OfWidth(rank_));
  }
  float* room = scratch.Reserve(rows * in_);
  for (const AdaptedPart& part : parts_) {
    const Product down = {.left = Masked(part, x, rows, keys, room),
                          .ldl = in_,
                          .depth = in_,
                          .right = a_panels_.data() + part.a_column * in_};
    SumOfProducts({down}, rows, part.rank, low + part.rank_offset, rank_, GemmStore::kSet,
                  OfWidth(part.rank));
  }
}

Product LowRankGroup::Up(const float* low) const {
  return {.left = low,
          .ldl = rank_,
          .depth = rank_,
          .right = b_panels_.data(),
          .ranges = b_ranges_.data()};
}

void LowRankGroup::StoreOutputs(const float* z, int64_t rows, float* y, GemmStore store) const {
  StoreScaled(z, factors_.data(), rows, out_, y, store);
}

void LowRankGroup::OutputGradient(const float* dy, int64_t rows, float* z) const {
  for (const AdaptedPart& part : parts_) {
    if (!part.lora->magnitude.defined()) continue;
    float* gradient = part.lora->magnitude.grad().mutable_data_ptr<float>() - part.out_offset;
    at::parallel_for(part.out_offset, part.out_offset + part.out_features(), 32,
                     [&](int64_t begin, int64_t end) {
                       AddMagnitudeGradient(dy, z, norms_.data(), rows, out_, begin, end, gradient);
                     });
  }
  StoreScaled(dy, factors_.data(), rows, out_, z, GemmStore::kSet);
}

void LowRankGroup::LowRankGradient(const float* dy, int64_t rows, float* d_low) const {
  for (const AdaptedPart& part : parts_) {
    const Product product = {.left = dy + part.out_offset,
                             .ldl = out_,
                             .depth = part.out_features(),
                             .right = part.lora->b.const_data_ptr<float>(),
                             .ldr = part.rank};
    SumOfProducts({product}, rows, part.rank, d_low + part.rank_offset, rank_, GemmStore::kSet,
                  OfWidth(part.rank));
  }
}

Product LowRankGroup::InputTerm(const float* d_low) const {
  return {.left = d_low, .ldl = rank_, .depth = rank_, .right = a_rows_.data(), .ldr = in_};
}

void LowRankGroup::AddMaskedInputGradient(const float* d_low, int64_t rows, const uint64_t* keys,
                                          float* dx, Buffer& scratch) const {
  float* values = scratch.Reserve(rows * in_);
  for (const AdaptedPart& part : parts_) {
    const Product product = {.left = d_low + part.rank_offset,
                             .ldl = rank_,
                             .depth = part.rank,
                             .right = a_rows_.data() + part.rank_offset * in_,
                             .ldr = in_};
    SumOfProducts({product}, rows, in_, values, in_, GemmStore::kSet, product_factors_);
    at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        dropout_->AddMasked(part.dropout_key, keys[m], in_, values + m * in_, dx + m * in_);
      }
    });
  }
}

void LowRankGroup::AddGradientA(const GradientInputs& inputs, Buffer& scratch) const {
  const auto product = [&](const float* right, int64_t first) {
    return Product{.left = inputs.d_low + first,
                   .ldl = rank_,
                   .transposed = true,
                   .depth = inputs.rows,
                   .right = right,
                   .ldr = in_};
  };
  const bool dropped = inputs.keys != nullptr;
  float* values = scratch.Reserve(rank_ * in_ + (dropped ? inputs.rows * in_ : 0));
  float* room = values + rank_ * in_;
  if (!dropped) {
    SumOfProducts({product(inputs.x, 0)}, rank_, in_, values, in_, GemmStore::kSet, OfWidth(rank_));
  }
  for (const AdaptedPart& part : parts_) {
    float* own = values + part.rank_offset * in_;
    if (dropped) {
      const float* masked = Masked(part, inputs.x, inputs.rows, inputs.keys, room);
      SumOfProducts({product(masked, part.rank_offset)}, part.rank, in_, own, in_, GemmStore::kSet,
                    OfWidth(part.rank));
    }
    AddScaled(own, part.scale(), inputs.column_scale, part.rank, in_,
              part.lora->a.grad().mutable_data_ptr<float>());
  }
}

void LowRankGroup::ParameterGradients(const GradientInputs& inputs, Buffer& scratch) const {
  AddGradientA(inputs, scratch);
  float* values = scratch.Reserve(rank_ * out_);
  for (const AdaptedPart& part : parts_) {
    const int64_t out = part.out_features();
    const Product b_product = {.left = inputs.low + part.rank_offset,
                               .ldl = rank_,
                               .transposed = true,
                               .depth = inputs.rows,
                               .right = inputs.dy + part.out_offset,
                               .ldr = out_};
    SumOfProducts({b_product}, part.rank, out, values, out, GemmStore::kSet, OfWidth(part.rank));
    float* gradient = part.lora->b.grad().mutable_data_ptr<float>();
    at::parallel_for(0, out, 256, [&](int64_t begin, int64_t end) {
      AddTransposed(values, part.scale(), part.rank, out, begin, end, gradient);
    });
  }
}

}  // namespace evolora
