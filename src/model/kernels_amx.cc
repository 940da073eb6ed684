#define EVOLORA_KERNEL_TABLE kAmxKernels
#define EVOLORA_KERNEL_NAME "amx"
#define EVOLORA_GEMM_ROWS 8
#define EVOLORA_AMX_TILES
#include "kernel_body.h"
