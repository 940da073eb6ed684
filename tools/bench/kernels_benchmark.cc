// Matrix products for the layers of SmolLM2-135M: packed weights against LibTorch's, and a training
// step's products with a weight by fp32 units against those by digits (kInt8x3).
//
//   kernels_benchmark [--benchmark_filter=..]     EVOLORA_BENCH_THREADS, default 2
//
// Arguments in each name: in, out, rows. flops: of the product, a second.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "ATen/core/grad_mode.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/mm.h"
#include "ATen/ops/randn.h"
#include "benchmark/benchmark.h"
#include "evolora/model/init_torch.h"
#include "evolora/model/packed_matrix.h"
#include "evolora/model/products.h"

namespace evolora {
namespace {

struct Product {
  explicit Product(const benchmark::State& state)
      : in(state.range(0)),
        out(state.range(1)),
        rows(state.range(2)),
        weight(at::randn({out, in}, at::kFloat)),
        x(at::randn({rows, in}, at::kFloat)),
        y(at::empty({rows, out}, at::kFloat)) {}

  void Count(benchmark::State& state) const {
    const double flops = 2.0 * static_cast<double>(in) * static_cast<double>(out * rows);
    state.counters["flops"] =
        benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  }

  int64_t in, out, rows;
  at::Tensor weight;  // [out, in], as checkpoints store it
  at::Tensor x, y;    // [rows, in], [rows, out]
};

void BM_Packed(benchmark::State& state) {
  Product p(state);
  const PackedMatrix packed({p.weight});
  for (auto _ : state) {
    packed.Apply(p.x.const_data_ptr<float>(), p.in, p.rows, p.y.mutable_data_ptr<float>(), p.out);
    benchmark::ClobberMemory();
  }
  p.Count(state);
}

void BM_TorchMm(benchmark::State& state) {
  Product p(state);
  const at::NoGradGuard no_grad;
  const at::Tensor transposed = p.weight.t();
  for (auto _ : state) at::mm_out(p.y, p.x, transposed);
  p.Count(state);
}

void BM_TorchLinear(benchmark::State& state) {
  Product p(state);
  const at::NoGradGuard no_grad;
  for (auto _ : state) benchmark::DoNotOptimize(at::linear(p.x, p.weight));
  p.Count(state);
}

// x W^T, whose weight is turned panel by panel.
void Forward(benchmark::State& state, Factors factors) {
  Product p(state);
  const evolora::Product::Rows rows = {p.weight.const_data_ptr<float>(), p.out};
  const evolora::Product product = {.left = p.x.const_data_ptr<float>(),
                                    .ldl = p.in,
                                    .depth = p.in,
                                    .weight_rows = absl::MakeConstSpan(&rows, 1)};
  for (auto _ : state) {
    SumOfProducts({product}, p.rows, p.out, p.y.mutable_data_ptr<float>(), p.out, GemmStore::kSet,
                  factors);
  }
  p.Count(state);
}
void BM_ForwardFp32(benchmark::State& state) { Forward(state, Factors::kFp32); }
void BM_ForwardInt8x3(benchmark::State& state) { Forward(state, Factors::kInt8x3); }

// dx = dy W; y stands for dy.
void Backward(benchmark::State& state, Factors factors) {
  Product p(state);
  p.y.normal_();
  const evolora::Product product = {.left = p.y.const_data_ptr<float>(),
                                    .ldl = p.out,
                                    .depth = p.out,
                                    .right = p.weight.const_data_ptr<float>(),
                                    .ldr = p.in};
  for (auto _ : state) {
    SumOfProducts({product}, p.rows, p.in, p.x.mutable_data_ptr<float>(), p.in, GemmStore::kSet,
                  factors);
  }
  p.Count(state);
}
void BM_BackwardFp32(benchmark::State& state) { Backward(state, Factors::kFp32); }
void BM_BackwardInt8x3(benchmark::State& state) { Backward(state, Factors::kInt8x3); }

// q, k and v together; gate; down.
void Layers(benchmark::internal::Benchmark* benchmark) {
  for (const auto& [in, out] : {std::pair{576, 960}, std::pair{576, 1536}, std::pair{1536, 576}}) {
    for (const int rows : {1, 4, 16, 64, 128, 256, 512}) benchmark->Args({in, out, rows});
  }
  benchmark->UseRealTime()->Unit(benchmark::kMicrosecond);
}
BENCHMARK(BM_Packed)->Apply(Layers);
BENCHMARK(BM_TorchMm)->Apply(Layers);
BENCHMARK(BM_TorchLinear)->Apply(Layers);
BENCHMARK(BM_ForwardFp32)->Apply(Layers);
BENCHMARK(BM_ForwardInt8x3)->Apply(Layers);
BENCHMARK(BM_BackwardFp32)->Apply(Layers);
BENCHMARK(BM_BackwardInt8x3)->Apply(Layers);

}  // namespace
}  // namespace evolora

int main(int argc, char** argv) {
  const char* threads = std::getenv("EVOLORA_BENCH_THREADS");
  const absl::Status status = evolora::InitTorch(threads != nullptr ? std::atoi(threads) : 2);
  if (!status.ok()) {
    std::fprintf(stderr, "EVOLORA_BENCH_THREADS: %s\n", status.ToString().c_str());
    return 2;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
