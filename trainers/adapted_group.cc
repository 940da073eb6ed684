// R ranks of all parts, `in` and `out` features.
#include "adapted_group.h"

#include <algorithm>
#include <cmath>

#include "ATen/Parallel.h"

namespace evolora {
namespace {

int64_t NumPanels(int64_t columns) { return (columns + kPanelColumns - 1) / kPanelColumns; }

PackedMatrix Pack(const std::vector<AdaptedGroup::Part>& parts) {
  std::vector<at::Tensor> weights;
  for (const AdaptedGroup::Part& part : parts) weights.push_back(part.weight);
  return PackedMatrix(weights);
}

// gradient_RI += values_RI * column_scale_I.
void AddScaled(const float* values, const float* column_scale, int64_t rank, int64_t in,
               float* gradient) {
  for (int64_t r = 0; r < rank; ++r) {
    for (int64_t i = 0; i < in; ++i) {
      const float scale = column_scale != nullptr ? column_scale[i] : 1.0f;
      gradient[r * in + i] += values[r * in + i] * scale;
    }
  }
}

// gradient_OR += transpose of values_RO, outputs [begin, end).
void AddTransposed(const float* values, int64_t rank, int64_t out, int64_t begin, int64_t end,
                   float* gradient) {
  constexpr int64_t kBlock = 16;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t last = std::min(end, first + kBlock);
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t o = first; o < last; ++o) gradient[o * rank + r] += values[r * out + o];
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

AdaptedGroup::AdaptedGroup(std::vector<Part> parts, const AdapterDropout* dropout)
    : dropout_(dropout), frozen_(Pack(parts)) {
  int64_t out_offset = 0, a_columns = 0;
  for (const Part& part : parts) {
    const int64_t rank = part.lora != nullptr ? part.lora->a.size(0) : 0;
    if (dropout_ != nullptr) a_columns = NumPanels(a_columns) * kPanelColumns;
    parts_.push_back(
        {part.weight, part.lora, out_offset, rank_, rank, a_columns, part.dropout_key});
    out_offset += part.weight.size(0);
    rank_ += rank;
    a_columns += rank;
    if (rank == 0 || !part.lora->magnitude.defined()) continue;
    factors_.assign(static_cast<size_t>(out_features()), 1.0f);
    norms_.assign(static_cast<size_t>(out_features()), 1.0f);
  }
  if (!adapted()) return;
  const int64_t num_panels = NumPanels(out_features());
  for (int64_t p = 0; p < num_panels; ++p) {
    const int64_t first = p * kPanelColumns, last = std::min(out_features(), first + kPanelColumns);
    DepthRange range;
    for (const AdaptedPart& part : parts_) {
      const bool inside =
          part.rank > 0 && part.out_offset < last && part.out_offset + part.weight.size(0) > first;
      if (!inside) continue;
      if (range.count == 0) range.begin = part.rank_offset;
      range.count = part.rank_offset + part.rank - range.begin;
    }
    b_ranges_.push_back(range);
  }
  const int64_t a_size = NumPanels(a_columns) * in_features() * kPanelColumns;
  const int64_t b_size = num_panels * rank_ * kPanelColumns;
  std::fill_n(a_panels_.Reserve(a_size), a_size, 0.0f);
  std::fill_n(b_panels_.Reserve(b_size), b_size, 0.0f);
}

void AdaptedGroup::PackAdapters() {
  if (!adapted()) return;
  PackA();
  PackB();
  PackMagnitudes();
}

void AdaptedGroup::PackA() {
  const int64_t in = in_features();
  for (const AdaptedPart& part : parts_) {
    if (part.rank == 0) continue;
    const float* a = part.lora->a.const_data_ptr<float>();
    for (int64_t r = 0; r < part.rank;) {
      const int64_t column = part.a_column + r;
      const int64_t in_panel = column % kPanelColumns;
      const int64_t count = std::min(part.rank - r, kPanelColumns - in_panel);
      float* panel = a_panels_.data() + column / kPanelColumns * in * kPanelColumns + in_panel;
      Kernels().transpose(a + r * in, in, count, in, static_cast<float>(part.lora->scale), panel,
                          kPanelColumns);
      r += count;
    }
  }
}

void AdaptedGroup::PackB() {
  for (const AdaptedPart& part : parts_) {
    if (part.rank == 0) continue;
    const float* b = part.lora->b.const_data_ptr<float>();
    const int64_t out = part.weight.size(0);
    for (int64_t o = 0; o < out;) {
      const int64_t column = part.out_offset + o;
      const int64_t in_panel = column % kPanelColumns;
      const int64_t count = std::min(out - o, kPanelColumns - in_panel);
      float* panel = b_panels_.data() +
                     (column / kPanelColumns * rank_ + part.rank_offset) * kPanelColumns + in_panel;
      Kernels().transpose(b + o * part.rank, part.rank, count, part.rank, 1, panel, kPanelColumns);
      o += count;
    }
  }
}

// Sums in one order, whatever the number of threads.
void AdaptedGroup::RowNorms(const AdaptedPart& part, float* norms) {
  const int64_t in = in_features(), out = part.weight.size(0);
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

void AdaptedGroup::PackMagnitudes() {
  for (const AdaptedPart& part : parts_) {
    if (part.rank == 0 || !part.lora->magnitude.defined()) continue;
    RowNorms(part, norms_.data() + part.out_offset);
    const float* magnitude = part.lora->magnitude.const_data_ptr<float>();
    for (int64_t o = 0; o < part.weight.size(0); ++o) {
      const auto column = static_cast<size_t>(part.out_offset + o);
      factors_[column] = magnitude[o] / norms_[column];
    }
  }
}

// The rows with the part's features dropped, in `room`; x itself when nothing is.
const float* AdaptedGroup::Masked(const AdaptedPart& part, const float* x, int64_t rows,
                                  const Kept& kept, float* room) const {
  if (kept.dropout_keys == nullptr) return x;
  const int64_t in = in_features();
  at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      dropout_->Mask(part.dropout_key, kept.dropout_keys[m], in, x + m * in, room + m * in);
    }
  });
  return room;
}

