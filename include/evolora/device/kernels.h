#pragma once

#include <cstdint>

#include "evolora/device/label_kernels.h"

namespace evolora {

// The kernels between the matrix products of training, for a GPU. Each is written once, as what one
// thread of a block does, and runs in two ways over the same grid of blocks and threads: on CUDA,
// and as loops on the CPU, where tests hold it against plain formulas.
//
// Matrices are row-major and contiguous unless a stride is given. Sums and functions are computed
// in fp32 whatever the element type; a result is rounded once. Sums are added in one fixed order
// without atomics: a call gives the same bits every time, for any number of other rows.
enum class ElementType { kFloat32, kBFloat16 };

// y = weight * x / sqrt(mean(x^2) + eps), row by row.
struct RmsNormArgs {
  ElementType type = ElementType::kFloat32;  // of x, unit and y
  const void* x = nullptr;                   // [rows, width]
  const float* weight = nullptr;             // [width]
  int64_t rows = 0;
  int64_t width = 0;
  float eps = 0;
  void* unit = nullptr;      // [rows, width]: x / sqrt(..), for the backward pass; never x
  float* factors = nullptr;  // [rows]: 1 / sqrt(..)
  void* y = nullptr;         // [rows, width]; may be x
};

// dx += factor * (weight * dy - unit * mean(weight * dy * unit)), row by row.
struct RmsNormBackwardArgs {
  ElementType type = ElementType::kFloat32;  // of dy, unit and dx
  const void* dy = nullptr;                  // [rows, width]
  const float* weight = nullptr;             // [width]
  const void* unit = nullptr;                // [rows, width]
  const float* factors = nullptr;            // [rows]
  int64_t rows = 0;
  int64_t width = 0;
  void* dx = nullptr;  // [rows, width]
};

// Norms of q and k (where the architecture has them), then rotate-half RoPE (model/rope.h), in
// place. A row of qkv begins with query heads, then key heads; what follows is left alone. The
// backward pass turns the gradient of the result into that of the input.
struct RotateHeadsArgs {
  ElementType type = ElementType::kFloat32;  // of qkv and unit
  void* qkv = nullptr;                       // [rows, stride]: values, or their gradient
  int64_t rows = 0;
  int64_t stride = 0;
  int64_t query_heads = 0;
  int64_t key_heads = 0;
  int64_t head_width = 0;               // even
  const int32_t* positions = nullptr;   // [rows]
  const float* cos = nullptr;           // by position, [.., head_width / 2]
  const float* sin = nullptr;           // the same
  const float* query_weight = nullptr;  // [head_width]; null: q and k have no norm
  const float* key_weight = nullptr;    // [head_width]
  float eps = 0;                        // of the norms
  void* unit = nullptr;                 // [rows, heads, head_width]: written forward, read backward
  float* factors = nullptr;             // [rows, heads]
};

// act = silu(gate) * up. The backward pass gives act again and turns gate and up into their
// gradients.
struct SwiGluArgs {
  ElementType type = ElementType::kFloat32;  // of all
  void* gate_up = nullptr;                   // [rows, 2 * width]; forward: not written
  const void* d_act = nullptr;               // [rows, width]; backward only
  void* act = nullptr;                       // [rows, width]
  int64_t rows = 0;
  int64_t width = 0;
};

// y = x f or y += x f: dropout of the features of each row, f = 0 where a feature's 32 bits are
// below `threshold` and `kept` elsewhere. Bits: DropoutPair (dropout_draw.h) of the stream of
// module_key and the row's key. Nothing is kept: the same call masks a gradient.
struct MaskFeaturesArgs {
  ElementType type = ElementType::kFloat32;  // of x and y
  const void* x = nullptr;                   // [rows, width]
  const uint64_t* row_keys = nullptr;        // [rows]
  uint64_t module_key = 0;
  uint64_t threshold = 0;  // at most 2^32
  float kept = 1;
  int64_t rows = 0;
  int64_t width = 0;
  bool add = false;
  void* y = nullptr;  // [rows, width]; may be x
};

// y = z * factors or y += z * factors, column by column.
struct ScaleColumnsArgs {
  ElementType type = ElementType::kFloat32;  // of z and y
  const void* z = nullptr;                   // [rows, width]
  const float* factors = nullptr;            // [width]
  int64_t rows = 0;
  int64_t width = 0;
  bool add = false;
  void* y = nullptr;  // [rows, width]
};

// z becomes dy * factors; partials, the sums of dy z over kColumnRows rows each, column by column.
constexpr int64_t kColumnRows = 32;
struct ScaleColumnsBackwardArgs {
  ElementType type = ElementType::kFloat32;  // of dy and z
  const void* dy = nullptr;                  // [rows, width]
  const float* factors = nullptr;            // [width]
  int64_t rows = 0;
  int64_t width = 0;
  void* z = nullptr;          // [rows, width]
  float* partials = nullptr;  // [ceil(rows / kColumnRows), width]
};

// y[row] = the sum of x[places[i]] over i from first[row] to first[row + 1] - 1, in that order;
// zeros without any. Other rows of x are not read.
struct SumRowsArgs {
  ElementType type = ElementType::kFloat32;  // of x and y
  const void* x = nullptr;                   // [.., width]
  const int32_t* first = nullptr;            // [rows + 1]
  const int32_t* places = nullptr;
  int64_t rows = 0;
  int64_t width = 0;
  int64_t stride = 0;  // of rows of y
  void* y = nullptr;   // [rows, width]; never x
};

// How rows of a matrix lie in few bits: in blocks of 32 weights, the last one of a row filled up,
// one row behind the other from a boundary of 4 bytes on (model/compact_matrix.h).
//   kBFloat16   64 bytes: 32 bf16
//   kInt8       36 bytes: fp32 scale, 32 int8: weight i = value i * scale
//   kQ4         20 bytes: fp16 scale, fp16 low (both finite), 16 bytes: weight i = low + value i *
//               scale; value i is the low half of byte i, value i + 16 the high half
enum class BlockStorage { kBFloat16, kInt8, kQ4 };
constexpr int64_t kBlockWeights = 32;

// y = rows of such a matrix, widened.
struct WidenRowsArgs {
  ElementType type = ElementType::kFloat32;  // of y
  BlockStorage storage = BlockStorage::kInt8;
  const void* blocks = nullptr;
  const int32_t* ids = nullptr;  // [rows] which ones; null: the first
  int64_t rows = 0;
  int64_t width = 0;
  void* y = nullptr;  // [rows, width]
};

// Cross entropy of a row's targets; the logits become
//   factor * d(sum of losses) / d logits = factor * (sum of counts * softmax - counts at targets).
struct CrossEntropyArgs {
  ElementType type = ElementType::kFloat32;  // of logits
  void* logits = nullptr;                    // [rows, vocabulary]
  int64_t rows = 0;
  int64_t vocabulary = 0;
  // Row m has the targets first_target[m] .. first_target[m + 1] - 1 of ids, counts and losses.
  const int32_t* first_target = nullptr;  // [rows + 1]
  const int32_t* ids = nullptr;           // different within a row
  const int32_t* counts = nullptr;
  float* losses = nullptr;        // count * -log softmax(logits)[id]
  const float* factor = nullptr;  // [1]
};

// norm = the 2-norm of a gradient; clip = min(1, max_norm / (norm + 1e-6)), 1 without a limit, NaN
// when the norm is not finite.
constexpr int64_t kNormPartials = 256;
struct GradientNormArgs {
  const float* gradient = nullptr;  // [count]
  int64_t count = 0;
  float max_norm = 0;          // 0 = no limit
  double* partials = nullptr;  // [kNormPartials], to work with
  float* norm_clip = nullptr;  // [2]: norm, clip
};

// One step of AdamW (decoupled weight decay, no amsgrad) over flat buffers, in the formulas of
// torch.optim.AdamW; the gradient is multiplied by clip first. A clip that is NaN leaves everything
// as it is.
struct AdamWArgs {
  float* value = nullptr;  // [count], as all others
  const float* gradient = nullptr;
  float* moment1 = nullptr;
  float* moment2 = nullptr;
  int64_t count = 0;
  const float* clip = nullptr;      // [1]
  const uint8_t* groups = nullptr;  // index into rates; null: all 0
  double rates[2] = {0, 0};         // learning rates
  double beta1 = 0;
  double beta2 = 0;
  double epsilon = 0;
  double weight_decay = 0;
  int64_t step = 0;  // from 1
};

// Null, or words for why the kernel could not be started.
using KernelError = const char*;

// One way to run them. Pointers are of memory that the way can reach. `stream` is a cudaStream_t;
// the CPU ignores it. On CUDA a call starts the kernel and returns; faults show in a later call.
struct DeviceKernels {
  const char* name;
  KernelError (*rms_norm)(const RmsNormArgs& args, void* stream);
  KernelError (*rms_norm_backward)(const RmsNormBackwardArgs& args, void* stream);
  KernelError (*rotate_heads)(const RotateHeadsArgs& args, void* stream);
  KernelError (*rotate_heads_backward)(const RotateHeadsArgs& args, void* stream);
  KernelError (*swiglu)(const SwiGluArgs& args, void* stream);
  KernelError (*swiglu_backward)(const SwiGluArgs& args, void* stream);
  KernelError (*mask_features)(const MaskFeaturesArgs& args, void* stream);
  KernelError (*scale_columns)(const ScaleColumnsArgs& args, void* stream);
  KernelError (*scale_columns_backward)(const ScaleColumnsBackwardArgs& args, void* stream);
  KernelError (*sum_rows)(const SumRowsArgs& args, void* stream);
  KernelError (*widen_rows)(const WidenRowsArgs& args, void* stream);
  KernelError (*cross_entropy)(const CrossEntropyArgs& args, void* stream);
  KernelError (*label_log_probs)(const LabelLogProbsArgs& args, void* stream);
  KernelError (*label_gradient)(const LabelGradientArgs& args, void* stream);
  KernelError (*policy_loss)(const PolicyLossArgs& args, void* stream);
  KernelError (*dpo_loss)(const DpoLossArgs& args, void* stream);
  KernelError (*distill_top)(const DistillTopArgs& args, void* stream);
  KernelError (*distill_whole)(const DistillWholeArgs& args, void* stream);
  KernelError (*gradient_norm)(const GradientNormArgs& args, void* stream);
  KernelError (*adamw)(const AdamWArgs& args, void* stream);
};

// On the calling thread. Thread-safe.
const DeviceKernels& HostKernels();

// On the current CUDA device; null in a build without EVOLORA_CUDA. Thread-safe.
const DeviceKernels* CudaKernels();

}  // namespace evolora
