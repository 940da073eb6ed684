#include "evolora/model/kernels.h"

namespace evolora {

extern const KernelTable kGenericKernels;
#ifdef __x86_64__
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512Bf16Kernels;
#endif

KernelTableList RunnableKernels() {
  KernelTableList list = {{&kGenericKernels, nullptr, nullptr, nullptr}, 1};
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    list.tables[list.count++] = &kAvx2Kernels;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
      list.tables[list.count++] = &kAvx512Kernels;
      if (__builtin_cpu_supports("avx512bf16")) list.tables[list.count++] = &kAvx512Bf16Kernels;
    }
  }
#endif
  return list;
}

const KernelTable& Kernels() {
  static const KernelTable* const best = [] {
    const KernelTableList list = RunnableKernels();
    return list.tables[list.count - 1];
  }();
  return *best;
}

}  // namespace evolora
