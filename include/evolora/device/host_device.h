#pragma once

// Marks a function that is compiled for the CPU and, by nvcc, for the device.
#if defined(__CUDACC__)
#define EVOLORA_HOST_DEVICE __host__ __device__
#else
#define EVOLORA_HOST_DEVICE
#endif
