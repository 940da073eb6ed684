#!/usr/bin/env python3
"""Writes a GGUF file in another type by llama.cpp.

Usage: quantize_gguf.py SOURCE TARGET TYPE

TYPE is a name of llama_cpp without LLAMA_FTYPE_MOSTLY_. A quantised source is widened first.
"""

import ctypes
import sys

import llama_cpp


def main() -> int:
    source, target, kind = sys.argv[1:]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.allow_requantize = True
    return llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))


if __name__ == "__main__":
    sys.exit(main())
