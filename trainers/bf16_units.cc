#include "evolora/trainers/lora_trainer.h"

namespace evolora {

absl::string_view Bf16Units() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("amx-bf16") != 0) return "amx";
  if (__builtin_cpu_supports("avx512bf16") != 0) return "avx512_bf16";
#endif
  return "emulation";
}

}  // namespace evolora
