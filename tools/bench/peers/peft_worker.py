#!/usr/bin/env python3
"""Trains by PEFT from the same files as `evolora train`, one JSON line a step on stdout.

Usage: peft_worker.py --model DIR --init DIR --data F --recipe F (--out DIR | --serve)

  --out    takes all steps, then saves the adapter
  --serve  reads one number of steps a line from stdin and takes them; ends with its input
"""

import argparse
import dataclasses
import json
import sys

import torch
from transformers import AutoModelForCausalLM

from float64_reference import Float64Reference, widened
from peft_reference import PeftReference, Recipe, read_rows


def take(run: PeftReference, steps: int) -> None:
    for _ in range(steps):
        print(json.dumps(dataclasses.asdict(run.step())), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--init", "--data", "--recipe"):
        parser.add_argument(name, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", help="eager or sdpa; default: what transformers chooses")
    parser.add_argument("--float64", action="store_true", help="train in float64 instead of fp32")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out")
    what.add_argument("--serve", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32,
                                                 attn_implementation=args.attention)
    reference = Float64Reference if args.float64 else PeftReference
    run = reference(widened(model) if args.float64 else model, args.init,
                    Recipe.read(args.recipe), read_rows(args.data))
    if args.serve:
        for line in sys.stdin:
            take(run, int(line))
        return
    take(run, run.total_steps)
    run.model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
