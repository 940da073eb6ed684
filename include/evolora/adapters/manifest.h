#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/core/json.h"
#include "evolora/core/trigger.h"

namespace evolora {

// The base weights a version stands on. Both fingerprints are SHA-256 hex digits.
struct BaseReference {
  std::string name;               // Hugging Face id or another stable name; not empty
  std::string shape_fingerprint;  // over tensor names and shapes: can the adapter be loaded at all
  std::string weights_fingerprint;  // over the bytes: was it made for exactly these weights
  friend bool operator==(const BaseReference&, const BaseReference&) = default;
};

// One adapter of a version and the requests it serves.
struct AdapterSlot {
  std::string slot;       // stable name of the place, unique in the version; see IsSlotName
  std::string digest;     // AdapterDigest of the weights (adapters/lora_adapter.h)
  std::string blob;       // tree blob (adapters/blob_store.h) of the stored adapter files
  Trigger scope;          // requests it serves; `all` or a matcher, never an empty trigger
  int64_t rank = 0;       // greatest LoRA rank, >= 1
  std::string base_name;  // base the adapter was trained on; must equal the version's base name
  friend bool operator==(const AdapterSlot&, const AdapterSlot&) = default;
};

// SHA-256 of the canonical JSON documents of the artifact state, each kept as a blob.
struct ArtifactDigests {
  std::string prompt;
  std::string knowledge;
  std::string tools;
  std::string validation;
  friend bool operator==(const ArtifactDigests&, const ArtifactDigests&) = default;
};

// One immutable committed state: weights and text together. It holds no time and no measured
// duration, so equal content always has an equal id, whoever registers it and when.
struct VersionManifest {
  int64_t schema = 1;
  BaseReference base;
  std::vector<AdapterSlot>
      adapters;  // ordered: the first slot whose scope matches serves the request
  ArtifactDigests artifacts;
  std::vector<std::string>
      parents;  // version ids; parents[0] is the state it was built on and judged against
  Json decision = Json::object();  // what was done and why; deterministic
  std::string evidence;            // blob of the evidence document, or "" when there is none
  std::string verdict;             // blob of the gate verdict, or "" when it was not judged yet
  friend bool operator==(const VersionManifest&, const VersionManifest&) = default;
};

// Checks every rule stated above: digests, slot names, scopes, ranks, base names, no duplicate slot
// or parent, a decision that is a JSON object of finite numbers and valid UTF-8 without any key
// that is "seconds" or ends in "_seconds". Errors: InvalidArgument names the field and its value.
absl::Status ValidateManifest(const VersionManifest& manifest);

// JSON both ways. Parsing is strict (unknown or missing field, wrong type: InvalidArgument with the
// path) and ends with ValidateManifest.
Json ManifestToJson(const VersionManifest& manifest);
absl::StatusOr<VersionManifest> ManifestFromJson(const Json& json);

// SHA-256 hex of the canonical JSON. REQUIRES: ValidateManifest(manifest) is OK.
std::string VersionId(const VersionManifest& manifest);

// 1 to 48 of [a-z0-9._-], the first a letter or a digit: safe as part of a model name on servers.
bool IsSlotName(absl::string_view text);

// `<slot>-v<seq>-<first 8 digits of the digest>`: the name an inference server knows the adapter
// by. `seq` is that of the version that brought these weights to the slot first, so that an adapter
// that stays keeps its name and a name never stands for other bytes (Registry::ServingNames).
// REQUIRES: IsSlotName(slot), seq >= 1, IsSha256Hex(digest).
std::string AdapterServingName(absl::string_view slot, int64_t seq, absl::string_view digest);

// The slot that serves a request with this text (core RequestText), or nullptr for the bare base.
// REQUIRES: ValidateManifest(manifest) is OK. The result lives in `manifest`.
const AdapterSlot* RouteRequest(const VersionManifest& manifest, absl::string_view request_text);

}  // namespace evolora
