#include <mutex>
#include <optional>
#include <tuple>

#include "ATen/Context.h"
#include "ATen/Functions.h"
#include "device/packed_attention.h"

namespace evolora {
namespace {

constexpr int64_t kFlashMaxWidth = 192;  // backward: above it not every GPU from Ampere on

// Flash attention's gradient is added up in any order unless LibTorch is told otherwise, which it
// is only for the life of this object: elsewhere it would refuse or fill what we overwrite. The
// setting is the process's: one object at a time.
class FixedOrder {
 public:
  FixedOrder()
      : alone_(Mutex()),
        context_(at::globalContext()),
        was_fixed_(context_.deterministicAlgorithms()),
        was_warning_(context_.deterministicAlgorithmsWarnOnly()),
        was_filling_(context_.deterministicFillUninitializedMemory()) {
    context_.setDeterministicAlgorithms(true, /*warn_only=*/false);
    context_.setDeterministicFillUninitializedMemory(false);
  }
  ~FixedOrder() {
    context_.setDeterministicAlgorithms(was_fixed_, was_warning_);
    context_.setDeterministicFillUninitializedMemory(was_filling_);
  }
  FixedOrder(const FixedOrder&) = delete;
  FixedOrder& operator=(const FixedOrder&) = delete;

 private:
  static std::mutex& Mutex() {
    static std::mutex mutex;
    return mutex;
  }

  const std::lock_guard<std::mutex> alone_;
  at::Context& context_;
  bool was_fixed_, was_warning_, was_filling_;
};

// Flash attention counts the tokens on the left without the token itself.
std::optional<int64_t> LeftOf(int64_t window) {
  return window > 0 ? std::optional<int64_t>(window - 1) : std::nullopt;
}
std::optional<int64_t> RightOf(int64_t window) {
  return window > 0 ? std::optional<int64_t>(0) : std::nullopt;
}

class FlashAttention : public PackedAttention {
 public:
  Kept Forward(const Sequences& s, const AttentionHeads& heads) const override {
    Kept kept;
    std::tie(kept.mixed, kept.logsumexp, kept.rng_state, kept.unused, std::ignore) =
        at::_flash_attention_forward(heads.q, heads.k, heads.v, s.q_begin, s.k_begin, s.longest,
                                     s.longest, /*dropout_p=*/0, /*is_causal=*/true,
                                     /*return_debug_mask=*/false, s.scale, LeftOf(s.window),
                                     RightOf(s.window));
    return kept;
  }

  AttentionHeads Backward(const Sequences& s, const AttentionHeads& heads, const Kept& kept,
                          const at::Tensor& d_mixed) const override {
    const FixedOrder fixed_order;
    const auto [d_q, d_k, d_v] = at::_flash_attention_backward(
        d_mixed, heads.q, heads.k, heads.v, kept.mixed, kept.logsumexp, s.q_begin, s.k_begin,
        s.longest, s.longest, /*dropout_p=*/0, /*is_causal=*/true, kept.rng_state, kept.unused,
        s.scale, LeftOf(s.window), RightOf(s.window));
    return {d_q.contiguous(), d_k.contiguous(), d_v.contiguous()};
  }
};

}  // namespace

bool FlashComputes(const LlamaConfig& config, bool is_cuda, at::ScalarType dtype) {
  return is_cuda && dtype == at::kBFloat16 && config.head_dim % 8 == 0 &&
         config.head_dim <= kFlashMaxWidth;
}

std::shared_ptr<const PackedAttention> MakeFlashAttention(const LlamaConfig& config,
                                                          const DeviceMath& math) {
  const bool computes = FlashComputes(config, math.device().is_cuda(), math.dtype());
  return computes ? std::make_shared<FlashAttention>() : nullptr;
}

}  // namespace evolora
