#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "evolora/adapters/dequantize.h"
#include "evolora/adapters/peft.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

// Those that vLLM can be started for.
constexpr int64_t kWrittenRanks[] = {8, 16, 32, kMaxPortableRank, 128, 256, kMaxWrittenRank};

const LoraModule& Widest(const LoraAdapter& adapter) {
  return *std::max_element(
      adapter.modules.begin(), adapter.modules.end(),
      [](const LoraModule& a, const LoraModule& b) { return a.rank < b.rank; });
}

absl::StatusOr<int64_t> WrittenRank(const LoraAdapter& adapter) {
  const LoraModule& widest = Widest(adapter);
  for (int64_t rank : kWrittenRanks) {
    if (widest.rank <= rank) return rank;
  }
  return absl::InvalidArgumentError(absl::StrCat(widest.path, ": rank ", widest.rank,
                                                 ", adapters are written up to ", kMaxWrittenRank));
}

bool HasOneScale(const LoraAdapter& adapter) {
  for (const LoraModule& module : adapter.modules) {
    if (module.scale != adapter.modules.front().scale) return false;
  }
  return true;
}

// Zero rows of A and zero columns of B: the function stays the same.
void PadRank(LoraModule& module, int64_t rank) {
  if (module.rank == rank) return;
  module.a.resize(rank * module.in_features, 0.0f);
  std::vector<float> b(module.out_features * rank, 0.0f);
  for (int64_t o = 0; o < module.out_features; ++o) {
    for (int64_t r = 0; r < module.rank; ++r) b[o * rank + r] = module.b[o * module.rank + r];
  }
  module.b = std::move(b);
  module.rank = rank;
}

void FoldScale(LoraModule& module) {
  for (float& value : module.b) value = static_cast<float>(module.scale * value);
  module.scale = 1;
}

float Rounded(float value, DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return HalfToFloat(FloatToHalf(value));
    case DType::kBF16:
      return BFloat16ToFloat(FloatToBFloat16(value));
    default:
      return value;
  }
}

absl::Status RoundMatrix(const std::string& path, const char* name, DType dtype,
                         std::vector<float>& values) {
  for (float& value : values) {
    const float rounded = Rounded(value, dtype);
    if (!std::isfinite(rounded)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", name, " holds ", value,
                                                     ", outside the range of ", DTypeName(dtype)));
    }
    value = rounded;
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> ServeabilityWarnings(const LoraAdapter& adapter) {
  std::vector<std::string> warnings;
  if (const int64_t rank = Widest(adapter).rank; rank > kMaxPortableRank) {
    warnings.push_back(absl::StrCat("rank ", rank, ": beyond ", kMaxPortableRank,
                                    ", where the portable profile ends; servers have to be started "
                                    "for it (vLLM: --max-lora-rank)"));
  }
  if (HasMagnitudes(adapter)) {
    warnings.push_back(
        "DoRA (use_dora): evolora and transformers + PEFT run this adapter; vLLM and llama.cpp "
        "refuse it");
  }
  if (!adapter.saved_modules.empty()) {
    std::vector<std::string> paths;
    for (const SavedModule& module : adapter.saved_modules) paths.push_back(module.path);
    warnings.push_back(absl::StrCat(
        "modules_to_save (",
        paths.size() <= 4 ? absl::StrJoin(paths, ", ") : absl::StrCat(paths.size(), " modules"),
        "): evolora and transformers + PEFT run this adapter; vLLM refuses it, and llama.cpp's "
        "LoRA "
        "files cannot hold it"));
  }
  return warnings;
}

absl::StatusOr<LoraAdapter> ToPortableProfile(const LoraAdapter& adapter, DType dtype) {
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapters are not written as ", DTypeName(dtype)));
  }
  RETURN_IF_ERROR(ValidateLoraAdapter(adapter));
  ASSIGN_OR_RETURN(const int64_t rank, WrittenRank(adapter));
  const bool one_scale = HasOneScale(adapter);
  LoraAdapter result = adapter;
  for (LoraModule& module : result.modules) {
    PadRank(module, rank);
    if (!one_scale) FoldScale(module);
    RETURN_IF_ERROR(RoundMatrix(module.path, "A", dtype, module.a));
    RETURN_IF_ERROR(RoundMatrix(module.path, "B", dtype, module.b));
    RETURN_IF_ERROR(RoundMatrix(module.path, "magnitude", dtype, module.magnitude));
  }
  for (SavedModule& module : result.saved_modules) {
    RETURN_IF_ERROR(RoundMatrix(module.path, "weight", dtype, module.weight));
  }
  return result;
}

}  // namespace evolora
