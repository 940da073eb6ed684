#include "evolora/model/weight_storage.h"

namespace evolora {

const char* WeightStorageName(WeightStorage storage) {
  switch (storage) {
    case WeightStorage::kFp32:
      return "fp32";
    case WeightStorage::kBf16:
      return "bf16";
    case WeightStorage::kInt8:
      return "int8";
    case WeightStorage::kQ4:
      return "q4";
    case WeightStorage::kExact:
      return "exact";
  }
  return "fp32";
}

bool ParseWeightStorage(absl::string_view name, WeightStorage& storage) {
  for (const WeightStorage known :
       {WeightStorage::kFp32, WeightStorage::kBf16, WeightStorage::kInt8, WeightStorage::kQ4}) {
    if (name != WeightStorageName(known)) continue;
    storage = known;
    return true;
  }
  return false;
}

}  // namespace evolora
