#include "device/kernel_cases.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "device/kernel_case_builder.h"

namespace evolora::testing {
namespace {

double RmsFactorOf(const double* x, int64_t width, double eps) {
  double squares = 0;
  for (int64_t i = 0; i < width; ++i) squares += x[i] * x[i];
  return 1 / std::sqrt(squares / static_cast<double>(width) + eps);
}

// Adds the gradient of a norm to dx.
void AddNormGradient(const double* dy, const double* weight, const double* unit, double factor,
                     int64_t width, double* dx) {
  double mean = 0;
  for (int64_t i = 0; i < width; ++i) mean += weight[i] * dy[i] * unit[i];
  mean /= static_cast<double>(width);
  for (int64_t i = 0; i < width; ++i) dx[i] += factor * (weight[i] * dy[i] - unit[i] * mean);
}

constexpr double kEps = 1e-3;

KernelCase RmsNormCase(ElementType type, int64_t rows, int64_t width) {
  Builder b(absl::StrCat("rms_norm ", rows, " x ", width), type, 1);
  const Values x = b.Input("x", b.element(), rows * width, 2);
  const Values weight = b.Input("weight", Kind::kFloat32, width, 0.5, 1);
  Values unit = x, y = x, factors;
  for (int64_t m = 0; m < rows; ++m) {
    factors.push_back(RmsFactorOf(Row(x, m, width), width, kEps));
    for (int64_t i = 0; i < width; ++i) {
      Row(unit, m, width)[i] *= factors.back();
      Row(y, m, width)[i] = weight[static_cast<size_t>(i)] * Row(unit, m, width)[i];
    }
  }
  b.Output("unit", b.element(), unit);
  b.Output("factors", Kind::kFloat32, factors);
  b.Output("y", b.element(), y);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.rms_norm({.type = type,
                       .x = d[0],
                       .weight = static_cast<const float*>(d[1]),
                       .rows = rows,
                       .width = width,
                       .eps = static_cast<float>(kEps),
                       .unit = d[2],
                       .factors = static_cast<float*>(d[3]),
                       .y = d[4]},
                      stream);
  });
}

KernelCase RmsNormBackwardCase(ElementType type, int64_t rows, int64_t width) {
  Builder b(absl::StrCat("rms_norm_backward ", rows, " x ", width), type, 2);
  const Values dy = b.Input("dy", b.element(), rows * width, 1);
  const Values weight = b.Input("weight", Kind::kFloat32, width, 0.5, 1);
  const Values unit = b.Input("unit", b.element(), rows * width, 2);
  const Values factors = b.Input("factors", Kind::kFloat32, rows, 0.2, 0.6);
  Values dx = b.Input("dx", b.element(), rows * width, 1);
  for (int64_t m = 0; m < rows; ++m) {
    AddNormGradient(Row(dy, m, width), weight.data(), Row(unit, m, width),
                    factors[static_cast<size_t>(m)], width, Row(dx, m, width));
  }
  b.Becomes(4, dx);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.rms_norm_backward({.type = type,
                                .dy = d[0],
                                .weight = static_cast<const float*>(d[1]),
                                .unit = d[2],
                                .factors = static_cast<const float*>(d[3]),
                                .rows = rows,
                                .width = width,
                                .dx = d[4]},
                               stream);
  });
}

struct Heads {
  int64_t rows, query_heads, key_heads, width;
  bool norm;
  int64_t turned() const { return query_heads + key_heads; }
  int64_t stride() const { return (turned() + key_heads) * width; }
  double* Head(Values& qkv, int64_t row, int64_t head) const {
    return qkv.data() + row * stride() + head * width;
  }
  std::string Name(const char* pass) const {
    return absl::StrCat(pass, " ", rows, " rows, ", query_heads, " + ", key_heads, " heads of ",
                        width, norm ? ", norms" : "");
  }
};

// y = the head turned by +-angle.
void Turn(const double* cos, const double* sin, double sign, int64_t width, double* head) {
  const int64_t half = width / 2;
  for (int64_t j = 0; j < half; ++j) {
    const double first = head[j], second = head[j + half];
    head[j] = first * cos[j] - sign * second * sin[j];
    head[j + half] = second * cos[j] + sign * first * sin[j];
  }
}

constexpr int64_t kPositions = 9;

// Buffers 0..6: qkv, positions, cos, sin, both weights; then unit and factors.
struct HeadInputs {
  Values qkv, positions, cos, sin, query_weight, key_weight;
  const Values& Weight(const Heads& h, int64_t head) const {
    return head < h.query_heads ? query_weight : key_weight;
  }
  int64_t TableRow(const Heads& h, int64_t row) const {
    return static_cast<int64_t>(positions[static_cast<size_t>(row)]) * (h.width / 2);
  }
};

