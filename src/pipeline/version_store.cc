#include "evolora/pipeline/version_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/adapters/peft.h"
#include "evolora/core/status_macros.h"

namespace evolora {

absl::StatusOr<ArtifactDigests> StoreState(BlobStore& blobs, const ArtifactState& state) {
  const StateDocuments documents = ToDocuments(state);
  ArtifactDigests digests;
  ASSIGN_OR_RETURN(digests.prompt, blobs.Put(documents.prompt));
  ASSIGN_OR_RETURN(digests.knowledge, blobs.Put(documents.knowledge));
  ASSIGN_OR_RETURN(digests.tools, blobs.Put(documents.tools));
  ASSIGN_OR_RETURN(digests.validation, blobs.Put(documents.validation));
  return digests;
}

absl::StatusOr<ArtifactState> LoadState(const BlobStore& blobs, const ArtifactDigests& digests) {
  StateDocuments documents;
  ASSIGN_OR_RETURN(documents.prompt, blobs.Get(digests.prompt));
  ASSIGN_OR_RETURN(documents.knowledge, blobs.Get(digests.knowledge));
  ASSIGN_OR_RETURN(documents.tools, blobs.Get(digests.tools));
  ASSIGN_OR_RETURN(documents.validation, blobs.Get(digests.validation));
  return FromDocuments(documents);
}

absl::StatusOr<AdapterSlot> StoreAdapter(Home& home, const LoraAdapter& adapter,
                                         const std::string& slot, const Trigger& scope) {
  ASSIGN_OR_RETURN(const LoraAdapter portable, ToPortableProfile(adapter));
  const std::string digest = AdapterDigest(portable);
  const std::string directory = home.AdapterDirectory(digest);
  if (!home.files().Exists(directory)) {
    RETURN_IF_ERROR(WritePeftFolder(home.files(), directory, portable));
  }
  AdapterSlot out{.slot = slot, .digest = digest, .scope = scope, .base_name = adapter.base_name};
  for (const LoraModule& module : portable.modules) out.rank = std::max(out.rank, module.rank);
  ASSIGN_OR_RETURN(out.blob, home.registry().blobs().PutDirectory(directory));
  return out;
}

absl::StatusOr<LoraAdapter> LoadStoredAdapter(Home& home, const AdapterSlot& slot) {
  const std::string directory = home.AdapterDirectory(slot.digest);
  if (!home.files().Exists(directory)) {
    const std::string partial = directory + ".partial";
    RETURN_IF_ERROR(home.registry().blobs().ExportTree(slot.blob, partial));
    RETURN_IF_ERROR(home.files().Rename(partial, directory));
  }
  ASSIGN_OR_RETURN(PeftAdapter peft, ReadPeftFolder(home.files(), directory));
  const std::string digest = AdapterDigest(peft.adapter);
  if (digest != slot.digest) {
    return absl::DataLossError(absl::StrCat("adapter of slot ", slot.slot, ": stored as ",
                                            slot.digest, ", reads back as ", digest));
  }
  return std::move(peft.adapter);
}

absl::StatusOr<StateView> MakeView(const std::string& version_id, const ArtifactState& state,
                                   absl::Span<const AdapterSlot> adapters) {
  StateView view{.version_id = version_id};
  ASSIGN_OR_RETURN(view.index, StateIndex::Build(state));
  for (const AdapterSlot& slot : adapters) view.routes.push_back({slot.scope, slot.digest});
  return view;
}

absl::StatusOr<OpenedVersion> OpenVersion(Home& home, absl::string_view name,
                                          const LoadAdapterFn& load_adapter) {
  OpenedVersion opened;
  ASSIGN_OR_RETURN(opened.record, home.registry().Resolve(name));
  const VersionManifest& manifest = opened.record.manifest;
  ASSIGN_OR_RETURN(opened.state, LoadState(home.registry().blobs(), manifest.artifacts));
  for (const AdapterSlot& slot : manifest.adapters) {
    ASSIGN_OR_RETURN(const LoraAdapter adapter, LoadStoredAdapter(home, slot));
    RETURN_IF_ERROR(load_adapter(adapter));
  }
  ASSIGN_OR_RETURN(opened.view, MakeView(opened.record.id, opened.state, manifest.adapters));
  return opened;
}

absl::StatusOr<VersionRecord> RegisterBareBase(Home& home, const BaseReference& base) {
  VersionManifest manifest{.base = base};
  ASSIGN_OR_RETURN(manifest.artifacts, StoreState(home.registry().blobs(), ArtifactState{}));
  manifest.decision = Json{{"action", "import_base"}};
  return home.registry().Register(manifest);
}

}  // namespace evolora
