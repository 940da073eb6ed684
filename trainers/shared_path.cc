#include "shared_path.h"

#include <utility>

#include "ATen/core/grad_mode.h"
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
    double loss_sum = 0;
    if (!mine.empty()) {
      ASSIGN_OR_RETURN(loss_sum, inner_->AddGradient(mine, factor));
    }
    RETURN_IF_ERROR(SumGradient());
    RETURN_IF_ERROR(group_.Sum(absl::MakeSpan(&loss_sum, 1)));
    return loss_sum;
  }

  FrozenPass* frozen_pass() override { return inner_->frozen_pass(); }

 private:
  absl::Status SumGradient() {
    const at::NoGradGuard no_grad;
    const at::Tensor host = gradient_.cpu();  // itself, when it is there
    RETURN_IF_ERROR(group_.Sum(
        absl::MakeSpan(host.mutable_data_ptr<float>(), static_cast<size_t>(host.numel()))));
    if (!gradient_.is_cpu()) gradient_.copy_(host);
    return absl::OkStatus();
  }

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
