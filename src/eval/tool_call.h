#pragma once

// The tool_call half of Verify. Private to eval.

#include "absl/strings/string_view.h"
#include "evolora/core/case.h"
#include "evolora/core/episode.h"

namespace evolora::internal {

// REQUIRES: ValidateSpec(spec) is OK; output within the size limit.
Feedback VerifyToolCall(const VerifySpec& spec, absl::string_view output);

}  // namespace evolora::internal
