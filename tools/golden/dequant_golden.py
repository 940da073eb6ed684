#!/usr/bin/env python3
"""Writes tests/golden/dequant.txt: blocks of each GGML type with what the package gguf makes of them.

Usage: dequant_golden.py > tests/golden/dequant.txt          (needs: pip install gguf numpy)
       dequant_golden.py --file MODEL.gguf                    digests of a whole file's tensors

One line a type: name, number of elements, bytes (hex), values (hex of fp32 bits, big end first).
Scales are finite; everything else in a block is random. With --file: one line a tensor, SHA-256 of
its fp32 values, to compare with tests/adapters/dump_gguf (same lines).
"""
import hashlib
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Byte positions of the half-precision scales in a block.
SCALES = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q4_K: [0, 2], T.Q6_K: [208],
          T.Q5_0: [0], T.Q5_1: [0, 2], T.Q5_K: [0, 2]}


def blocks(qtype, rng, num_blocks):
    _, size = GGML_QUANT_SIZES[qtype]
    data = rng.integers(0, 256, (num_blocks, size), dtype=np.uint8)
    for at in SCALES.get(qtype, []):
        # Bits of any sign and exponent but the one of infinities, subnormal halves included.
        bits = rng.integers(0, 65536, num_blocks).astype(np.uint16)
        bits = np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits).astype("<u2")
        data[:, at : at + 2] = bits.view(np.uint8).reshape(num_blocks, 2)
    if qtype == T.F32:
        data = rng.standard_normal(num_blocks).astype("<f4").view(np.uint8)
    if qtype == T.F16:
        data = (rng.standard_normal(num_blocks) * 2.0 ** rng.integers(-24, 15, num_blocks)).astype("<f2").view(np.uint8)
    if qtype == T.BF16:
        data = (rng.standard_normal(num_blocks).astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    return data.reshape(1, -1)


def golden():
    rng = np.random.default_rng(20260101)
    for qtype in (T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q4_K, T.Q6_K,
                  T.Q5_0, T.Q5_1, T.Q5_K):
        elements, _ = GGML_QUANT_SIZES[qtype]
        data = blocks(qtype, rng, 32 if elements == 1 else (8 if elements == 32 else 3))
        values = dequantize(data, qtype).astype("<f4").reshape(-1)
        assert np.isfinite(values).all()
        print(qtype.name, values.size, data.tobytes().hex(), values.astype(">f4").tobytes().hex())


def digests(path):
    for tensor in GGUFReader(path).tensors:
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type)).astype("<f4")
        shape = "x".join(str(n) for n in reversed(tensor.shape.tolist()))
        print(tensor.name, tensor.tensor_type.name, shape, hashlib.sha256(values.tobytes()).hexdigest())


if __name__ == "__main__":
    digests(sys.argv[2]) if sys.argv[1:2] == ["--file"] else golden()
