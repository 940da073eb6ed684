#include "gradient_path.h"

#include "evolora/core/status_macros.h"

namespace evolora {

absl::Status GradientPath::EnqueueGradient(absl::Span<const int64_t> step_rows, double factor) {
  ASSIGN_OR_RETURN(loss_sum_, AddGradient(step_rows, factor));
  return absl::OkStatus();
}

}  // namespace evolora
