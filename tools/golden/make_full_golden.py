#!/usr/bin/env python3
"""Writes the reference runs under tests/golden/full with plain PyTorch and transformers.

Usage: make_full_golden.py [OUT]     default: tests/golden/full

Every weight of a small model is trained: models of tests/golden/training and tests/golden/model.

  OUT/rows_61.jsonl   rows of ids and labels for the models of 61 ids
  OUT/<case>          the weights after all steps, model.safetensors in fp32, and expected.json with
                        recipe   the recipe file
                        also     recipe keys for further runs that must give the same
                        model, rows   what is trained and on what, below tests/golden
                        loss, grad_norm   of every step

Which parameters decay is what transformers' Trainer says (get_decay_parameter_names). A new case is
a new line in CASES. Needs: torch 2.11, transformers 5.23. fp32, CPU, one thread.
"""

import json
import math
import pathlib
import shutil
import sys
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, get_scheduler

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
sys.path.append(str(ROOT / "tools/bench/peers"))
from peft_reference import Recipe, padded, read_rows  # noqa: E402
from row_order import step_rows  # noqa: E402

# 38 rows, 8 a step: 5 steps an epoch, the last of 6 rows; 50 steps in all. epsilon: where a weight's
# gradient is as small as fp32's own noise, Adam would scale that up.
COMMON: dict[str, Any] = {"method": "full", "learning_rate": 1e-3, "epochs": 10, "rows_per_step": 8,
                          "schedule": "constant", "max_grad_norm": 0, "seed": 5, "epsilon": 1e-6}
ROWS = "training/rows.jsonl"
ROWS_61 = "full/rows_61.jsonl"
FEW_ROWS_AT_A_TIME = {"tokens_per_micro_batch": 48}
ONE_ROW_AT_A_TIME = {"tokens_per_micro_batch": 1}

# name: (model, rows, recipe keys, further runs with the same outcome)
CASES: dict[str, tuple[str, str, dict[str, Any], list[dict[str, Any]]]] = {
    "tied": ("training/model", ROWS, {"weight_decay": 0.1, "max_grad_norm": 0.5},
             [FEW_ROWS_AT_A_TIME, ONE_ROW_AT_A_TIME]),
    "biases": ("model/qwen2", ROWS_61, {"weight_decay": 0.2, "schedule": "linear", "warmup_ratio": 0.15},
               [FEW_ROWS_AT_A_TIME]),
    "head_norms": ("model/qwen3", ROWS_61, {"weight_decay": 0.05, "schedule": "cosine"},
                   [FEW_ROWS_AT_A_TIME]),
}


def write_rows(path: pathlib.Path) -> None:
    """Those of the training runs, with ids of a smaller vocabulary."""
    with path.open("w") as out:
        for row in read_rows(GOLDEN / ROWS):
            small = {"ids": [i % 61 for i in row["ids"]],
                     "labels": [i if i < 0 else i % 61 for i in row["labels"]]}
            out.write(json.dumps(small, separators=(",", ":")) + "\n")


def optimizer_of(model: PreTrainedModel, recipe: Recipe) -> torch.optim.Optimizer:
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    named = list(model.named_parameters())
    groups = [{"params": [p for n, p in named if n in decayed], "weight_decay": recipe.weight_decay},
              {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.beta1, recipe.beta2),
                             eps=recipe.epsilon, fused=True)


def write_case(out: pathlib.Path, name: str) -> None:
    folder, rows_file, keys, also = CASES[name]
    keys = COMMON | keys
    recipe = Recipe(**{k: v for k, v in keys.items() if k != "method"})
    rows = read_rows(GOLDEN / rows_file if rows_file != ROWS_61 else out / "rows_61.jsonl")
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / folder, dtype=torch.float32,
                                                 attn_implementation="eager").train()
    total = recipe.epochs * math.ceil(len(rows) / recipe.rows_per_step)
    optimizer = optimizer_of(model, recipe)
    scheduler = get_scheduler(recipe.schedule, optimizer, math.ceil(recipe.warmup_ratio * total), total)
    losses, norms = [], []
    for indices in step_rows(recipe.seed, len(rows), recipe.rows_per_step, recipe.epochs):
        loss = model(**padded([rows[i] for i in indices])).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm or math.inf).item())
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    (out / name).mkdir()
    weights = {n: p.detach().contiguous() for n, p in model.named_parameters()}
    save_file(weights, out / name / "model.safetensors")
    expected = {"recipe": keys, "also": also, "model": folder, "rows": rows_file, "loss": losses,
                "grad_norm": norms}
    text = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in expected.items())
    (out / name / "expected.json").write_text(f"{{\n{text}\n}}\n")
    print(f"{name}: loss {losses[0]:.4f} to {losses[-1]:.4f}, gradient norm {min(norms):.3f} to "
          f"{max(norms):.3f}, {len(losses)} steps")


def main() -> None:
    torch.set_num_threads(1)
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else GOLDEN / "full")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_rows(out / "rows_61.jsonl")
    for name in CASES:
        write_case(out, name)


if __name__ == "__main__":
    main()
