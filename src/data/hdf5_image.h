#pragma once

// The HDF5 half of array files: content <-> bytes of a whole HDF5 file in memory. Private to data.
// Not thread-safe; array_file.cc holds the process-wide mutex around every call.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/data/array_file.h"

namespace evolora::internal {

inline constexpr size_t kUserBlockBytes = 512;

// A complete file whose first kUserBlockBytes are zero (HDF5's user block). REQUIRES: checked
// names.
absl::StatusOr<std::string> ToHdf5Image(const ArrayFile& content);

// `bytes` includes the user block. Errors: DataLoss for anything that ToHdf5Image does not write,
// ResourceExhausted for a passed limit.
absl::StatusOr<ArrayFile> FromHdf5Image(absl::string_view bytes, const ArrayFileLimits& limits);

}  // namespace evolora::internal
