#include "weight_source.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>

#include "ATen/Functions.h"
#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/compact_weights.h"

namespace evolora {
namespace {

std::string Shown(const std::string& name, const SourceTensor& tensor) {
  if (tensor.file_name.empty() || tensor.file_name == name) return absl::StrCat("tensor ", name);
  return absl::StrCat("tensor ", name, " (", tensor.file_name, ")");
}

absl::Status CheckTensors(const WeightSource& source, const std::vector<NamedShape>& wanted) {
  for (const NamedShape& want : wanted) {
    const auto found = source.tensors.find(want.name);
    if (found == source.tensors.end()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", want.name, " is missing"));
    }
    if (want.shape != found->second.shape) {
      return absl::InvalidArgumentError(
          absl::StrCat(Shown(want.name, found->second), ": shape ", ShapeText(found->second.shape),
                       ", the config asks for ", ShapeText(want.shape)));
    }
  }
  if (wanted.size() == source.tensors.size()) return absl::OkStatus();
  for (const auto& [name, tensor] : source.tensors) {
    const bool is_wanted = std::any_of(wanted.begin(), wanted.end(),
                                       [&](const NamedShape& w) { return w.name == name; });
    if (!is_wanted) {
      return absl::InvalidArgumentError(
          absl::StrCat(Shown(name, tensor), " is not part of this architecture"));
    }
  }
  return absl::OkStatus();
}

// Index of the first value that is NaN or infinite, or -1.
int64_t FindNonFinite(const float* values, int64_t count) {
  constexpr int64_t kBlock = 4096;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t end = std::min(count, start + kBlock);
    uint32_t largest = 0;
    for (int64_t i = start; i < end; ++i) {
      uint32_t bits;
      std::memcpy(&bits, values + i, sizeof bits);
      largest = std::max(largest, bits & 0x7fffffffu);
    }
    if (largest < 0x7f800000u) continue;
    for (int64_t i = start; i < end; ++i) {
      if (!std::isfinite(values[i])) return i;
    }
  }
  return -1;
}

// Rows (0, h, 1, h + 1, ...) of each head to (0, 1, ...). A row has `row_size` values.
template <typename T>
void ToRotateHalf(T* values, int64_t rows, int64_t row_size, int64_t num_heads) {
  const int64_t head_rows = rows / num_heads;
  const int64_t half = head_rows / 2;
  std::vector<T> head(static_cast<size_t>(head_rows * row_size));
  for (int64_t h = 0; h < num_heads; ++h) {
    T* target = values + h * head_rows * row_size;
    std::copy_n(target, head_rows * row_size, head.data());
    for (int64_t j = 0; j < head_rows; ++j) {
      const int64_t from = j < half ? 2 * j : 2 * (j - half) + 1;
      std::copy_n(head.data() + from * row_size, row_size, target + j * row_size);
    }
  }
}

absl::Status ReadOne(const std::string& name, const SourceTensor& source,
                     const at::Tensor& tensor) {
  auto* values = tensor.mutable_data_ptr<float>();
  RETURN_IF_ERROR(Annotate(source.read(values), Shown(name, source)));
  const int64_t bad = FindNonFinite(values, tensor.numel());
  if (bad >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(Shown(name, source), ": value ", bad, " is ", values[bad]));
  }
  if (source.adjacent_pair_heads > 0) {
    ToRotateHalf(values, tensor.size(0), tensor.numel() / tensor.size(0),
                 source.adjacent_pair_heads);
  }
  return absl::OkStatus();
}

// Runs read(i) for i < count on all threads, each when a thread is free.
absl::Status ReadAll(size_t count, const std::function<absl::Status(size_t)>& read) {
  std::vector<absl::Status> statuses(count);
  std::atomic<size_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (size_t i = next++; i < count; i = next++) statuses[i] = read(i);
    }
  });
  for (const absl::Status& status : statuses) RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

// Large tensors first, so that threads finish together.
std::vector<NamedShape> LargestFirst(std::vector<NamedShape> shapes) {
  const auto size = [](const NamedShape& shape) {
    int64_t count = 1;
    for (const int64_t n : shape.shape) count *= n;
    return count;
  };
  std::stable_sort(shapes.begin(), shapes.end(),
                   [&](const NamedShape& a, const NamedShape& b) { return size(a) > size(b); });
  return shapes;
}

absl::StatusOr<LlamaWeights> ReadFp32(const WeightSource& source,
                                      const std::vector<NamedShape>& order) {
  BlankWeights blank = AllocateWeights(source.config);
  std::map<std::string, at::Tensor> targets;
  for (const NamedTensor& target : blank.tensors) targets[target.name] = target.tensor;
  RETURN_IF_ERROR(ReadAll(order.size(), [&](size_t i) {
    const std::string& name = order[i].name;
    return ReadOne(name, source.tensors.at(name), targets.at(name));
  }));
  return std::move(blank.weights);
}

