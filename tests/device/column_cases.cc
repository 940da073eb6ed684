#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "device/kernel_case_builder.h"
#include "evolora/device/dropout_draw.h"

namespace evolora::testing {

KernelCase MaskFeaturesCase(ElementType type, int64_t rows, int64_t width, bool add) {
  Builder b(absl::StrCat("mask_features ", rows, " x ", width, add ? ", added" : ""), type, 10);
  constexpr uint64_t kModule = 0x123456789abcdefu, kThreshold = uint64_t{3} << 30;
  constexpr double kKept = 4;
  const Values x = b.Input("x", b.element(), rows * width, 2);
  Values keys;
  for (int64_t m = 0; m < rows; ++m) keys.push_back(static_cast<double>(b.Below(1 << 30)));
  b.Given("row_keys", Kind::kUInt64, keys);
  Values y = b.Input("y", b.element(), rows * width, 1);
  for (int64_t m = 0; m < rows; ++m) {
    const auto key = static_cast<uint64_t>(keys[static_cast<size_t>(m)]);
    for (int64_t i = 0; i < width; ++i) {
      const uint64_t pair = DropoutPair(DropoutStream(kModule, key), i / 2);
      const uint64_t bits = i % 2 == 0 ? pair % (uint64_t{1} << 32) : pair / (uint64_t{1} << 32);
      const double own = bits < kThreshold ? 0 : Row(x, m, width)[i] * kKept;
      Row(y, m, width)[i] = own + (add ? Row(y, m, width)[i] : 0);
    }
  }
  b.Becomes(2, y);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.mask_features({.type = type,
                            .x = d[0],
                            .row_keys = static_cast<const uint64_t*>(d[1]),
                            .module_key = kModule,
                            .threshold = kThreshold,
                            .kept = static_cast<float>(kKept),
                            .rows = rows,
                            .width = width,
                            .add = add,
                            .y = d[2]},
                           stream);
  });
}

KernelCase ScaleColumnsCase(ElementType type, int64_t rows, int64_t width, bool add) {
  Builder b(absl::StrCat("scale_columns ", rows, " x ", width, add ? ", added" : ""), type, 11);
  const Values z = b.Input("z", b.element(), rows * width, 2);
  const Values factors = b.Input("factors", Kind::kFloat32, width, 0.5, 1);
  Values y = b.Input("y", b.element(), rows * width, 1);
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t i = 0; i < width; ++i) {
      double& out = Row(y, m, width)[i];
      out = Row(z, m, width)[i] * factors[static_cast<size_t>(i)] + (add ? out : 0);
    }
  }
  b.Becomes(2, y);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.scale_columns({.type = type,
                            .z = d[0],
                            .factors = static_cast<const float*>(d[1]),
                            .rows = rows,
                            .width = width,
                            .add = add,
                            .y = d[2]},
                           stream);
  });
}

KernelCase ScaleColumnsBackwardCase(ElementType type, int64_t rows, int64_t width) {
  Builder b(absl::StrCat("scale_columns_backward ", rows, " x ", width), type, 12);
  const Values dy = b.Input("dy", b.element(), rows * width, 2);
  const Values factors = b.Input("factors", Kind::kFloat32, width, 0.5, 1);
  Values z = b.Input("z", b.element(), rows * width, 1);
  const int64_t runs = (rows + kColumnRows - 1) / kColumnRows;
  Values partials(static_cast<size_t>(runs * width));
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t i = 0; i < width; ++i) {
      const double d = Row(dy, m, width)[i];
      Row(partials, m / kColumnRows, width)[i] += d * Row(z, m, width)[i];
      Row(z, m, width)[i] = d * factors[static_cast<size_t>(i)];
    }
  }
  b.Becomes(2, z);
  b.Output("partials", Kind::kFloat32, partials);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.scale_columns_backward({.type = type,
                                     .dy = d[0],
                                     .factors = static_cast<const float*>(d[1]),
                                     .rows = rows,
                                     .width = width,
                                     .z = d[2],
                                     .partials = static_cast<float*>(d[3])},
                                    stream);
  });
}

// Rows of y lie `gap` elements apart, which stay as they are.
KernelCase SumRowsCase(ElementType type, int64_t rows, int64_t width, int64_t gap) {
  Builder b(absl::StrCat("sum_rows ", rows, " x ", width, " + ", gap), type, 13);
  const int64_t all = rows + 3, stride = width + gap;
  Values x = b.Input("x", b.element(), all * width, 2);
  Values first = {0}, places;
  for (int64_t m = 0; m < rows; ++m) {  // none, one, and more
    for (int64_t i = 0; i < m % 4; ++i) places.push_back(static_cast<double>(b.Below(all)));
    first.push_back(static_cast<double>(places.size()));
  }
  b.Given("first", Kind::kInt32, first);
  b.Given("places", Kind::kInt32, places);
  Values y = b.Input("y", b.element(), rows * stride, 1);
  for (int64_t m = 0; m < rows; ++m) {
    std::fill_n(Row(y, m, stride), width, 0.0);
    for (auto i = static_cast<size_t>(first[static_cast<size_t>(m)]);
         i < static_cast<size_t>(first[static_cast<size_t>(m) + 1]); ++i) {
      const double* from = Row(x, static_cast<int64_t>(places[i]), width);
      for (int64_t c = 0; c < width; ++c) Row(y, m, stride)[c] += from[c];
    }
  }
  b.Becomes(3, y);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.sum_rows({.type = type,
                       .x = d[0],
                       .first = static_cast<const int32_t*>(d[1]),
                       .places = static_cast<const int32_t*>(d[2]),
                       .rows = rows,
                       .width = width,
                       .stride = stride,
                       .y = d[3]},
                      stream);
  });
}

}  // namespace evolora::testing
