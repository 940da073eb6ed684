#!/usr/bin/env python3
"""Checks that transformers + PEFT give the logits that evolora gives under an exported adapter.

Usage: check_export.py ADAPTER_DIR --gguf FILE --home DIR [--base NAME] [--stream FILE] [--evolora BIN]

FILE is the SmolLM2 GGUF that NAME was made from; transformers gets its weights dequantised to fp32. The
prompts are the first eight tool calls of the stream's query split, rendered by transformers' own chat
template. Fails when PEFT reports a missing or unexpected key, when a last-token logit differs by more than
1e-3, or when the adapter changes nothing. Environment: tools/golden/setup_peers.sh.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from transformers import AutoTokenizer

from model_golden import load_smollm2

TOLERANCE = 1e-3  # fp32 sums of 576 to 1536 products in another order, over 30 layers
NUM_PROMPTS = 8


def prompts(stream, gguf):
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    rows = (json.loads(line) for line in open(stream, encoding="utf-8"))
    cases = [row for row in rows if row.get("split") == "query" and row.get("cluster") == "tools"]
    for case in cases[:NUM_PROMPTS]:
        ids = tokenizer.apply_chat_template(case["messages"], add_generation_prompt=True)
        yield list(ids["input_ids"] if hasattr(ids, "keys") else ids)


def our_logits(args, rows):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps({"ids": ids}) + "\n" for ids in rows)
        file.flush()
        command = [args.evolora, "score", "--base", args.base, "--adapter", args.adapter, "--ids", file.name,
                   "--logits", "--json", "--home", args.home]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [torch.tensor(json.loads(line)["last_logits"]) for line in lines]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("adapter")
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--home", required=True)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--stream", default="data/streams/quickstart.jsonl")
    parser.add_argument("--evolora", default="build/release/tools/evolora")
    args = parser.parse_args()
    rows = list(prompts(args.stream, args.gguf))
    ours = our_logits(args, rows)
    model = load_smollm2(args.gguf)
    with torch.no_grad():
        plain = [model(torch.tensor([ids])).logits[0, -1] for ids in rows]
        model = PeftModel.from_pretrained(model, args.adapter).eval()
        keys = model.load_adapter(args.adapter, adapter_name="again")
        missing = [key for key in keys.missing_keys if "lora_" in key and ".again." in key]
        model.set_adapter("default")
        adapted = [model(torch.tensor([ids])).logits[0, -1] for ids in rows]
    error = max((a - b).abs().max().item() for a, b in zip(ours, adapted))
    effect = min((a - b).abs().max().item() for a, b in zip(plain, adapted))
    print(f"{len(rows)} prompts: greatest difference {error:.2e} (limit {TOLERANCE:.0e}), the adapter moves logits by "
          f"{effect:.2f} or more; missing keys {missing or 'none'}, unexpected {keys.unexpected_keys or 'none'}")
    ok = len(ours) == len(rows) == NUM_PROMPTS and error <= TOLERANCE and effect > 0.1
    return 0 if ok and not missing and not keys.unexpected_keys else 1


if __name__ == "__main__":
    sys.exit(main())