HeadInputs MakeHeadInputs(Builder& b, const Heads& h) {
  HeadInputs in;
  in.qkv = b.Input("qkv", b.element(), h.rows * h.stride(), 2);
  Values positions, cos, sin;
  for (int64_t m = 0; m < h.rows; ++m)
    positions.push_back(static_cast<double>(b.Below(kPositions)));
  for (int64_t i = 0; i < kPositions * (h.width / 2); ++i) {
    cos.push_back(std::cos(0.7 * static_cast<double>(i)));
    sin.push_back(std::sin(0.7 * static_cast<double>(i)));
  }
  in.positions = b.Given("positions", Kind::kInt32, positions);
  in.cos = b.Given("cos", Kind::kFloat32, cos);
  in.sin = b.Given("sin", Kind::kFloat32, sin);
  in.query_weight = b.Input("query_weight", Kind::kFloat32, h.width, 0.5, 1);
  in.key_weight = b.Input("key_weight", Kind::kFloat32, h.width, 0.5, 1);
  return in;
}

RotateHeadsArgs HeadArgs(const Heads& h, ElementType type, const std::vector<void*>& d) {
  return {.type = type,
          .qkv = d[0],
          .rows = h.rows,
          .stride = h.stride(),
          .query_heads = h.query_heads,
          .key_heads = h.key_heads,
          .head_width = h.width,
          .positions = static_cast<const int32_t*>(d[1]),
          .cos = static_cast<const float*>(d[2]),
          .sin = static_cast<const float*>(d[3]),
          .query_weight = h.norm ? static_cast<const float*>(d[4]) : nullptr,
          .key_weight = h.norm ? static_cast<const float*>(d[5]) : nullptr,
          .eps = static_cast<float>(kEps),
          .unit = h.norm ? d[6] : nullptr,
          .factors = h.norm ? static_cast<float*>(d[7]) : nullptr};
}

KernelCase RotateHeadsCase(ElementType type, const Heads& h) {
  Builder b(h.Name("rotate_heads"), type, 3);
  const HeadInputs in = MakeHeadInputs(b, h);
  Values qkv = in.qkv, unit, factors;
  for (int64_t m = 0; m < h.rows; ++m) {
    for (int64_t head = 0; head < h.turned(); ++head) {
      double* x = h.Head(qkv, m, head);
      factors.push_back(h.norm ? RmsFactorOf(x, h.width, kEps) : 1);
      for (int64_t i = 0; i < h.width; ++i) {
        unit.push_back(x[i] * factors.back());
        if (h.norm) x[i] = in.Weight(h, head)[static_cast<size_t>(i)] * unit.back();
      }
      const int64_t table = in.TableRow(h, m);
      Turn(in.cos.data() + table, in.sin.data() + table, 1, h.width, x);
    }
  }
  b.Becomes(0, qkv);
  if (h.norm) {
    b.Output("unit", b.element(), unit);
    b.Output("factors", Kind::kFloat32, factors);
  }
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.rotate_heads(HeadArgs(h, type, d), stream);
  });
}

KernelCase RotateHeadsBackwardCase(ElementType type, const Heads& h) {
  Builder b(h.Name("rotate_heads_backward"), type, 4);
  const HeadInputs in = MakeHeadInputs(b, h);
  const Values unit = b.Input("unit", b.element(), h.rows * h.turned() * h.width, 2);
  const Values factors = b.Input("factors", Kind::kFloat32, h.rows * h.turned(), 0.2, 0.6);
  Values gradient = in.qkv;
  for (int64_t m = 0; m < h.rows; ++m) {
    for (int64_t head = 0; head < h.turned(); ++head) {
      double* dx = h.Head(gradient, m, head);
      const int64_t table = in.TableRow(h, m);
      Turn(in.cos.data() + table, in.sin.data() + table, -1, h.width, dx);
      if (!h.norm) continue;
      const Values dy(dx, dx + h.width);
      std::fill_n(dx, h.width, 0.0);
      const int64_t row = m * h.turned() + head;
      AddNormGradient(dy.data(), in.Weight(h, head).data(), Row(unit, row, h.width),
                      factors[static_cast<size_t>(row)], h.width, dx);
    }
  }
  b.Becomes(0, gradient);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.rotate_heads_backward(HeadArgs(h, type, d), stream);
  });
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

KernelCase SwiGluCase(ElementType type, int64_t rows, int64_t width) {
  Builder b(absl::StrCat("swiglu ", rows, " x ", width), type, 5);
  const Values gate_up = b.Input("gate_up", b.element(), rows * 2 * width, 6);
  Values act;
  for (int64_t m = 0; m < rows; ++m) {
    const double* gate = Row(gate_up, m, 2 * width);
    for (int64_t i = 0; i < width; ++i) act.push_back(gate[i] * Sigmoid(gate[i]) * gate[width + i]);
  }
  b.Becomes(0, gate_up);
  b.Output("act", b.element(), act);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.swiglu({.type = type, .gate_up = d[0], .act = d[1], .rows = rows, .width = width},
                    stream);
  });
}

