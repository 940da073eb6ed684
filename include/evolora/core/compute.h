#pragma once

#include <cstdint>

namespace evolora {

// Compute spent, in the three units of both ledgers (solve and evolve; never mixed).
struct Compute {
  int64_t prompt_tokens = 0;     // prefilled or trained-on input tokens
  int64_t generated_tokens = 0;  // decoded tokens
  int64_t trained_tokens = 0;    // tokens through forward + backward
  double flops = 0;              // counted from shapes, not measured
  double seconds = 0;            // wall time; not part of any decision or id

  Compute& operator+=(const Compute& o) {
    prompt_tokens += o.prompt_tokens;
    generated_tokens += o.generated_tokens;
    trained_tokens += o.trained_tokens;
    flops += o.flops;
    seconds += o.seconds;
    return *this;
  }
};

}  // namespace evolora
