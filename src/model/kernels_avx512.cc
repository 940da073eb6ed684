#define EVOLORA_KERNEL_TABLE kAvx512Kernels
#define EVOLORA_KERNEL_NAME "avx512"
// 16 sums of 32 registers. More rows would load less, but lines of rows that are multiples of 4 KiB
// apart fall into one set of the first-level cache, which has 8 places.
#define EVOLORA_GEMM_ROWS 8
#include "kernel_body.h"
