#!/usr/bin/env python3
"""Generates greedily by transformers, fp32.

Usage: generate_worker.py --model DIR [--threads N]

Reads {"rows": [[id ..] ..], "new_tokens": n} a line from stdin, answers {"seconds": s, "rows":
[[new id ..] ..]}. No id ends a row.
"""

import argparse
import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel


def generate(model: PreTrainedModel, rows: list[list[int]], new_tokens: int) -> list[list[int]]:
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False,
                         pad_token_id=0)
    return out[:, longest:].tolist()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        with torch.inference_mode():
            rows = generate(model, request["rows"], request["new_tokens"])
        print(json.dumps({"seconds": time.perf_counter() - started, "rows": rows}), flush=True)


if __name__ == "__main__":
    main()
