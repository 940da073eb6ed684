#include "loss.h"

namespace evolora {

absl::Status Loss::Prepare(FrozenPass& /*model*/, absl::Span<const int64_t> /*rows*/,
                           const std::stop_token& /*stop*/) {
  return absl::OkStatus();
}

double Loss::TakeLogProbs(absl::Span<const TokenLayout::Label> /*labels*/,
                          absl::Span<const double> /*log_probs*/) {
  return 0;
}

void Loss::AddTerms(absl::Span<const double> /*sums*/) {}

absl::StatusOr<std::unique_ptr<Loss>> MakeLoss(const ObjectiveSettings& settings,
                                               absl::Span<const TrainingRow> rows) {
  switch (settings.kind) {
    case ObjectiveKind::kSft:
      return MakeCrossEntropy(rows);
    case ObjectiveKind::kDpo:
      return MakeDpo(settings, rows);
    case ObjectiveKind::kDistill:
      return MakeDistill(settings, rows);
    case ObjectiveKind::kPolicy:
      return MakePolicy(settings, rows);
  }
  return absl::InternalError("no such objective");
}

}  // namespace evolora