KernelCase SwiGluBackwardCase(ElementType type, int64_t rows, int64_t width) {
  Builder b(absl::StrCat("swiglu_backward ", rows, " x ", width), type, 6);
  Values gate_up = b.Input("gate_up", b.element(), rows * 2 * width, 6);
  const Values d_act = b.Input("d_act", b.element(), rows * width, 2);
  Values act;
  for (int64_t m = 0; m < rows; ++m) {
    double* gate = Row(gate_up, m, 2 * width);
    double* up = gate + width;
    for (int64_t i = 0; i < width; ++i) {
      const double sigmoid = Sigmoid(gate[i]), d = Row(d_act, m, width)[i];
      act.push_back(gate[i] * sigmoid * up[i]);
      const double d_gate = d * up[i] * (sigmoid + gate[i] * sigmoid * (1 - sigmoid));
      up[i] = d * gate[i] * sigmoid;
      gate[i] = d_gate;
    }
  }
  b.Becomes(0, gate_up);
  b.Output("act", b.element(), act);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.swiglu_backward(
        {.type = type, .gate_up = d[0], .d_act = d[1], .act = d[2], .rows = rows, .width = width},
        stream);
  });
}

void AddCasesOf(ElementType type, std::vector<KernelCase>& cases) {
  for (const auto& [rows, width] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {3, 5}, {4, 64}, {2, 576}, {5, 257}, {2, 4104}}) {
    cases.push_back(RmsNormCase(type, rows, width));
    cases.push_back(RmsNormBackwardCase(type, rows, width));
    cases.push_back(SwiGluCase(type, rows, width));
    cases.push_back(SwiGluBackwardCase(type, rows, width));
    for (const bool add : {false, true}) {
      cases.push_back(MaskFeaturesCase(type, rows, width, add));
      cases.push_back(ScaleColumnsCase(type, rows, width, add));
    }
  }
  for (const int64_t rows : {1, 31, 32, 65}) {
    cases.push_back(ScaleColumnsBackwardCase(type, rows, 5));
    cases.push_back(ScaleColumnsBackwardCase(type, rows, 4104));
  }
  for (const BlockStorage storage :
       {BlockStorage::kBFloat16, BlockStorage::kInt8, BlockStorage::kQ4}) {
    for (const int64_t width : {1, 33, 64, 8200}) {
      for (const bool by_id : {false, true}) {
        cases.push_back(WidenRowsCase(type, storage, 5, width, by_id));
      }
    }
  }
  for (const int64_t gap : {0, 3, 8}) {
    cases.push_back(SumRowsCase(type, 6, 5, gap));
    cases.push_back(SumRowsCase(type, 9, 2056, gap));
  }
  for (const bool norm : {false, true}) {
    for (const Heads& h :
         {Heads{1, 1, 1, 2, norm}, Heads{5, 6, 2, 10, norm}, Heads{9, 3, 1, 128, norm}}) {
      cases.push_back(RotateHeadsCase(type, h));
      cases.push_back(RotateHeadsBackwardCase(type, h));
    }
  }
  for (const int64_t vocabulary : {1, 37, 512, 4097, 8200}) {
    cases.push_back(CrossEntropyCase(type, 6, vocabulary, 5));
    cases.push_back(LabelLogProbsCase(type, 6, vocabulary));
    cases.push_back(LabelGradientCase(type, 6, vocabulary));
    cases.push_back(DistillWholeCase(type, 4, vocabulary));
    if (vocabulary == 1) continue;
    for (const int64_t kept : {1, 7, 36}) {
      cases.push_back(DistillTopCase(type, 4, vocabulary, kept));
    }
  }
  cases.push_back(CrossEntropyCase(type, 4, 1000, 200));
}

}  // namespace

std::vector<KernelCase> AllKernelCases() {
  std::vector<KernelCase> cases;
  AddCasesOf(ElementType::kFloat32, cases);
  AddCasesOf(ElementType::kBFloat16, cases);
  for (const int64_t labels : {1, 300}) {
    for (const bool cispo : {false, true}) cases.push_back(PolicyLossCase(labels, cispo));
  }
  for (const int64_t pairs : {1, 5}) cases.push_back(DpoLossCase(pairs));
  for (const int64_t count : {1, 255, 70001}) {
    for (const double max_norm : {0.0, 0.5, 1e6}) {
      cases.push_back(GradientNormCase(count, max_norm));
    }
    for (const double clip : {1.0, 0.3, std::nan("")}) {
      cases.push_back(AdamWCase(count, clip, false));
      cases.push_back(AdamWCase(count, clip, true));
    }
  }
  return cases;
}

}  // namespace evolora::testing
