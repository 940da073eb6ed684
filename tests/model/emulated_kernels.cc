// The kernels of CPUs with AMX, by tiles that are emulated: their loops on any CPU.
#include <cstdint>

namespace evolora {
namespace {

// What AMX's tiles do, in the order of its instructions.
class EmulatedTiles {
 public:
  template <int kTile>
  void Zero() {
    __builtin_memset(tiles_[kTile], 0, sizeof tiles_[kTile]);
  }
  template <int kTile>
  void Load(const void* from, int64_t stride) {
    for (int64_t m = 0; m < 16; ++m) {
      __builtin_memcpy(tiles_[kTile][m], static_cast<const char*>(from) + m * stride, 64);
    }
  }
  template <int kSum, int kLeft, int kRight>
  void Dot() {
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 16; ++n) {
        float sums[2] = {};
        for (int k = 0; k < 16; ++k) {
          for (int i = 0; i < 2; ++i) {
            sums[i] = __builtin_fmaf(Value(tiles_[kLeft][m], 2 * k + i),
                                     Value(tiles_[kRight][k], 2 * n + i), sums[i]);
          }
        }
        float sum;
        char* place = tiles_[kSum][m] + 4 * n;
        __builtin_memcpy(&sum, place, 4);
        sum += sums[0] + sums[1];
        __builtin_memcpy(place, &sum, 4);
      }
    }
  }
  template <int kSum, int kLeft, int kRight>
  void DotBytes() {
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 16; ++n) {
        int32_t sum;
        char* place = tiles_[kSum][m] + 4 * n;
        __builtin_memcpy(&sum, place, 4);
        for (int k = 0; k < 64; ++k) {
          sum += static_cast<signed char>(tiles_[kLeft][m][k]) *
                 static_cast<signed char>(tiles_[kRight][k / 4][4 * n + k % 4]);
        }
        __builtin_memcpy(place, &sum, 4);
      }
    }
  }
  template <int kTile>
  void Store(void* to, int64_t stride) {
    for (int64_t m = 0; m < 16; ++m) {
      __builtin_memcpy(static_cast<char*>(to) + m * stride, tiles_[kTile][m], 64);
    }
  }

 private:
  static float Value(const char* row, int i) {
    uint16_t bits;
    __builtin_memcpy(&bits, row + 2 * i, 2);
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    __builtin_memcpy(&value, &word, sizeof value);
    return value;
  }
  char tiles_[8][16][64];
};

}  // namespace
}  // namespace evolora

#define EVOLORA_KERNEL_TABLE kEmulatedTileKernels
#define EVOLORA_KERNEL_NAME "emulated tiles"
#define EVOLORA_GEMM_ROWS 4
#define EVOLORA_TILES EmulatedTiles
#include "kernel_body.h"
