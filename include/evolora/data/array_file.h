#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/file_system.h"

namespace evolora {

// A dense array, last dimension fastest. Rank 0 (empty shape) is one value; a dimension may be 0.
struct Array {
  using Values = std::variant<std::vector<float>, std::vector<double>, std::vector<int64_t>,
                              std::vector<int32_t>, std::vector<uint8_t>>;
  Values values;
  std::vector<int64_t> shape;
  friend bool operator==(const Array&, const Array&) = default;
};

using ArrayAttribute = std::variant<std::string, int64_t, double>;

// The content of one array file. Names are 1..128 characters of [A-Za-z0-9_.-]; rank <= 8; a string
// attribute has at most 32,768 bytes of UTF-8 (put longer text into a uint8 array).
struct ArrayFile {
  std::map<std::string, Array> arrays;
  std::map<std::string, ArrayAttribute> attributes;

  // The values of one array, checked for type. `T` is float, double, int64_t, int32_t or uint8_t.
  // Errors: NotFound no such array; InvalidArgument another type. The span lives as long as this.
  template <typename T>
  absl::StatusOr<absl::Span<const T>> Values(const std::string& name) const;
};

struct ArrayFileLimits {
  uint64_t max_bytes = uint64_t{4} << 30;
  int64_t max_objects = 100'000;  // arrays, and likewise attributes
};

// Writes an immutable array file: plain HDF5 behind a 512-byte user block.
//
//   file       = user-block hdf5
//   user-block = "EVOLORA-ARRAYS\r\n" version:u32le=1 zero:u32 hdf5-size:u64le sha256(hdf5):32
//   zero* hdf5       = superblock; root group with one contiguous,
//   unfiltered,
//                little-endian dataset per array and one scalar attribute per attribute
//
// Equal content gives equal bytes (no time stamps). The file is replaced as a whole through
// FileSystem::ReplaceFile. Ordinary HDF5 programs can read it.
// Errors: InvalidArgument a name, shape or size is not allowed (named); those of ReplaceFile.
// Threads: HDF5 is not thread-safe; every call in this header takes one process-wide mutex. No
//   other code in the process may use HDF5 at the same time. Memory: the file is built in memory.
absl::Status WriteArrayFile(FileSystem& files, const std::string& path, const ArrayFile& content);

// Reads one back. The digest is checked before HDF5 sees a byte, so torn and damaged files never
// reach its parser; the digest is no signature, so open only files that evolora wrote.
//
// Errors: DataLoss (not an array file, truncated, digest mismatch, or an object no array file has:
//         group, link, named or compound type, filter, chunks; the message names it),
//         FailedPrecondition newer version, ResourceExhausted a limit, NotFound no file.
absl::StatusOr<ArrayFile> ReadArrayFile(const FileSystem& files, const std::string& path,
                                        const ArrayFileLimits& limits = {});

}  // namespace evolora