void AdaptedGroup::LowRank(const float* x, int64_t rows, Kept& kept, Buffer& scratch) const {
  const int64_t in = in_features();
  float* low = kept.low.Reserve(rows * rank_);
  if (dropout_ == nullptr) {
    const Product down = {.left = x, .ldl = in, .depth = in, .right = a_panels_.data()};
    return SumOfProducts({down}, rows, rank_, low, rank_, GemmStore::kSet);
  }
  float* room = scratch.Reserve(rows * in);
  for (const AdaptedPart& part : parts_) {
    if (part.rank == 0) continue;
    const Product down = {.left = Masked(part, x, rows, kept, room),
                          .ldl = in,
                          .depth = in,
                          .right = a_panels_.data() + part.a_column * in};
    SumOfProducts({down}, rows, part.rank, low + part.rank_offset, rank_, GemmStore::kSet);
  }
}

void AdaptedGroup::ForwardBare(const float* x, int64_t rows, float* y, GemmStore store) const {
  const int64_t in = in_features();
  const Product frozen = {.left = x, .ldl = in, .depth = in, .right = frozen_.panels()};
  SumOfProducts({frozen}, rows, out_features(), y, out_features(), store);
}

void AdaptedGroup::Forward(const float* x, int64_t rows, float* y, GemmStore store, Kept& kept,
                           Buffer& scratch) const {
  if (!adapted()) return ForwardBare(x, rows, y, store);
  const int64_t in = in_features();
  const Product frozen = {.left = x, .ldl = in, .depth = in, .right = frozen_.panels()};
  LowRank(x, rows, kept, scratch);
  const Product up = {.left = kept.low.data(),
                      .ldl = rank_,
                      .depth = rank_,
                      .right = b_panels_.data(),
                      .ranges = b_ranges_.data()};
  if (factors_.empty()) {
    return SumOfProducts({frozen, up}, rows, out_features(), y, out_features(), store);
  }
  float* z = kept.outputs.Reserve(rows * out_features());
  SumOfProducts({frozen, up}, rows, out_features(), z, out_features(), GemmStore::kSet);
  StoreScaled(z, factors_.data(), rows, out_features(), y, store);
}

const float* AdaptedGroup::OutputGradient(const float* dy, int64_t rows, Kept& kept) const {
  if (factors_.empty()) return dy;
  const int64_t out = out_features();
  float* z = kept.outputs.data();
  for (const AdaptedPart& part : parts_) {
    if (part.rank == 0 || !part.lora->magnitude.defined()) continue;
    float* gradient = part.lora->magnitude.grad().mutable_data_ptr<float>() - part.out_offset;
    at::parallel_for(part.out_offset, part.out_offset + part.weight.size(0), 32,
                     [&](int64_t begin, int64_t end) {
                       AddMagnitudeGradient(dy, z, norms_.data(), rows, out, begin, end, gradient);
                     });
  }
  StoreScaled(dy, factors_.data(), rows, out, z, GemmStore::kSet);
  return z;
}

