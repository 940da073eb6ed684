#!/usr/bin/env python3
"""Writes the reference runs under tests/golden/training with transformers and PEFT.

Usage: make_training_golden.py [OUT [CASE ..]]     default: tests/golden/training, all cases

With CASEs, only these are written, beside what is there.

  OUT/model         a small random Llama: config.json and bf16 weights
  OUT/init          the adapter PEFT starts from; OUT/<case>/init where the case changes its shape
  OUT/rows.jsonl    rows of {ids, labels}
  OUT/<case>        the adapter after all steps, and expected.json with
                      recipe     the recipe file
                      also       recipe keys for further runs that must give the same
                      init       folder of the adapter that the run starts from; null: its own start,
                                 and the adapter is the difference to that, converted to plain LoRA
                      order      row numbers of the first epoch, as they were taken
                      loss, grad_norm   of every step

A new feature of the trainer is a new line in CASES. Needs: torch 2.11, transformers 5.23, peft 0.21.
fp32 but for the cases of bf16, CPU, one thread.
"""

import json
import pathlib
import random
import shutil
import sys
import tempfile
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools/bench/peers"))
from counter_dropout import Masks  # noqa: E402
from peft_reference import PeftReference, Recipe, export_init, read_rows  # noqa: E402
from row_order import step_rows  # noqa: E402

# 38 rows, 8 a step: 5 steps an epoch, the last of 6 rows; 50 steps in all.
COMMON: dict[str, Any] = {"rank": 3, "alpha": 6, "learning_rate": 2e-3, "epochs": 10,
                          "rows_per_step": 8, "schedule": "constant", "max_grad_norm": 0, "seed": 5}
ONE_ROW_AT_A_TIME = {"tokens_per_micro_batch": 1}
FEW_ROWS_AT_A_TIME = {"tokens_per_micro_batch": 48}

# name: (recipe keys, further runs with the same outcome)
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "plain": ({}, [ONE_ROW_AT_A_TIME, FEW_ROWS_AT_A_TIME]),
    "linear_warmup": ({"schedule": "linear", "warmup_ratio": 0.15}, []),
    "cosine_weight_decay": ({"schedule": "cosine", "weight_decay": 0.1, "beta2": 0.99}, []),
    "clipped": ({"max_grad_norm": 0.1}, [FEW_ROWS_AT_A_TIME]),
    "rslora": ({"use_rslora": True, "target_modules": ["q_proj", "v_proj", "up_proj"]}, []),
    # epsilon: of the gradients of rank 1 some are as small as fp32's own noise, which Adam would scale up.
    "patterns": ({"exclude_modules": ["k_proj"], "rank_pattern": {"q_proj": 1, "layers.1.mlp.up_proj": 7},
                  "alpha_pattern": {"layers.0.*": 9}, "epsilon": 1e-6}, [FEW_ROWS_AT_A_TIME]),
    "dora": ({"use_dora": True}, [FEW_ROWS_AT_A_TIME]),
    "dora_lora_plus": ({"use_dora": True, "target_modules": ["q_proj", "o_proj", "gate_proj", "down_proj"],
                        "lora_plus_ratio": 4, "weight_decay": 0.05, "learning_rate": 1e-3}, []),
    "pissa": ({"init_lora_weights": "pissa", "learning_rate": 5e-4}, [FEW_ROWS_AT_A_TIME]),
    "olora": ({"init_lora_weights": "olora", "learning_rate": 5e-4, "use_rslora": True,
               "target_modules": ["k_proj", "o_proj", "up_proj", "down_proj"]}, []),
    # Masks from counter_dropout.py: torch's own draws are nobody else's.
    "dropout": ({"lora_dropout": 0.3}, [FEW_ROWS_AT_A_TIME]),
    "saved_all": ({"modules_to_save": ["lm_head", "embed_tokens", "norm"], "learning_rate": 1e-3},
                  [FEW_ROWS_AT_A_TIME]),
    "saved_norms": ({"modules_to_save": ["1.post_attention_layernorm", "model.norm"],
                     "target_modules": ["layers.1.mlp.down_proj"], "max_grad_norm": 0.5}, []),
    "bf16_autocast": ({"precision": "bf16-autocast", "path": "reference", "max_grad_norm": 0.5}, []),
    "bf16": ({"precision": "bf16", "path": "reference", "schedule": "linear"}, []),
    "lora_plus": ({"lora_plus_ratio": 16, "learning_rate": 5e-4, "weight_decay": 0.05}, []),
}
# Recipe keys that change what PEFT starts from: a case with one of them has an OUT/<case>/init.
SHAPES = {"target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
          "lora_dropout", "modules_to_save"}

