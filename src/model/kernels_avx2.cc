#define EVOLORA_KERNEL_TABLE kAvx2Kernels
#define EVOLORA_KERNEL_NAME "avx2"
#define EVOLORA_GEMM_ROWS 3
#include "kernel_body.h"
