#pragma once

#include <cstdint>
#include <memory>

#include "evolora/model/compact_matrix.h"
#include "evolora/model/engine.h"
#include "evolora/model/kernels.h"
#include "evolora/model/products.h"

namespace evolora {

// The panels of a weight, as kernels.h has them.
struct PanelMemory {
  std::unique_ptr<uint8_t[]> values;
  std::unique_ptr<float[]> scales;  // [panels][blocks][scales of a block][32]
  std::unique_ptr<float[]> lows;    // likewise; may be null
};

// A frozen weight in few bits as the panels that decoding reads whole for each step: 6 to 16 bits a
// weight in place of 32. Results are, bit for bit, those of a PackedMatrix over the widened
// weight; with RowsOfSteps::kMany, where there is a gemm_split (kernels.h), as exact but not its
// bits, and ApplyToMany gives those of Apply. Immutable; copies share the panels, and threads may.
class FewBitsMatrix {
 public:
  FewBitsMatrix() = default;
  // Shares the bytes of `weight`, where ApplyToMany reads them. Uses all threads.
  explicit FewBitsMatrix(const CompactMatrix& weight, RowsOfSteps rows = RowsOfSteps::kFew);

  // As PackedMatrix.
  void Apply(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const;
  void ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const;
  void ApplyToMany(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                   GemmStore store) const;

  int64_t bytes() const;  // of the panels
  static int64_t BytesFor(BlockForm form, int64_t out, int64_t in);

 private:
  PanelMemory PanelsOf(const CompactMatrix& weight) const;
  void TakePanel(int64_t panel, const CompactMatrix& weight, const PanelMemory& memory) const;
  FewBitsPanel PanelAt(int64_t panel) const;
  // kFp32: ApplyToMany multiplies as Apply does.
  Factors FactorsOfMany() const;
  void Run(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy, GemmStore store) const;
  void RunPanels(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                 GemmStore store) const;
  void RunSplit(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                GemmStore store) const;
  int64_t num_blocks() const { return (in_ + kCompactBlock - 1) / kCompactBlock; }
  int64_t num_panels() const { return (out_ + kPanelColumns - 1) / kPanelColumns; }
  int64_t panel_bytes() const;   // of values
  int64_t panel_scales() const;  // 0: none
  bool has_lows() const;         // as many as scales

  BlockForm form_ = BlockForm::kBf16;
  int64_t out_ = 0;
  int64_t in_ = 0;
  bool splits_ = false;   // rows into their parts
  CompactMatrix weight_;  // empty where nothing reads it
  std::shared_ptr<const PanelMemory> panels_;
};

}  // namespace evolora
