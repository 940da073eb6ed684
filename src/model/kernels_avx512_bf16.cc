#define EVOLORA_KERNEL_TABLE kAvx512Bf16Kernels
#define EVOLORA_KERNEL_NAME "avx512_bf16"
#define EVOLORA_GEMM_ROWS 8
#include "kernel_body.h"
