#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "evolora/core/patch.h"
#include "evolora/evolver/propose.h"

namespace evolora {

// Provenance of a patch made from `failure`; FailedPrecondition without an episode id.
absl::StatusOr<Provenance> ProvenanceOf(const Failure& failure);

// FailedPrecondition when `text` is empty, else CheckUntrustedText.
absl::Status CheckRequired(const Failure& failure, absl::string_view field, absl::string_view text,
                           const TextLimits& limits);

// `text` as [a-z0-9-], at most 40 bytes.
std::string Slug(absl::string_view text);

}  // namespace evolora
