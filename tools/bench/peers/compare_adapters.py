#!/usr/bin/env python3
"""Compares two PEFT folders of the same layers that started from a third.

Usage: compare_adapters.py OURS PEER START

Prints {"weight_cosine", "change_cosine"}: the smallest of all matrices, of their values and of
their values less the start's, and the matrix that "worst" names.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file


def load(folder: str) -> dict[str, torch.Tensor]:
    tensors = load_file(pathlib.Path(folder) / "adapter_model.safetensors")
    return {name: tensor.double().flatten() for name, tensor in tensors.items()}


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(x, y, dim=0).item()


def main() -> int:
    ours, peer, start = map(load, sys.argv[1:4])
    if not ours.keys() == peer.keys() == start.keys():
        print(f"the folders adapt other layers: {ours.keys() ^ peer.keys() or start.keys()}",
              file=sys.stderr)
        return 1
    change = {name: cosine(ours[name] - start[name], peer[name] - start[name]) for name in ours}
    print(json.dumps({"weight_cosine": min(cosine(ours[name], peer[name]) for name in ours),
                      "change_cosine": min(change.values()), "worst": min(change, key=change.get)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
