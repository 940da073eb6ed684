#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/core/trigger.h"

namespace evolora {

struct DerivedScope {
  Trigger trigger;
  int64_t outside_matches = 0;  // of the outside texts
};

// The trigger of a cluster's requests. A phrase that all of `inside` share comes first; when the
// only thing against it is that at most 5 % of `outside` hold it too, it is preferred to a list of
// alternatives, which would learn the cluster's words by heart to keep those few out.
// NotFound when nothing fits; errors of DeriveTrigger otherwise.
absl::StatusOr<DerivedScope> DeriveScope(absl::Span<const std::string> inside,
                                         absl::Span<const std::string> outside, int max_terms);

}  // namespace evolora
