#include "evolora/model/kernels.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace evolora {

extern const KernelTable kGenericKernels;
#ifdef __x86_64__
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512Bf16Kernels;
extern const KernelTable kAmxKernels;

namespace {

// Linux keeps tiles for a process that has asked for them (asm/prctl.h, x86/xstate).
bool GetsTiles() {
#ifdef __linux__
  constexpr int64_t kRequestPermission = 0x1023, kTileData = 18;
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
         __builtin_cpu_supports("amx-int8") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace
#endif

KernelTableList RunnableKernels() {
  KernelTableList list = {{&kGenericKernels}, 1};
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    list.tables[list.count++] = &kAvx2Kernels;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
      list.tables[list.count++] = &kAvx512Kernels;
      if (__builtin_cpu_supports("avx512bf16")) {
        list.tables[list.count++] = &kAvx512Bf16Kernels;
        if (__builtin_cpu_supports("avx512vbmi") && GetsTiles()) {
          list.tables[list.count++] = &kAmxKernels;
        }
      }
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
