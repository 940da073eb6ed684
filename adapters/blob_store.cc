#include "evolora/adapters/blob_store.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr uint32_t kReadOnly = 0444;
// A tree lists a few dozen files; a longer document is not one of ours.
constexpr size_t kMaxTreeBytes = 8u << 20;

bool IsFileName(absl::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= 128 && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), allowed);
}

absl::Status Damaged(absl::string_view digest, absl::string_view why) {
  return absl::DataLossError(absl::StrCat("blob ", digest, ": ", why));
}

absl::StatusOr<TreeEntry> EntryFromJson(const Json& json, const std::string& path) {
  JsonFields f(json, path);
  TreeEntry entry{.name = f.String("name"),
                  .digest = f.String("digest"),
                  .size_bytes = static_cast<uint64_t>(
                      f.Integer("size", 0, static_cast<int64_t>(BlobStore::kMaxBlobBytes)))};
  RETURN_IF_ERROR(f.Done());
  if (!IsFileName(entry.name)) f.Fail("name", "not a plain file name");
  if (!IsSha256Hex(entry.digest)) f.Fail("digest", "not 64 lower-case hex digits");
  RETURN_IF_ERROR(f.status());
  return entry;
}

absl::StatusOr<std::vector<TreeEntry>> TreeFromJson(const Json& json) {
  if (!json.is_array() || json.empty()) return absl::InvalidArgumentError("not a list of files");
  std::vector<TreeEntry> entries;
  for (size_t i = 0; i < json.size(); ++i) {
    ASSIGN_OR_RETURN(TreeEntry entry, EntryFromJson(json[i], absl::StrCat("tree[", i, "]")));
    if (!entries.empty() && entries.back().name >= entry.name) {
      return absl::InvalidArgumentError(absl::StrCat("file ", entry.name, " is out of order"));
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace

BlobStore::BlobStore(FileSystem& files, std::string root)
    : files_(&files), root_(std::move(root)) {}

std::string BlobStore::PathOf(absl::string_view digest) const {
  EVOLORA_CHECK(IsSha256Hex(digest), "a blob path needs a digest");
  return absl::StrCat(root_, "/sha256/", digest.substr(0, 2), "/", digest);
}

absl::StatusOr<std::string> BlobStore::Put(absl::string_view bytes) {
  const std::string digest = Sha256Hex(bytes);
  if (bytes.size() > kMaxBlobBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("blob ", digest, ": ", bytes.size(), " bytes, the limit is ", kMaxBlobBytes));
  }
  const std::string path = PathOf(digest);
  if (files_->Exists(path) && Verify(digest).ok()) return digest;
  RETURN_IF_ERROR(
      Annotate(files_->CreateDirectories(absl::StrCat(root_, "/sha256/", digest.substr(0, 2))),
               absl::StrCat("blob ", digest)));
  RETURN_IF_ERROR(
      Annotate(files_->WriteFileAtomic(path, bytes, kReadOnly), absl::StrCat("blob ", digest)));
  return digest;
}

absl::StatusOr<std::string> BlobStore::PutJson(const Json& value) {
  return Put(CanonicalJson(value));
}

absl::StatusOr<std::string> BlobStore::Get(absl::string_view digest) const {
  if (!IsSha256Hex(digest)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", digest, "\" is not a blob digest"));
  }
  absl::StatusOr<std::string> bytes = files_->ReadFile(PathOf(digest), kMaxBlobBytes);
  if (!bytes.ok()) return Annotate(bytes.status(), absl::StrCat("blob ", digest));
  const std::string actual = Sha256Hex(*bytes);
  if (actual != digest) {
    return Damaged(digest, absl::StrCat("its ", bytes->size(), " bytes hash to ", actual));
  }
  return bytes;
}

