// The loops behind one KernelTable. Included by kernels_<isa>.cc after EVOLORA_KERNEL_TABLE (name
// of the table), EVOLORA_KERNEL_NAME, EVOLORA_GEMM_ROWS (rows of one register block) and, where
// there are tiles, EVOLORA_TILES (their class, kernel_tile_body.h) are defined, and compiled with
// that instruction set's flags. Everything has internal linkage and no standard function is called,
// so that no code compiled for a newer CPU can be merged into other files.

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>

#include "evolora/model/kernels.h"

#if defined(EVOLORA_TILES)
#include "kernel_tile_body.h"
#endif

namespace evolora {
namespace {

#include "kernel_lanes_body.h"
// After the vectors.
#include "kernel_gemm_body.h"
#include "kernel_narrow_rows_body.h"
#include "kernel_rows_body.h"
// After the products and passes.
#include "kernel_attention_body.h"
#include "kernel_backward_body.h"
#include "kernel_compact_body.h"
#include "kernel_few_bits_body.h"
#include "kernel_narrow_attention_body.h"
#include "kernel_slice_body.h"
#include "kernel_transpose_body.h"
// After the blocks, slices and squares.
#include "kernel_digits_body.h"
#include "kernel_slice_q4_body.h"
#include "kernel_word_pairs_body.h"
#include "kernel_word_parts_body.h"
#include "kernel_word_split_body.h"

template <typename Columns, typename Block>
constexpr BlockKernels KernelsOf() {
  return {GemmColumns<Columns>, SplitGemmOf<Block>(), WidenBlocks<Block>, {}};
}
template <typename Block>
constexpr BlockKernels KernelsOfQ4() {
  return {GemmColumns<Q4Columns>, SplitGemmOf<Block>(), LookUpBlocks<Block>,
          DigitKernelsOfQ4<Block>()};
}

}  // namespace

extern const KernelTable EVOLORA_KERNEL_TABLE;
const KernelTable EVOLORA_KERNEL_TABLE = {
    EVOLORA_KERNEL_NAME,
    Gemm,
    Add,
    RmsNorm,
    Rotate,
    SiluMul,
    Softmax,
    Max,
    LogSumExp,
    RmsNormKeep,
    RmsNormBackward,
    SiluMulBackward,
    ExpShifted,
    AttentionWeights,
    AttentionGradient,
    AttendNarrow,
    AttendNarrowGradient,
    Transpose,
    {KernelsOf<Bf16Columns, Bf16Weights>(), KernelsOf<F16Columns, F16Weights>(),
     KernelsOf<Int8Columns, Int8Weights>(), KernelsOf<Int8LowColumns, Int8LowWeights>(),
     KernelsOfQ4<Q4Weights>(), KernelsOfQ4<Q4FloatWeights>()},
    GemmPairs,
    RoundBf16,
    RoundPairs,
    JoinPairs,
    TransposePairs,
    kPrefersInt8x3,
    GemmInt8x3,
    SliceRow,
    SlicePanel,
    SplitBf16x3,
    SumBlocks};

}  // namespace evolora
