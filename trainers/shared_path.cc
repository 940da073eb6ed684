#include "shared_path.h"

#include <utility>

#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

class SharedPath : public GradientPath {
 public:
  SharedPath(std::unique_ptr<GradientPath> inner, at::Tensor gradient, ProcessGroup& group)
      : inner_(std::move(inner)), gradient_(std::move(gradient)), group_(group) {}

  absl::StatusOr<double> AddGradient(absl::Span<const int64_t> step_rows, double factor) override {
    const absl::Span<const int64_t> mine = ShareOf(step_rows, group_.rank(), group_.size());
    inner_->set_step(step());
    if (!mine.empty()) RETURN_IF_ERROR(inner_->EnqueueGradient(mine, factor));
    RETURN_IF_ERROR(group_.Sum(gradient_));
    double loss_sum = 0;
    if (!mine.empty()) {
      ASSIGN_OR_RETURN(loss_sum, inner_->LossSum());
    }
    RETURN_IF_ERROR(group_.Sum(absl::MakeSpan(&loss_sum, 1)));
    return loss_sum;
  }

  FrozenPass* frozen_pass() override { return inner_->frozen_pass(); }

 private:
  std::unique_ptr<GradientPath> inner_;
  at::Tensor gradient_;
  ProcessGroup& group_;
};

}  // namespace

absl::Span<const int64_t> ShareOf(absl::Span<const int64_t> step_rows, int rank, int size) {
  const auto count = static_cast<int64_t>(step_rows.size());
  const int64_t begin = count * rank / size;
  const int64_t end = count * (rank + 1) / size;
  return step_rows.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
}

std::unique_ptr<GradientPath> MakeSharedPath(std::unique_ptr<GradientPath> inner,
                                             at::Tensor gradient, ProcessGroup& group) {
  return std::make_unique<SharedPath>(std::move(inner), std::move(gradient), group);
}

}  // namespace evolora
