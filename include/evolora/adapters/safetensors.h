#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/core/file_system.h"

namespace evolora {

// A safetensors file, or an HF folder of several, as one set of named tensors.
//
//   file   := N:u64le header[N] data
//   header := "{" json "}" " "*                        N <= 100,000,000
//   json   := ["__metadata__": {string: string}], name: {dtype, shape, data_offsets: [begin, end]}
//
// Stricter than the official reader, which lets a leading blank, identical duplicate keys and an
// array in the place of a tensor entry pass: here each is an error. The tensors must cover the
// data without hole or overlap, from 0 to its end.
// Errors of all readers: InvalidArgument (the header breaks a rule), DataLoss (the file is shorter
// or longer than the header says), Unimplemented (element type that evolora does not read); each
// names the tensor or the offset. Values are not looked at: NaN passes.
// Immutable after construction: any number of threads may read.
class SafetensorsFile {
 public:
  // Maps the file; the map lives as long as the object.
  static absl::StatusOr<SafetensorsFile> Open(const FileSystem& fs, const std::string& path);
  // Reads a file's bytes in memory, which must outlive the object.
  static absl::StatusOr<SafetensorsFile> Parse(absl::Span<const uint8_t> file);
  // `dir`/model.safetensors, or the files that `dir`/model.safetensors.index.json names: every
  // tensor of the index in exactly the file that it says, and no tensor outside the index.
  // NotFound: neither is there. InvalidArgument also: both are.
  static absl::StatusOr<SafetensorsFile> OpenFolder(const FileSystem& fs, const std::string& dir);

  SafetensorsFile(SafetensorsFile&&) = default;
  SafetensorsFile& operator=(SafetensorsFile&&) = default;

  // Sorted by name (bytes). The views point into the map.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  // nullptr when there is no tensor of that name.
  const TensorView* Find(absl::string_view name) const;
  // "__metadata__"; of a folder the union, where files that disagree are an error.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  SafetensorsFile() = default;

  std::vector<std::unique_ptr<MappedFile>> maps_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

// The bytes of a file with these tensors, as the official writer lays them out: element types of
// larger alignment first, names in byte order within a type, header padded with blanks to a
// multiple of 8. Equal input, in whatever order, gives equal bytes.
// InvalidArgument: two equal names, the name "__metadata__", a name that is not UTF-8, or bytes
// that do not fit the shape.
absl::StatusOr<std::string> SerializeSafetensors(
    absl::Span<const TensorView> tensors, const std::map<std::string, std::string>& metadata);

// The same into a file, in pieces (no second copy of the tensors in memory) and by
// FileSystem::ReplaceFile: the path holds the old file or the complete new one.
absl::Status WriteSafetensors(FileSystem& fs, const std::string& path,
                              absl::Span<const TensorView> tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace evolora
