#pragma once

#include <string>
#include <utility>
#include <vector>

namespace evolora::testing {

// HDF5 files with a right seal that no array file may look like: {bytes, name of the odd object}.
struct ForeignFile {
  std::string what;
  std::string bytes;
  std::string object;
};
// Uses HDF5 directly; writes its scratch files below `directory`.
std::vector<ForeignFile> MakeForeignFiles(const std::string& directory);

// Reads one float array as any HDF5 program would; empty when that fails.
std::vector<float> ReadPlainHdf5(const std::string& path, const std::string& name, size_t count);

}  // namespace evolora::testing
