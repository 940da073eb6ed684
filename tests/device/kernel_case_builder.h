#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "device/kernel_cases.h"
#include "evolora/core/random.h"

namespace evolora::testing {

using Kind = KernelBuffer::Kind;
using Values = std::vector<double>;

// A buffer that holds the values as its kind rounds them.
KernelBuffer MakeBuffer(std::string name, Kind kind, const Values& values);

// Builds a case: random inputs, as the kernel will read them.
class Builder {
 public:
  Builder(std::string name, ElementType type, uint64_t seed) : random_(seed), type_(type) {
    case_.name = std::move(name) + (type == ElementType::kFloat32 ? ", fp32" : ", bf16");
  }

  Kind element() const { return type_ == ElementType::kFloat32 ? Kind::kFloat32 : Kind::kBFloat16; }
  ElementType type() const { return type_; }

  // Each returns the values that the buffer holds.
  Values Input(const char* name, Kind kind, int64_t count, double scale, double shift = 0) {
    Values values(static_cast<size_t>(count));
    for (double& value : values) value = shift + scale * 2 * (random_.NextDouble() - 0.5);
    return Given(name, kind, values);
  }
  Values Given(const char* name, Kind kind, const Values& values) {
    case_.buffers.push_back(MakeBuffer(name, kind, values));
    return case_.buffers.back().Values();
  }
  void Output(const char* name, Kind kind, const Values& expected) {
    Given(name, kind, Values(expected.size(), 77));
    case_.buffers.back().expected = expected;
  }
  void Becomes(size_t buffer, const Values& expected) { case_.buffers[buffer].expected = expected; }
  int64_t Below(int64_t limit) {
    return static_cast<int64_t>(random_.NextBelow(static_cast<uint64_t>(limit)));
  }
  KernelCase Finish(decltype(KernelCase::run) run) {
    case_.run = std::move(run);
    return std::move(case_);
  }

 private:
  Random random_;
  ElementType type_;
  KernelCase case_;
};

inline double* Row(Values& values, int64_t row, int64_t width) {
  return values.data() + row * width;
}
inline const double* Row(const Values& values, int64_t row, int64_t width) {
  return values.data() + row * width;
}

// The cases of dropout, magnitudes and sums of rows.
KernelCase MaskFeaturesCase(ElementType type, int64_t rows, int64_t width, bool add);
KernelCase ScaleColumnsCase(ElementType type, int64_t rows, int64_t width, bool add);
KernelCase ScaleColumnsBackwardCase(ElementType type, int64_t rows, int64_t width);
KernelCase SumRowsCase(ElementType type, int64_t rows, int64_t width, int64_t gap);

// The cases of weights in few bits.
KernelCase WidenRowsCase(ElementType type, BlockStorage storage, int64_t rows, int64_t width,
                         bool by_id);

// The cases of label losses.
KernelCase LabelLogProbsCase(ElementType type, int64_t rows, int64_t vocabulary);
KernelCase LabelGradientCase(ElementType type, int64_t rows, int64_t vocabulary);
KernelCase PolicyLossCase(int64_t labels, bool cispo);
KernelCase DpoLossCase(int64_t pairs);
KernelCase DistillTopCase(ElementType type, int64_t rows, int64_t vocabulary, int64_t kept);
KernelCase DistillWholeCase(ElementType type, int64_t rows, int64_t vocabulary);

// The cases of loss and optimiser.
KernelCase CrossEntropyCase(ElementType type, int64_t rows, int64_t vocabulary, double scale);
KernelCase GradientNormCase(int64_t count, double max_norm);
KernelCase AdamWCase(int64_t count, double clip, bool groups);

}  // namespace evolora::testing
