#include "evolora/model/kernels.h"
#include "evolora/trainers/lora_trainer.h"

namespace evolora {

absl::string_view Bf16Units() {
  const absl::string_view name = Kernels().name;
  return name == "amx" || name == "avx512_bf16" ? name : "emulation";
}

}  // namespace evolora
