#!/usr/bin/env python3
"""Prints the GFLOP/s of the best fp32 matrix product of LibTorch on this machine.

Usage: sgemm_peak.py THREADS

torch.mm goes to MKL, which on some CPUs is far from what they can (210 of 511 GFLOP/s on a Zen 5);
the linear layer of torch.compile goes to oneDNN, whose weight is laid out before.
"""

import sys
import time
from collections.abc import Callable

import torch

SIZES = (512, 1024, 1536)  # m = n = k; the best one counts
REPEATS = 12


def best_seconds(product: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - started)
    return best


def gflops(size: int) -> float:
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    seconds = best_seconds(lambda: torch.mm(a, b, out=out))
    if torch.backends.mkldnn.is_available():
        weight = torch.ops.mkldnn._reorder_linear_weight(b, size)
        linear = torch.ops.mkldnn._linear_pointwise
        seconds = min(seconds, best_seconds(lambda: linear(a, weight, None, "none", [], "")))
    return 2e-9 * size**3 / seconds


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    print(round(max(gflops(size) for size in SIZES), 1))
