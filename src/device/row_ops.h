#pragma once

#include <cstdint>

#include "kernel_math.h"

// Kernels as operations on rows. A group of threads works on a row:
//   Partial(row, thread, threads)         what the thread finds in the columns that are its own
//   Join(a, b)                            puts two findings together
//   Finish(row, thread, threads, total)   what the thread writes: columns that are its own
// An operation without findings has Run(row, thread, threads) alone. Columns belong to threads in
// packs of kPack, so no thread reads what another one writes.
namespace evolora {

template <class T, int kPack>
struct RmsNormOp {
  using Finding = float;  // sum of squares
  const T* x;
  const float* weight;
  int64_t rows;
  int64_t width;
  float eps;
  T* unit;
  float* factors;
  T* y;

  EVOLORA_HOST_DEVICE float Partial(int64_t row, int thread, int threads) const {
    float sum = 0;
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      const Pack<T, kPack> in = Load<T, kPack>(x + row * width + c);
      for (int i = 0; i < kPack; ++i) sum += ToFloat(in.values[i]) * ToFloat(in.values[i]);
    }
    return sum;
  }
  static EVOLORA_HOST_DEVICE float Join(float a, float b) { return a + b; }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads, float total) const {
    const float factor = RmsFactor(total, width, eps);
    if (thread == 0) factors[row] = factor;
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      const Pack<T, kPack> in = Load<T, kPack>(x + row * width + c);
      Pack<T, kPack> one, out;
      for (int i = 0; i < kPack; ++i) {
        one.values[i] = FromFloat<T>(ToFloat(in.values[i]) * factor);
        out.values[i] = FromFloat<T>(weight[c + i] * ToFloat(one.values[i]));
      }
      Store<T, kPack>(one, unit + row * width + c);
      Store<T, kPack>(out, y + row * width + c);
    }
  }
};

template <class T, int kPack>
struct RmsNormBackwardOp {
  using Finding = float;  // sum of weight * dy * unit
  const T* dy;
  const float* weight;
  const T* unit;
  const float* factors;
  int64_t rows;
  int64_t width;
  T* dx;

  EVOLORA_HOST_DEVICE float Partial(int64_t row, int thread, int threads) const {
    float sum = 0;
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      const Pack<T, kPack> d = Load<T, kPack>(dy + row * width + c);
      const Pack<T, kPack> u = Load<T, kPack>(unit + row * width + c);
      for (int i = 0; i < kPack; ++i) {
        sum += weight[c + i] * ToFloat(d.values[i]) * ToFloat(u.values[i]);
      }
    }
    return sum;
  }
  static EVOLORA_HOST_DEVICE float Join(float a, float b) { return a + b; }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads, float total) const {
    const float mean = total / static_cast<float>(width);
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      const Pack<T, kPack> d = Load<T, kPack>(dy + row * width + c);
      const Pack<T, kPack> u = Load<T, kPack>(unit + row * width + c);
      Pack<T, kPack> out = Load<T, kPack>(dx + row * width + c);
      for (int i = 0; i < kPack; ++i) {
        out.values[i] = FromFloat<T>(ToFloat(out.values[i]) +
                                     RmsGradient(weight[c + i] * ToFloat(d.values[i]),
                                                 ToFloat(u.values[i]), factors[row], mean));
      }
      Store<T, kPack>(out, dx + row * width + c);
    }
  }
};

// A row is one head of one token. Element j of a head belongs to the thread of the pair j % half.
template <class T>
struct RotateHeadsOp {
  T* qkv;
  int64_t rows;  // tokens * heads
  int64_t stride;
  int64_t query_heads;
  int64_t heads;
  int64_t width;
  const int32_t* positions;
  const float* cos;
  const float* sin;
  const float* query_weight;
  const float* key_weight;
  float eps;
  T* unit;
  float* factors;

  EVOLORA_HOST_DEVICE T* Head(int64_t row) const {
    return qkv + row / heads * stride + row % heads * width;
  }
  EVOLORA_HOST_DEVICE const float* Weight(int64_t row) const {
    return row % heads < query_heads ? query_weight : key_weight;
  }
  EVOLORA_HOST_DEVICE int64_t TableRow(int64_t row) const {
    return int64_t{positions[row / heads]} * (width / 2);
  }
  static EVOLORA_HOST_DEVICE float Join(float a, float b) { return a + b; }
};