absl::StatusOr<Json> BlobStore::GetJson(absl::string_view digest) const {
  ASSIGN_OR_RETURN(const std::string bytes, Get(digest));
  absl::StatusOr<Json> json = ParseJson(bytes);
  if (!json.ok()) return Damaged(digest, absl::StrCat("not JSON: ", json.status().message()));
  return json;
}

absl::Status BlobStore::Verify(absl::string_view digest) const { return Get(digest).status(); }

bool BlobStore::Has(absl::string_view digest) const {
  return IsSha256Hex(digest) && files_->Exists(PathOf(digest));
}

absl::StatusOr<std::string> BlobStore::PutTree(absl::Span<const BlobFile> files) {
  if (files.empty()) return absl::InvalidArgumentError("tree: no files");
  std::map<std::string, const BlobFile*> by_name;
  for (const BlobFile& file : files) {
    if (!IsFileName(file.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tree: \"", file.name, "\" is not a plain file name"));
    }
    if (!by_name.emplace(file.name, &file).second) {
      return absl::InvalidArgumentError(absl::StrCat("tree: file ", file.name, " stands twice"));
    }
  }
  Json tree = Json::array();
  for (const auto& [name, file] : by_name) {
    ASSIGN_OR_RETURN(const std::string digest, Put(file->bytes));
    tree.push_back({{"name", name}, {"digest", digest}, {"size", file->bytes.size()}});
  }
  return PutJson(tree);
}

absl::StatusOr<std::string> BlobStore::PutDirectory(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, files_->ListDirectory(directory));
  std::vector<BlobFile> files;
  for (const std::string& name : names) {
    absl::StatusOr<std::string> bytes = files_->ReadFile(JoinPath(directory, name), kMaxBlobBytes);
    if (absl::IsFailedPrecondition(bytes.status())) {  // not a regular file
      return absl::InvalidArgumentError(absl::StrCat("tree: ", bytes.status().message()));
    }
    RETURN_IF_ERROR(bytes.status());
    files.push_back({.name = name, .bytes = *std::move(bytes)});
  }
  return PutTree(files);
}

absl::StatusOr<std::vector<TreeEntry>> BlobStore::GetTree(absl::string_view digest) const {
  ASSIGN_OR_RETURN(const std::string bytes, Get(digest));
  if (bytes.size() > kMaxTreeBytes) return Damaged(digest, "too large for a tree");
  const absl::StatusOr<Json> json = ParseJson(bytes);
  if (!json.ok()) return Damaged(digest, "not a tree");
  absl::StatusOr<std::vector<TreeEntry>> entries = TreeFromJson(*json);
  if (!entries.ok()) {
    return Damaged(digest, absl::StrCat("not a tree: ", entries.status().message()));
  }
  return entries;
}

absl::StatusOr<std::vector<BlobFile>> BlobStore::ReadTree(absl::string_view digest) const {
  ASSIGN_OR_RETURN(const std::vector<TreeEntry> entries, GetTree(digest));
  std::vector<BlobFile> files;
  for (const TreeEntry& entry : entries) {
    ASSIGN_OR_RETURN(std::string bytes, Get(entry.digest));
    if (bytes.size() != entry.size_bytes) {
      return Damaged(digest, absl::StrCat("lists ", entry.size_bytes, " bytes for ", entry.name,
                                          ", there are ", bytes.size()));
    }
    files.push_back({.name = entry.name, .bytes = std::move(bytes)});
  }
  return files;
}

absl::Status BlobStore::VerifyTree(absl::string_view digest) const {
  return ReadTree(digest).status();
}

absl::Status BlobStore::ExportTree(absl::string_view digest, const std::string& directory) const {
  ASSIGN_OR_RETURN(const std::vector<BlobFile> files, ReadTree(digest));
  RETURN_IF_ERROR(files_->CreateDirectories(directory));
  for (const BlobFile& file : files) {
    RETURN_IF_ERROR(files_->WriteFileAtomic(JoinPath(directory, file.name), file.bytes, 0644));
  }
  return absl::OkStatus();
}

}  // namespace evolora
