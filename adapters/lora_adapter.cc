#include "evolora/adapters/lora_adapter.h"

#include <bit>
#include <cmath>
#include <cstddef>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

static_assert(std::endian::native == std::endian::little, "digests are over little-endian bytes");

// Bounds far above any real layer, so that products of two of them cannot overflow.
constexpr int64_t kMaxFeatures = int64_t{1} << 30;
constexpr int64_t kMaxRank = int64_t{1} << 16;

bool IsPathCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-' || c == '.';
}

absl::Status ValidatePath(absl::string_view path) {
  if (path.empty()) return absl::InvalidArgumentError("a module has an empty path");
  for (char c : path) {
    if (!IsPathCharacter(c)) {
      return absl::InvalidArgumentError(
          absl::StrCat("module path '", path, "': character ", int{static_cast<uint8_t>(c)}));
    }
  }
  if (path.front() == '.' || path.back() == '.' || absl::StrContains(path, "..")) {
    return absl::InvalidArgumentError(absl::StrCat("module path '", path, "': empty component"));
  }
  return absl::OkStatus();
}

absl::Status ValidateRange(const LoraModule& module, absl::string_view what, int64_t value,
                           int64_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(module.path, ": ", what, " = ", value, ", not in [1, ", max, "]"));
}

absl::Status ValidateMatrix(const LoraModule& module, absl::string_view name,
                            const std::vector<float>& values, int64_t rows, int64_t columns) {
  if (values.size() != static_cast<uint64_t>(rows * columns)) {
    return absl::InvalidArgumentError(absl::StrCat(module.path, ": ", name, " has ", values.size(),
                                                   " values, not ", rows, " x ", columns));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat(module.path, ": ", name, "[", i, "] is not finite"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateModule(const LoraModule& module) {
  RETURN_IF_ERROR(ValidatePath(module.path));
  RETURN_IF_ERROR(ValidateRange(module, "rank", module.rank, kMaxRank));
  RETURN_IF_ERROR(ValidateRange(module, "in_features", module.in_features, kMaxFeatures));
  RETURN_IF_ERROR(ValidateRange(module, "out_features", module.out_features, kMaxFeatures));
  if (!std::isfinite(module.scale) || module.scale == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(module.path, ": scale = ", module.scale, ", not finite and non-zero"));
  }
  RETURN_IF_ERROR(ValidateMatrix(module, "A", module.a, module.rank, module.in_features));
  RETURN_IF_ERROR(ValidateMatrix(module, "B", module.b, module.out_features, module.rank));
  if (module.magnitude.empty()) return absl::OkStatus();
  return ValidateMatrix(module, "magnitude", module.magnitude, module.out_features, 1);
}

absl::Status ValidateSavedModule(const SavedModule& module) {
  RETURN_IF_ERROR(ValidatePath(module.path));
  uint64_t count = 1;
  for (const int64_t size : module.shape) {
    if (size < 1 || size > kMaxFeatures) {
      return absl::InvalidArgumentError(absl::StrCat(module.path, ": a side of ", size));
    }
    count *= static_cast<uint64_t>(size);
  }
  if (module.shape.empty() || module.shape.size() > 2 || module.weight.size() != count) {
    return absl::InvalidArgumentError(absl::StrCat(module.path, ": ", module.weight.size(),
                                                   " values are not its ", module.shape.size(),
                                                   "-dimensional shape"));
  }
  for (size_t i = 0; i < module.weight.size(); ++i) {
    if (!std::isfinite(module.weight[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat(module.path, ": weight[", i, "] is not finite"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateSavedModules(const LoraAdapter& adapter) {
  const std::vector<SavedModule>& saved = adapter.saved_modules;
  for (size_t i = 0; i < saved.size(); ++i) {
    RETURN_IF_ERROR(ValidateSavedModule(saved[i]));
    if (i > 0 && saved[i - 1].path >= saved[i].path) {
      return absl::InvalidArgumentError(absl::StrCat("saved module '", saved[i].path,
                                                     "' is not after '", saved[i - 1].path, "'"));
    }
    for (const LoraModule& module : adapter.modules) {
      if (module.path != saved[i].path) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("module '", module.path, "' is both adapted and saved as a whole"));
    }
  }
  return absl::OkStatus();
}

template <typename T>
void UpdateValue(Sha256& sha, const T& value) {
  sha.Update(&value, sizeof(value));
}

}  // namespace

bool HasMagnitudes(const LoraAdapter& adapter) {
  return !adapter.modules.empty() && !adapter.modules.front().magnitude.empty();
}

absl::Status ValidateLoraAdapter(const LoraAdapter& adapter) {
  if (adapter.modules.empty()) return absl::InvalidArgumentError("the adapter has no modules");
  for (size_t i = 0; i < adapter.modules.size(); ++i) {
    RETURN_IF_ERROR(ValidateModule(adapter.modules[i]));
    if (adapter.modules[i].magnitude.empty() == HasMagnitudes(adapter)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "module ", i, " ('", adapter.modules[i].path, "') ",
          HasMagnitudes(adapter) ? "lacks the magnitude that module 0 has" : "has a magnitude"));
    }
    if (i > 0 && adapter.modules[i - 1].path >= adapter.modules[i].path) {
      return absl::InvalidArgumentError(absl::StrCat("module ", i, " ('", adapter.modules[i].path,
                                                     "') is not after '",
                                                     adapter.modules[i - 1].path, "'"));
    }
  }
  return ValidateSavedModules(adapter);
}

// bytes := "evolora-lora/1\n" module*            plain LoRA
//        | "evolora-lora/2\n" (module m:f32*)*    with magnitudes
// and, with saved modules, behind them: "saved\n" (len(path):u64 path dims:u64 side:i64* w:f32*)*
// module := len(path):u64 path rank:i64 in:i64 out:i64 scale:f64 a:f32* b:f32*    little-endian
std::string AdapterDigest(const LoraAdapter& adapter) {
  Sha256 sha;
  sha.Update(HasMagnitudes(adapter) ? "evolora-lora/2\n" : "evolora-lora/1\n");
  for (const LoraModule& module : adapter.modules) {
    UpdateValue(sha, uint64_t{module.path.size()});
    sha.Update(module.path);
    UpdateValue(sha, module.rank);
    UpdateValue(sha, module.in_features);
    UpdateValue(sha, module.out_features);
    UpdateValue(sha, module.scale);
    sha.Update(module.a.data(), module.a.size() * sizeof(float));
    sha.Update(module.b.data(), module.b.size() * sizeof(float));
    sha.Update(module.magnitude.data(), module.magnitude.size() * sizeof(float));
  }
  if (!adapter.saved_modules.empty()) sha.Update("saved\n");
  for (const SavedModule& module : adapter.saved_modules) {
    UpdateValue(sha, uint64_t{module.path.size()});
    sha.Update(module.path);
    UpdateValue(sha, uint64_t{module.shape.size()});
    for (const int64_t side : module.shape) UpdateValue(sha, side);
    sha.Update(module.weight.data(), module.weight.size() * sizeof(float));
  }
  return sha.FinishHex();
}

}  // namespace evolora