template <class T>
struct RotateHeadsForwardOp : RotateHeadsOp<T> {
  using Finding = float;  // sum of squares
  EVOLORA_HOST_DEVICE float Partial(int64_t row, int thread, int threads) const {
    float sum = 0;
    if (this->query_weight == nullptr) return sum;
    const T* head = this->Head(row);
    const int64_t half = this->width / 2;
    for (int64_t j = thread; j < half; j += threads) {
      const float first = ToFloat(head[j]), second = ToFloat(head[j + half]);
      sum += first * first + second * second;
    }
    return sum;
  }
  EVOLORA_HOST_DEVICE float Normed(int64_t row, int64_t j, float x, float factor) const {
    const T one = FromFloat<T>(x * factor);
    this->unit[row * this->width + j] = one;
    return this->Weight(row)[j] * ToFloat(one);
  }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads, float total) const {
    const bool norm = this->query_weight != nullptr;
    const float factor = norm ? RmsFactor(total, this->width, this->eps) : 1.0f;
    if (norm && thread == 0) this->factors[row] = factor;
    T* head = this->Head(row);
    const int64_t half = this->width / 2, table = this->TableRow(row);
    for (int64_t j = thread; j < half; j += threads) {
      float first = ToFloat(head[j]), second = ToFloat(head[j + half]);
      if (norm) {
        first = Normed(row, j, first, factor);
        second = Normed(row, j + half, second, factor);
      }
      const Turned turned = Turn(first, second, this->cos[table + j], this->sin[table + j]);
      head[j] = FromFloat<T>(turned.first);
      head[j + half] = FromFloat<T>(turned.second);
    }
  }
};

template <class T>
struct RotateHeadsBackwardOp : RotateHeadsOp<T> {
  using Finding = float;  // sum of weight * dy * unit, dy before the rotation
  // The rotation's transpose is the rotation back.
  EVOLORA_HOST_DEVICE Turned Back(const T* head, int64_t table, int64_t j) const {
    const int64_t half = this->width / 2;
    return Turn(ToFloat(head[j]), ToFloat(head[j + half]), this->cos[table + j],
                -this->sin[table + j]);
  }
  EVOLORA_HOST_DEVICE float Partial(int64_t row, int thread, int threads) const {
    float sum = 0;
    if (this->query_weight == nullptr) return sum;
    const T* head = this->Head(row);
    const T* one = this->unit + row * this->width;
    const float* weight = this->Weight(row);
    const int64_t half = this->width / 2, table = this->TableRow(row);
    for (int64_t j = thread; j < half; j += threads) {
      const Turned back = Back(head, table, j);
      sum += weight[j] * back.first * ToFloat(one[j]) +
             weight[j + half] * back.second * ToFloat(one[j + half]);
    }
    return sum;
  }
  EVOLORA_HOST_DEVICE float Gradient(int64_t row, int64_t j, float dy, float mean) const {
    return RmsGradient(this->Weight(row)[j] * dy, ToFloat(this->unit[row * this->width + j]),
                       this->factors[row], mean);
  }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads, float total) const {
    const float mean = total / static_cast<float>(this->width);
    T* head = this->Head(row);
    const int64_t half = this->width / 2, table = this->TableRow(row);
    for (int64_t j = thread; j < half; j += threads) {
      Turned back = Back(head, table, j);
      if (this->query_weight != nullptr) {
        back = {Gradient(row, j, back.first, mean), Gradient(row, j + half, back.second, mean)};
      }
      head[j] = FromFloat<T>(back.first);
      head[j + half] = FromFloat<T>(back.second);
    }
  }
};

template <class T, int kPack>
struct SwiGluOp {
  const T* gate_up;
  int64_t rows;
  int64_t width;
  T* act;

  EVOLORA_HOST_DEVICE void Run(int64_t row, int thread, int threads) const {
    const T* gates = gate_up + row * 2 * width;
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      const Pack<T, kPack> gate = Load<T, kPack>(gates + c);
      const Pack<T, kPack> up = Load<T, kPack>(gates + width + c);
      Pack<T, kPack> out;
      for (int i = 0; i < kPack; ++i) {
        out.values[i] = FromFloat<T>(SwiGlu(ToFloat(gate.values[i]), ToFloat(up.values[i])));
      }
      Store<T, kPack>(out, act + row * width + c);
    }
  }
};

template <class T, int kPack>
struct SwiGluBackwardOp {
  T* gate_up;
  const T* d_act;
  int64_t rows;
  int64_t width;
  T* act;

  EVOLORA_HOST_DEVICE void Run(int64_t row, int thread, int threads) const {
    T* gates = gate_up + row * 2 * width;
    for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
      Pack<T, kPack> gate = Load<T, kPack>(gates + c);
      Pack<T, kPack> up = Load<T, kPack>(gates + width + c);
      Pack<T, kPack> d = Load<T, kPack>(d_act + row * width + c);
      for (int i = 0; i < kPack; ++i) {
        const SwiGluGradient g =
            SwiGluBackward(ToFloat(gate.values[i]), ToFloat(up.values[i]), ToFloat(d.values[i]));
        gate.values[i] = FromFloat<T>(g.gate);
        up.values[i] = FromFloat<T>(g.up);
        d.values[i] = FromFloat<T>(g.act);
      }
      Store<T, kPack>(gate, gates + c);
      Store<T, kPack>(up, gates + width + c);
      Store<T, kPack>(d, act + row * width + c);
    }
  }
};

}  // namespace evolora
