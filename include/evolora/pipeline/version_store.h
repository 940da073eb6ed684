#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/adapters/lora_adapter.h"
#include "evolora/adapters/registry.h"
#include "evolora/eval/solver.h"
#include "evolora/pipeline/home.h"
#include "evolora/state/artifact_state.h"

namespace evolora {

// Makes `adapter` usable under its digest in the model that solves. Called once per version and
// adapter; loading one that is loaded already is OK.
using LoadAdapterFn = std::function<absl::Status(const LoraAdapter& adapter)>;

// A version with its text read from blobs and its adapters loaded: ready to solve with.
struct OpenedVersion {
  VersionRecord record;
  ArtifactState state;
  StateView view;
};

// Reads the version, builds its index and loads its adapters.
// Errors: NotFound, DataLoss (a blob that does not match), those of `load_adapter`.
absl::StatusOr<OpenedVersion> OpenVersion(Home& home, absl::string_view name,
                                          const LoadAdapterFn& load_adapter);

// The same for a candidate that is not registered: its text and the adapter slots of a manifest.
absl::StatusOr<StateView> MakeView(const std::string& version_id, const ArtifactState& state,
                                   absl::Span<const AdapterSlot> adapters);

// Keeps the four documents of a state as blobs.
absl::StatusOr<ArtifactDigests> StoreState(BlobStore& blobs, const ArtifactState& state);
absl::StatusOr<ArtifactState> LoadState(const BlobStore& blobs, const ArtifactDigests& digests);

// Keeps the adapter as a PEFT folder (portable profile) and describes it as a slot. The slot's
// digest is that of the adapter as it reads back.
absl::StatusOr<AdapterSlot> StoreAdapter(Home& home, const LoraAdapter& adapter,
                                         const std::string& slot, const Trigger& scope);
absl::StatusOr<LoraAdapter> LoadStoredAdapter(Home& home, const AdapterSlot& slot);

// What the bare base is as a version: empty state, no adapter, no parent. Registered on first use.
absl::StatusOr<VersionRecord> RegisterBareBase(Home& home, const BaseReference& base);

}  // namespace evolora
