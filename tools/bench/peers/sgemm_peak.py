#!/usr/bin/env python3
"""Prints the GFLOP/s of the best fp32 matrix product of LibTorch on this machine.

Usage: sgemm_peak.py THREADS
"""

import sys
import time

import torch

SIZES = (512, 1024, 1536)  # m = n = k; the best one counts
REPEATS = 12


def gflops(size: int) -> float:
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - started)
    return 2e-9 * size**3 / best


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    print(round(max(gflops(size) for size in SIZES), 1))
