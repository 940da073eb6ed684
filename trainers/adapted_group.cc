#include "adapted_group.h"

#include <algorithm>
#include <utility>

namespace evolora {

AdaptedGroup::AdaptedGroup(std::vector<at::Tensor> weights, Factors factors)
    : in_(weights.front().size(1)), weights_(std::move(weights)) {
  for (const at::Tensor& weight : weights_) {
    part_outs_.push_back(weight.size(0));
    weight_rows_.push_back({weight.const_data_ptr<float>(), weight.size(0)});
    out_ += weight.size(0);
  }
  factors_ = FactorsOfWidth(factors, std::min(in_, out_));
}

AdaptedGroup::AdaptedGroup(std::vector<int64_t> part_outs, const CompactMatrix& compact,
                           Factors factors)
    : part_outs_(std::move(part_outs)),
      in_(compact.in_features()),
      out_(compact.out_features()),
      factors_(FactorsOfWidth(factors, std::min(in_, out_))),
      compact_(&compact) {}

void AdaptedGroup::Add(int64_t slot, absl::Span<const PartAdapter> adapters,
                       const AdapterDropout* dropout) {
  const auto index = static_cast<size_t>(slot);
  if (adapters_.size() <= index) adapters_.resize(index + 1);
  std::vector<LowRankGroup::Part> parts;
  for (size_t i = 0; i < part_outs_.size(); ++i) {
    const at::Tensor weight = compact_ == nullptr ? weights_[i] : at::Tensor();
    parts.push_back({weight, part_outs_[i], adapters[i].lora, adapters[i].dropout_key});
  }
  auto adapter = std::make_unique<LowRankGroup>(parts, in_, dropout, factors_);
  adapters_[index] = adapter->rank() > 0 ? std::move(adapter) : nullptr;
}

void AdaptedGroup::Remove(int64_t slot) { adapters_[static_cast<size_t>(slot)].reset(); }

void AdaptedGroup::PackAdapter(int64_t slot) {
  if (adapted(slot)) adapters_[static_cast<size_t>(slot)]->Pack();
}

template <typename Body>
void AdaptedGroup::ForRuns(const Kept& kept, const Body& body) const {
  int64_t offset = 0;
  for (const AdapterRun& run : kept.runs) {
    if (!adapted(run.slot)) continue;
    const LowRankGroup& adapter = *adapters_[static_cast<size_t>(run.slot)];
    body(adapter, run, offset);
    offset += run.num_rows * adapter.rank();
  }
}

int64_t AdaptedGroup::LowSize(const Kept& kept) const {
  int64_t size = 0;
  ForRuns(kept, [&](const LowRankGroup& adapter, const AdapterRun& run, int64_t offset) {
    size = offset + run.num_rows * adapter.rank();
  });
  return size;
}

bool AdaptedGroup::HasMagnitudes(const Kept& kept) const {
  bool any = false;
  ForRuns(kept, [&](const LowRankGroup& adapter, const AdapterRun&, int64_t) {
    any = any || adapter.has_magnitudes();
  });
  return any;
}

Product AdaptedGroup::Frozen(const float* x) const {
  if (compact_ != nullptr) {
    return {.left = x, .ldl = in_, .depth = in_, .weight = compact_, .weight_transposed = true};
  }
  return {.left = x, .ldl = in_, .depth = in_, .weight_rows = weight_rows_};
}

void AdaptedGroup::ForwardBare(const float* x, int64_t rows, float* y, GemmStore store) const {
  SumOfProducts({Frozen(x)}, rows, out_features(), y, out_features(), store, factors_);
}

void AdaptedGroup::Forward(const float* x, int64_t rows, float* y, GemmStore store, Kept& kept,
                           Buffer& scratch) const {
  float* low = kept.low.Reserve(LowSize(kept));
  std::vector<Product> products = {Frozen(x)};
  ForRuns(kept, [&](const LowRankGroup& adapter, const AdapterRun& run, int64_t offset) {
    adapter.LowRank(x + run.first_row * in_features(), run.num_rows, run.dropout_keys, low + offset,
                    scratch);
    products.push_back(adapter.Up(low + offset));
    products.back().first_row = run.first_row;
    products.back().num_rows = run.num_rows;
  });
  if (HasMagnitudes(kept)) return ForwardWithMagnitudes(x, rows, y, store, kept);
  SumOfProducts(products, rows, out_features(), y, out_features(), store, factors_);
}

// What a magnitude multiplies has to stand alone first: the rows of each adapter for themselves.
void AdaptedGroup::ForwardWithMagnitudes(const float* x, int64_t rows, float* y, GemmStore store,
                                         Kept& kept) const {
  const int64_t in = in_features(), out = out_features();
  float* z = kept.outputs.Reserve(rows * out);
  int64_t next = 0;  // rows before it are done
  const auto bare_until = [&](int64_t end) {
    ForwardBare(x + next * in, end - next, y + next * out, store);
  };
  ForRuns(kept, [&](const LowRankGroup& adapter, const AdapterRun& run, int64_t offset) {
    bare_until(run.first_row);
    const bool scaled = adapter.has_magnitudes();
    SumOfProducts({Frozen(x + run.first_row * in), adapter.Up(kept.low.data() + offset)},
                  run.num_rows, out, (scaled ? z : y) + run.first_row * out, out,
                  scaled ? GemmStore::kSet : store, factors_);
    if (scaled) {
      adapter.StoreOutputs(z + run.first_row * out, run.num_rows, y + run.first_row * out, store);
    }
    next = run.first_row + run.num_rows;
  });
  bare_until(rows);
}

const float* AdaptedGroup::OutputGradient(const float* dy, int64_t rows, Kept& kept) const {
  if (!HasMagnitudes(kept)) return dy;
  const int64_t out = out_features();
  float* z = kept.outputs.data();
  int64_t next = 0;
  ForRuns(kept, [&](const LowRankGroup& adapter, const AdapterRun& run, int64_t) {
    if (!adapter.has_magnitudes()) return;
    std::copy(dy + next * out, dy + run.first_row * out, z + next * out);
    adapter.OutputGradient(dy + run.first_row * out, run.num_rows, z + run.first_row * out);
    next = run.first_row + run.num_rows;
  });
  std::copy(dy + next * out, dy + rows * out, z + next * out);
  return z;
}

void AdaptedGroup::LowRankGradient(const float* dy, const Kept& kept, float* d_low) const {
  ForRuns(kept, [&](const LowRankGroup& adapter, const AdapterRun& run, int64_t offset) {
    adapter.LowRankGradient(dy + run.first_row * out_features(), run.num_rows, d_low + offset);
  });
}

void AdaptedGroup::InputGradient(const float* dy, const float* d_low, int64_t rows,
                                 const Kept& kept, float* dx, Buffer& scratch) const {
  const int64_t in = in_features();
  std::vector<Product> products;
  if (compact_ != nullptr) {
    products.push_back({.left = dy, .ldl = out_, .depth = out_, .weight = compact_});
  }
  int64_t out_offset = 0;
  for (const at::Tensor& weight : weights_) {
    products.push_back({.left = dy + out_offset,
                        .ldl = out_features(),
                        .depth = weight.size(0),
                        .right = weight.const_data_ptr<float>(),
                        .ldr = in});
    out_offset += weight.size(0);
  }
  ForRuns(kept, [&](const LowRankGroup& adapter, const AdapterRun& run, int64_t offset) {
    if (run.dropout_keys != nullptr) return;
    products.push_back(adapter.InputTerm(d_low + offset));
    products.back().first_row = run.first_row;
    products.back().num_rows = run.num_rows;
  });
  SumOfProducts(products, rows, in, dx, in, GemmStore::kSet, factors_);
  ForRuns(kept, [&](const LowRankGroup& adapter, const AdapterRun& run, int64_t offset) {
    if (run.dropout_keys == nullptr) return;
    adapter.AddMaskedInputGradient(d_low + offset, run.num_rows, run.dropout_keys,
                                   dx + run.first_row * in, scratch);
  });
}

void AdaptedGroup::ParameterGradients(const float* x, const float* column_scale, const Kept& kept,
                                      const float* dy, const float* d_low, Buffer& scratch) const {
  ForRuns(kept, [&](const LowRankGroup& adapter, const AdapterRun& run, int64_t offset) {
    adapter.ParameterGradients({.x = x + run.first_row * in_features(),
                                .column_scale = column_scale,
                                .keys = run.dropout_keys,
                                .low = kept.low.data() + offset,
                                .dy = dy + run.first_row * out_features(),
                                .d_low = d_low + offset,
                                .rows = run.num_rows},
                               scratch);
  });
}

}  // namespace evolora