# Odd on purpose: head_dim is not hidden / heads, one key/value head, a vocabulary that no block
# size divides.
CONFIG = LlamaConfig(vocab_size=250, hidden_size=48, head_dim=10, num_attention_heads=4,
                     num_key_value_heads=1, intermediate_size=70, num_hidden_layers=2,
                     max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=1,
                     eos_token_id=2)


def write_model(folder: pathlib.Path) -> None:
    """Weights of bf16 values that give logits of about unit scale."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(CONFIG)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * torch.randn(parameter.shape))
            else:
                parameter.copy_(torch.randn(parameter.shape) / parameter.shape[1] ** 0.5)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def load_model(folder: pathlib.Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")


def write_rows(path: pathlib.Path) -> None:
    """Rows of 4 to 20 ids, every other one on a shared prefix; the labels are mostly at the end."""
    draw = random.Random(3)
    prefix = [draw.randrange(250) for _ in range(7)]
    with path.open("w") as out:
        for i in range(38):
            ids = (prefix if i % 2 else []) + [draw.randrange(250) for _ in range(draw.randint(4, 13))]
            labels = [-100 if t < len(ids) // 2 else ids[t] for t in range(len(ids))]
            labels[0] = ids[0] if i % 5 == 0 else -100  # the first one is nobody's target
            out.write(json.dumps({"ids": ids, "labels": labels}, separators=(",", ":")) + "\n")


def save_adapter(model: Any, folder: pathlib.Path, start: pathlib.Path | None) -> None:
    """As PEFT writes it, but for the paths of this machine and the order of hash sets.

    With `start`, the folder of an adapter that was taken out of the base: converted to plain LoRA."""
    model.save_pretrained(folder, **({"path_initial_model_for_weight_conversion": str(start)} if start else {}))
    tidy_adapter(folder)


def tidy_adapter(folder: pathlib.Path) -> None:
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "model"
    for key in ("target_modules", "modules_to_save"):
        config[key] = config[key] and sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


class GoldenRun(PeftReference):
    """A reference run with evolora's dropout masks."""

    def __init__(self, model: PreTrainedModel, init: pathlib.Path | None, recipe: Recipe,
                 rows: list[dict[str, list[int]]]) -> None:
        super().__init__(model, init, recipe, rows)
        self._masks = Masks(self.model, recipe.lora_dropout, recipe.seed) if recipe.lora_dropout else None

    def _inputs(self, indices: list[int], rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        if self._masks:
            self._masks.next_step(indices, max(len(row["ids"]) for row in rows))
        return super()._inputs(indices, rows)


def write_case(out: pathlib.Path, name: str) -> None:
    keys, also = CASES[name]
    recipe = Recipe(**COMMON | keys)
    rows = read_rows(out / "rows.jsonl")
    init: str | None = "init"
    start = None
    if "init_lora_weights" in keys:
        init = None
    elif SHAPES & set(keys):
        init = f"{name}/init"
        export_init(load_model(out / "model"), recipe, 7, out / init)
        tidy_adapter(out / init)
    dtype = torch.float32 if recipe.precision == "fp32" else torch.bfloat16
    run = GoldenRun(load_model(out / "model", dtype), out / init if init else None, recipe, rows)
    with tempfile.TemporaryDirectory() as scratch:
        if not init:
            start = pathlib.Path(scratch) / "start"
            run.model.save_pretrained(start)
        steps = [run.step() for _ in range(run.total_steps)]
        save_adapter(run.model, out / name, start)
    order = sum(step_rows(recipe.seed, len(rows), recipe.rows_per_step, 1), [])
    expected = {"recipe": COMMON | keys, "also": also, "init": init, "order": order,
                "loss": [step.loss for step in steps], "grad_norm": [step.grad_norm for step in steps]}
    text = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in expected.items())
    (out / name / "expected.json").write_text(f"{{\n{text}\n}}\n")
    print(f"{name}: loss {steps[0].loss:.4f} to {steps[-1].loss:.4f}, gradient norm "
          f"{min(s.grad_norm for s in steps):.3f} to {max(s.grad_norm for s in steps):.3f}")


def main() -> None:
    torch.set_num_threads(1)
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests/golden/training")
    if len(sys.argv) > 2:
        for name in sys.argv[2:]:
            write_case(out, name)
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_model(out / "model")
    write_rows(out / "rows.jsonl")
    export_init(load_model(out / "model"), Recipe(**COMMON), 7, out / "init")
    tidy_adapter(out / "init")
    for name in CASES:
        write_case(out, name)


if __name__ == "__main__":
    main()
