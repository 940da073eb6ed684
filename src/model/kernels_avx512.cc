#define EVOLORA_KERNEL_TABLE kAvx512Kernels
#define EVOLORA_KERNEL_NAME "avx512"
#define EVOLORA_GEMM_ROWS 12
#include "kernel_body.h"
