#define EVOLORA_KERNEL_TABLE kAmxKernels
#define EVOLORA_KERNEL_NAME "amx"
// As many as these CPUs' first-level cache has places in a set: lines of rows that are multiples of
// 4 KiB apart fall into one.
#define EVOLORA_GEMM_ROWS 12
#define EVOLORA_TILES AmxTiles
#include "kernel_amx_tiles.h"
#include "kernel_body.h"
