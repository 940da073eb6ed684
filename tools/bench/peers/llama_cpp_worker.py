#!/usr/bin/env python3
"""Generates greedily by llama.cpp from a GGUF file, in the file's own quantisation.

Usage: llama_cpp_worker.py --model GGUF [--threads N]

Takes and gives the lines of generate_worker.py; rows run one after the other. No id ends a row.
"""

import argparse
import json
import sys
import time

from llama_cpp import Llama


def generate(model: Llama, prompt: list[int], new_tokens: int) -> list[int]:
    model.reset()  # no cache of the prompt before
    ids: list[int] = []
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0, reset=False):
        ids.append(token)
        if len(ids) == new_tokens:
            break
    return ids


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    model = Llama(args.model, n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=args.threads,
                  n_threads_batch=args.threads, verbose=False)
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        rows = [generate(model, row, request["new_tokens"]) for row in request["rows"]]
        print(json.dumps({"seconds": time.perf_counter() - started, "rows": rows}), flush=True)


if __name__ == "__main__":
    main()