absl::StatusOr<LlamaWeights> ReadCompact(const WeightSource& source,
                                         const std::vector<NamedShape>& order,
                                         WeightStorage storage) {
  BlankWeights vectors = AllocateWeights(source.config, WeightParts::kVectors);
  auto compact = std::make_shared<CompactWeights>(AllocateCompact(source.config, storage));
  std::map<std::string, at::Tensor> targets;
  for (const NamedTensor& target : vectors.tensors) targets[target.name] = target.tensor;
  RETURN_IF_ERROR(ReadAll(order.size(), [&](size_t i) -> absl::Status {
    const NamedShape& wanted = order[i];
    const SourceTensor& from = source.tensors.at(wanted.name);
    const CompactPlace place = FindCompact(source.config, wanted.name, *compact);
    if (place.matrix == nullptr) return ReadOne(wanted.name, from, targets.at(wanted.name));
    const at::Tensor wide = at::empty(wanted.shape, at::kFloat);
    RETURN_IF_ERROR(ReadOne(wanted.name, from, wide));
    place.matrix->StoreRows(place.first_row, wide.size(0), wide.const_data_ptr<float>());
    return absl::OkStatus();
  }));
  vectors.weights.compact = std::move(compact);
  return std::move(vectors.weights);
}

// Room for all matrices in exact forms; null when there are none for one of them.
std::shared_ptr<CompactWeights> AllocateExactOf(const WeightSource& source) {
  for (const auto& [name, tensor] : source.tensors) {
    if (tensor.shape.size() == 2 && tensor.exact.forms.empty()) return nullptr;
  }
  bool exact = true;
  const auto form_of = [&](absl::Span<const std::string> names) {
    std::vector<const ExactBlocks*> blocks;
    for (const std::string& name : names) blocks.push_back(&source.tensors.at(name).exact);
    const std::optional<BlockForm> form = CommonForm(blocks);
    exact = exact && form.has_value();
    return form.value_or(BlockForm::kQ4);
  };
  auto compact = std::make_shared<CompactWeights>(AllocateExact(source.config, form_of));
  return exact ? compact : nullptr;
}

void ReadBlocks(const SourceTensor& from, CompactPlace place, std::atomic<bool>& exact) {
  uint8_t* rows = place.matrix->mutable_row(place.first_row);
  if (!from.exact.write(place.matrix->form(), rows)) exact = false;
  if (from.adjacent_pair_heads > 0) {
    ToRotateHalf(rows, from.shape[0], place.matrix->bytes() / place.matrix->out_features(),
                 from.adjacent_pair_heads);
  }
}

// Nothing when a matrix has no exact blocks.
absl::StatusOr<std::optional<LlamaWeights>> ReadExact(const WeightSource& source,
                                                      const std::vector<NamedShape>& order) {
  const std::shared_ptr<CompactWeights> compact = AllocateExactOf(source);
  if (compact == nullptr) return std::nullopt;
  BlankWeights vectors = AllocateWeights(source.config, WeightParts::kVectors);
  std::map<std::string, at::Tensor> targets;
  for (const NamedTensor& target : vectors.tensors) targets[target.name] = target.tensor;
  std::atomic<bool> exact{true};
  RETURN_IF_ERROR(ReadAll(order.size(), [&](size_t i) -> absl::Status {
    const std::string& name = order[i].name;
    const SourceTensor& from = source.tensors.at(name);
    const CompactPlace place = FindCompact(source.config, name, *compact);
    if (place.matrix == nullptr) return ReadOne(name, from, targets.at(name));
    ReadBlocks(from, place, exact);
    return absl::OkStatus();
  }));
  if (!exact) return std::nullopt;
  vectors.weights.compact = compact;
  return std::move(vectors.weights);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const LlamaWeights>> ReadWeights(const WeightSource& source,
                                                                WeightStorage storage) {
  RETURN_IF_ERROR(ValidateLlamaConfig(source.config));
  // Before any memory is taken: a file's sizes bound what is allocated.
  const std::vector<NamedShape> shapes = TensorShapes(source.config);
  RETURN_IF_ERROR(CheckTensors(source, shapes));
  const std::vector<NamedShape> order = LargestFirst(shapes);
  if (storage == WeightStorage::kExact) {
    ASSIGN_OR_RETURN(std::optional<LlamaWeights> exact, ReadExact(source, order));
    if (exact.has_value()) return std::make_shared<const LlamaWeights>(*std::move(exact));
  }
  const bool is_wide = storage == WeightStorage::kFp32 || storage == WeightStorage::kExact;
  ASSIGN_OR_RETURN(LlamaWeights weights,
                   is_wide ? ReadFp32(source, order) : ReadCompact(source, order, storage));
  return std::make_shared<const LlamaWeights>(std::move(weights));
}

}  // namespace evolora