void AdaptedGroup::LowRankGradient(const float* dy, int64_t rows, float* d_low) const {
  for (const AdaptedPart& part : parts_) {
    if (part.rank == 0) continue;
    const Product product = {.left = dy + part.out_offset,
                             .ldl = out_features(),
                             .depth = part.weight.size(0),
                             .right = part.lora->b.const_data_ptr<float>(),
                             .ldr = part.rank};
    SumOfProducts({product}, rows, part.rank, d_low + part.rank_offset, rank_, GemmStore::kSet);
  }
  for (const AdaptedPart& part : parts_) {
    const auto scale = part.rank > 0 ? static_cast<float>(part.lora->scale) : 1.0f;
    for (int64_t m = 0; m < rows; ++m) {
      float* row = d_low + m * rank_ + part.rank_offset;
      for (int64_t r = 0; r < part.rank; ++r) row[r] *= scale;
    }
  }
}

// dx += f (d_low A).
void AdaptedGroup::AddMaskedInputGradient(const AdaptedPart& part, const float* d_low, int64_t rows,
                                          const Kept& kept, float* dx, Buffer& scratch) const {
  const int64_t in = in_features();
  float* values = scratch.Reserve(rows * in);
  const Product product = {.left = d_low + part.rank_offset,
                           .ldl = rank_,
                           .depth = part.rank,
                           .right = part.lora->a.const_data_ptr<float>(),
                           .ldr = in};
  SumOfProducts({product}, rows, in, values, in, GemmStore::kSet);
  at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      dropout_->AddMasked(part.dropout_key, kept.dropout_keys[m], in, values + m * in, dx + m * in);
    }
  });
}

void AdaptedGroup::InputGradient(const float* dy, const float* d_low, int64_t rows,
                                 const Kept& kept, float* dx, Buffer& scratch) const {
  const int64_t in = in_features();
  std::vector<Product> products;
  for (const AdaptedPart& part : parts_) {
    products.push_back({.left = dy + part.out_offset,
                        .ldl = out_features(),
                        .depth = part.weight.size(0),
                        .right = part.weight.const_data_ptr<float>(),
                        .ldr = in});
    if (part.rank == 0 || kept.dropout_keys != nullptr) continue;
    products.push_back({.left = d_low + part.rank_offset,
                        .ldl = rank_,
                        .depth = part.rank,
                        .right = part.lora->a.const_data_ptr<float>(),
                        .ldr = in});
  }
  SumOfProducts(products, rows, in, dx, in, GemmStore::kSet);
  if (kept.dropout_keys == nullptr) return;
  for (const AdaptedPart& part : parts_) {
    if (part.rank > 0) AddMaskedInputGradient(part, d_low, rows, kept, dx, scratch);
  }
}

void AdaptedGroup::AddGradientA(const float* x, const float* column_scale, const Kept& kept,
                                const float* d_low, int64_t rows, Buffer& scratch) const {
  const int64_t in = in_features();
  const auto product = [&](const float* right, int64_t first) {
    return Product{.left = d_low + first,
                   .ldl = rank_,
                   .transposed = true,
                   .depth = rows,
                   .right = right,
                   .ldr = in};
  };
  const bool dropped = kept.dropout_keys != nullptr;
  float* values = scratch.Reserve(rank_ * in + (dropped ? rows * in : 0));
  float* room = values + rank_ * in;
  if (!dropped) SumOfProducts({product(x, 0)}, rank_, in, values, in, GemmStore::kSet);
  for (const AdaptedPart& part : parts_) {
    if (part.rank == 0) continue;
    float* own = values + part.rank_offset * in;
    if (dropped) {
      SumOfProducts({product(Masked(part, x, rows, kept, room), part.rank_offset)}, part.rank, in,
                    own, in, GemmStore::kSet);
    }
    AddScaled(own, column_scale, part.rank, in, part.lora->a.grad().mutable_data_ptr<float>());
  }
}

void AdaptedGroup::ParameterGradients(const float* x, const float* column_scale, const Kept& kept,
                                      const float* dy, const float* d_low, int64_t rows,
                                      Buffer& scratch) const {
  if (!adapted()) return;
  AddGradientA(x, column_scale, kept, d_low, rows, scratch);
  float* values = scratch.Reserve(rank_ * out_features());
  for (const AdaptedPart& part : parts_) {
    if (part.rank == 0) continue;
    const int64_t out = part.weight.size(0);
    const Product b_product = {.left = kept.low.data() + part.rank_offset,
                               .ldl = rank_,
                               .transposed = true,
                               .depth = rows,
                               .right = dy + part.out_offset,
                               .ldr = out_features()};
    SumOfProducts({b_product}, part.rank, out, values, out, GemmStore::kSet);
    float* gradient = part.lora->b.grad().mutable_data_ptr<float>();
    at::parallel_for(0, out, 256, [&](int64_t begin, int64_t end) {
      AddTransposed(values, part.rank, out, begin, end, gradient);
    });
  }
}

}  // namespace evolora
