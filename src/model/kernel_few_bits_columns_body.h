// Columns of panels in few bits as fp32: a part of kernel_body.h, inside its unnamed namespace.

// How far ahead of the widening a panel is fetched; where it ends the next one begins.
constexpr int64_t kBlocksFetched = 4;
constexpr int64_t kRowsFetched = kBlocksFetched * kCompactBlock;

// The 32 scales of a block, after which those of a later one are fetched.
inline void LoadScales(const float* scales, Lanes& left, Lanes& right) {
  left = LoadLanes(scales);
  right = LoadLanes(scales + kLanes);
  __builtin_prefetch(scales + kBlocksFetched * kPanelColumns);
  __builtin_prefetch(scales + kBlocksFetched * kPanelColumns + kLanes);
}

// The columns of a panel in few bits as fp32, 16 to the left and 16 to the right. Enter the block
// of a row before the row is read.
class Int8Columns {
 public:
  static constexpr int64_t kBlock = kCompactBlock;
  explicit Int8Columns(const FewBitsPanel& panel)
      : values_(reinterpret_cast<const int8_t*>(panel.values)), all_scales_(panel.scales) {}
  void Enter(int64_t block) { LoadScales(all_scales_ + block * kPanelColumns, left_, right_); }
  Lanes Left(int64_t k) const {
    __builtin_prefetch(values_ + (k + kRowsFetched) * kPanelColumns);
    return WidenBytes(values_ + k * kPanelColumns) * left_;
  }
  Lanes Right(int64_t k) const { return WidenBytes(values_ + k * kPanelColumns + kLanes) * right_; }

 private:
  const int8_t* values_;
  const float* all_scales_;
  Lanes left_, right_;  // scales
};

// kWiden(values): 16 of them.
template <Lanes (*kWiden)(const uint16_t*)>
class HalfColumns {
 public:
  static constexpr int64_t kBlock = kCompactBlock;
  explicit HalfColumns(const FewBitsPanel& panel)
      : values_(reinterpret_cast<const uint16_t*>(panel.values)) {}
  void Enter(int64_t) {}
  Lanes Left(int64_t k) const {
    __builtin_prefetch(values_ + (k + kRowsFetched) * kPanelColumns);
    return kWiden(values_ + k * kPanelColumns);
  }
  Lanes Right(int64_t k) const { return kWiden(values_ + k * kPanelColumns + kLanes); }

 private:
  const uint16_t* values_;
};
using Bf16Columns = HalfColumns<WidenWords>;
using F16Columns = HalfColumns<WidenHalves>;

// The scales and lows of a block.
class ScalesAndLows {
 public:
  explicit ScalesAndLows(const FewBitsPanel& panel)
      : all_scales_(panel.scales), all_lows_(panel.lows) {}
  void Enter(int64_t block) {
    LoadScales(all_scales_ + block * kPanelColumns, left_scale_, right_scale_);
    LoadScales(all_lows_ + block * kPanelColumns, left_low_, right_low_);
  }
  Lanes Left(Lanes values) const { return left_low_ + left_scale_ * values; }
  Lanes Right(Lanes values) const { return right_low_ + right_scale_ * values; }

 private:
  const float *all_scales_, *all_lows_;
  Lanes left_scale_, right_scale_, left_low_, right_low_;
};

class Int8LowColumns {
 public:
  static constexpr int64_t kBlock = kCompactBlock / 2;
  explicit Int8LowColumns(const FewBitsPanel& panel)
      : values_(reinterpret_cast<const int8_t*>(panel.values)), block_(panel) {}
  void Enter(int64_t block) { block_.Enter(block); }
  Lanes Left(int64_t k) const {
    __builtin_prefetch(values_ + (k + kRowsFetched) * kPanelColumns);
    return block_.Left(WidenBytes(values_ + k * kPanelColumns));
  }
  Lanes Right(int64_t k) const {
    return block_.Right(WidenBytes(values_ + k * kPanelColumns + kLanes));
  }

 private:
  const int8_t* values_;
  ScalesAndLows block_;
};

class Q4Columns {
 public:
  static constexpr int64_t kBlock = kCompactBlock;
  explicit Q4Columns(const FewBitsPanel& panel) : values_(panel.values), block_(panel) {}
  void Enter(int64_t block) { block_.Enter(block); }
  Lanes Left(int64_t k) const {
    __builtin_prefetch(values_ + (k + kRowsFetched) * kLanes);
    return block_.Left(WidenNibbles<false>(values_ + k * kLanes));
  }
  Lanes Right(int64_t k) const { return block_.Right(WidenNibbles<true>(values_ + k * kLanes)); }

 private:
  const uint8_t* values_;
  ScalesAndLows block_;
};

// Calls body(k) for the rows [begin, end), each in its block. REQUIRES: begin is a block's first.
template <typename Columns, typename Body>
inline void ForRows(Columns& columns, int64_t begin, int64_t end, const Body& body) {
  constexpr int64_t kBlock = Columns::kBlock;
  for (int64_t first = begin; first < end; first += kBlock) {
    columns.Enter(first / kBlock);
    const int64_t last = first + kBlock < end ? first + kBlock : end;
    for (int64_t k = first; k < last; ++k) body(k);
  }
}
