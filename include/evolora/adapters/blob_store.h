#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/file_system.h"
#include "evolora/core/json.h"

namespace evolora {

// One file of a tree, with its content.
struct BlobFile {
  std::string name;  // plain file name: 1 to 128 of [A-Za-z0-9._-], the first not a dot
  std::string bytes;
  friend bool operator==(const BlobFile&, const BlobFile&) = default;
};

// One file of a tree, by reference.
struct TreeEntry {
  std::string name;
  std::string digest;  // blob of the content
  uint64_t size_bytes = 0;
  friend bool operator==(const TreeEntry&, const TreeEntry&) = default;
};

// Content-addressed, immutable bytes below one folder:
//
//   <root>/sha256/<first two digits>/<64 digits>     mode 0444
//   tree blob = canonical JSON [{"digest": hex, "name": text, "size": bytes}, ...] sorted by name
//
// A blob is complete or absent: it is written under a temporary name, fsynced, renamed, and its
// folder is fsynced (FileSystem::WriteFileAtomic). Nothing is ever overwritten with other bytes.
//
// Threads: safe, as far as the FileSystem is; two writers of equal bytes both succeed.
class BlobStore {
 public:
  static constexpr uint64_t kMaxBlobBytes = uint64_t{16} << 30;

  // `files` is not owned and must outlive the store. Creates nothing before the first Put.
  BlobStore(FileSystem& files, std::string root);

  // Keeps the bytes and returns their SHA-256. Idempotent; a damaged blob of the same digest (wrong
  // size or hash) is replaced by the right bytes.
  // Errors: those of FileSystem, with the digest in the message.
  absl::StatusOr<std::string> Put(absl::string_view bytes);
  absl::StatusOr<std::string> PutJson(const Json& value);  // canonical text

  // Errors: InvalidArgument  `digest` is not 64 lower-case hex digits
  //         NotFound         no such blob
  //         DataLoss         the stored bytes do not hash to `digest`
  absl::StatusOr<std::string> Get(absl::string_view digest) const;
  // As Get; DataLoss also when the bytes are no JSON.
  absl::StatusOr<Json> GetJson(absl::string_view digest) const;
  // Get without the bytes.
  absl::Status Verify(absl::string_view digest) const;
  // Whether a file of that name is there; says nothing about its bytes.
  bool Has(absl::string_view digest) const;

  // Keeps a set of files; the digest does not depend on their order.
  // Errors: InvalidArgument for a bad or repeated name or an empty set.
  absl::StatusOr<std::string> PutTree(absl::Span<const BlobFile> files);
  // The same for all files of a folder. InvalidArgument when it holds a sub-folder.
  absl::StatusOr<std::string> PutDirectory(const std::string& directory);
  absl::StatusOr<std::vector<TreeEntry>> GetTree(absl::string_view digest) const;
  absl::StatusOr<std::vector<BlobFile>> ReadTree(absl::string_view digest) const;
  // Verifies the tree and the bytes of each file, and that each size is the listed one.
  absl::Status VerifyTree(absl::string_view digest) const;
  // Writes the files of a tree into `directory` (created; equal names are replaced one by one).
  absl::Status ExportTree(absl::string_view digest, const std::string& directory) const;

  // Where the blob is or would be. REQUIRES: IsSha256Hex(digest).
  std::string PathOf(absl::string_view digest) const;

 private:
  FileSystem* files_;
  std::string root_;
};

}  // namespace evolora
