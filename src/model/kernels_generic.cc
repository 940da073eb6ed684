#define EVOLORA_KERNEL_TABLE kGenericKernels
#define EVOLORA_KERNEL_NAME "generic"
#define EVOLORA_GEMM_ROWS 2
#include "kernel_body.h"
