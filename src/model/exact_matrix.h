#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "ATen/core/Tensor.h"
#include "evolora/model/kernels.h"

namespace evolora {

// A frozen weight whose fp32 numbers came out of blocks of few bits (GGUF's Q4_0, Q4_1 or Q8_0),
// kept in such blocks again: 6 or 9 bits a weight in place of 32, for decoding, which reads every
// weight for each step. What a block gives was compared with every number, so that results are
// those of a PackedMatrix bit for bit. Immutable; may be shared by threads.
class ExactMatrix {
 public:
  // Parts as PackedMatrix takes them, whose memory is shared. Nothing when their numbers do not
  // come in such blocks. Uses all threads.
  static std::optional<ExactMatrix> Of(const std::vector<at::Tensor>& parts);

  // As PackedMatrix.
  void Apply(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const;
  void ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const;
  void ApplyToMany(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                   GemmStore store) const;

  int64_t bytes() const;  // beside the parts

 private:
  enum class Kind { kQ4, kInt8 };
  ExactMatrix(const std::vector<at::Tensor>& parts, Kind kind);
  // False: the panel's numbers are not in blocks of this kind.
  bool TakePanel(int64_t panel);
  Q4Panel PanelOfQ4(int64_t panel) const;      // REQUIRES: kind_ is kQ4
  Int8Panel PanelOfInt8(int64_t panel) const;  // REQUIRES: kind_ is kInt8
  void Widen(int64_t panel, float* out) const;
  // args' product with the panel; its term's own is not read.
  void Multiply(int64_t panel, const GemmArgs& args) const;
  void Run(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy, GemmStore store) const;
  int64_t num_panels() const { return (out_ + kPanelColumns - 1) / kPanelColumns; }
  int64_t num_blocks() const { return (in_ + kCompactBlock - 1) / kCompactBlock; }
  int64_t panel_values() const { return in_ * kPanelColumns / (kind_ == Kind::kQ4 ? 2 : 1); }

  std::vector<at::Tensor> parts_;
  Kind kind_;
  int64_t out_ = 0;
  int64_t in_ = 0;
  std::shared_ptr<uint8_t[]> values_;  // [panels][in][32], two in a byte or one
  std::shared_ptr<float[]> scales_;    // [panels][blocks][32]
  std::shared_ptr<float[]> lows_;      // likewise; null: none
};

}  // namespace evolora
