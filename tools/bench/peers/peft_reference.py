"""LoRA training by transformers + PEFT as evolora's recipe files describe it: the reference.

Plain eager loop: Hugging Face's own loss with num_items_in_batch, clip_grad_norm_, fused AdamW,
get_scheduler. One padded batch an optimiser step, rows in evolora's order.
"""

import dataclasses
import json
import math
import pathlib
import time
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import PreTrainedModel, get_scheduler

from row_order import step_rows

IGNORE = -100


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The keys of an evolora recipe that have a meaning for the reference, with their defaults."""

    rank: int = 16
    alpha: float = 32
    use_rslora: bool = False
    use_dora: bool = False
    lora_dropout: float = 0
    target_modules: list[str] = dataclasses.field(default_factory=list)
    exclude_modules: list[str] = dataclasses.field(default_factory=list)
    rank_pattern: dict[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: dict[str, float] = dataclasses.field(default_factory=dict)
    modules_to_save: list[str] = dataclasses.field(default_factory=list)
    init_lora_weights: str = "kaiming"
    learning_rate: float = 3e-4
    lora_plus_ratio: float = 1
    schedule: str = "linear"
    warmup_ratio: float = 0
    epochs: int = 3
    max_steps: int = 0
    rows_per_step: int = 8
    weight_decay: float = 0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    seed: int = 0
    precision: str = "fp32"  # others: the model has to be bf16
    # How evolora goes about it, not what it computes:
    path: str = "fast"
    tokens_per_micro_batch: int = 1024
    checkpoint_every_steps: int = 20
    require_end_of_turn: bool = True

    @staticmethod
    def read(path: str | pathlib.Path) -> "Recipe":
        return Recipe(**json.loads(pathlib.Path(path).read_text()))


@dataclasses.dataclass(frozen=True)
class Step:
    """One optimiser step: the mean loss before the update and the gradient norm before clipping."""

    loss: float
    grad_norm: float
    tokens: int
    seconds: float


def read_rows(path: str | pathlib.Path) -> list[dict[str, list[int]]]:
    with open(path) as lines:
        return [json.loads(line) for line in lines if line.strip()]


def with_adapter(model: PreTrainedModel, recipe: Recipe) -> PeftModel:
    """`model` with the adapter that PEFT starts from on the recipe's layers."""
    init = recipe.init_lora_weights
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, use_rslora=recipe.use_rslora,
                        use_dora=recipe.use_dora, lora_dropout=recipe.lora_dropout,
                        init_lora_weights=True if init == "kaiming" else init,
                        target_modules=recipe.target_modules or "all-linear",
                        exclude_modules=recipe.exclude_modules or None,
                        modules_to_save=recipe.modules_to_save or None,
                        rank_pattern=recipe.rank_pattern, alpha_pattern=recipe.alpha_pattern,
                        task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def export_init(model: PreTrainedModel, recipe: Recipe, seed: int, folder: str | pathlib.Path) -> None:
    """Saves the adapter that PEFT starts from on the recipe's layers; `model` is changed by it."""
    torch.manual_seed(seed)
    with_adapter(model, recipe).save_pretrained(folder)


def adamw(model: PeftModel, recipe: Recipe) -> torch.optim.Optimizer:
    options = {"betas": (recipe.beta1, recipe.beta2), "eps": recipe.epsilon, "fused": True}
    if recipe.lora_plus_ratio != 1:
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=recipe.learning_rate,
            loraplus_lr_ratio=recipe.lora_plus_ratio, loraplus_weight_decay=recipe.weight_decay,
            **options)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=recipe.learning_rate,
                             weight_decay=recipe.weight_decay, **options)


class PeftReference:
    """A training run that is taken step by step."""

    def __init__(self, model: PreTrainedModel, init: str | pathlib.Path | None, recipe: Recipe,
                 rows: list[dict[str, list[int]]]) -> None:
        """Starts from the folder `init`; without one as the recipe says."""
        self._rows = rows
        self._recipe = recipe
        widen = recipe.precision != "bf16"  # adapters that PEFT keeps in fp32 beside a bf16 model
        self.model = (PeftModel.from_pretrained(model, init, is_trainable=True,
                                                autocast_adapter_dtype=widen) if init else
                      with_adapter(model, recipe)).train()
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = adamw(self.model, recipe)
        total = recipe.epochs * math.ceil(len(rows) / recipe.rows_per_step)
        self.total_steps = min(recipe.max_steps, total) if recipe.max_steps > 0 else total
        self._scheduler = get_scheduler(
            recipe.schedule, self._optimizer, math.ceil(recipe.warmup_ratio * self.total_steps),
            self.total_steps)
        self._order = step_rows(recipe.seed, len(rows), recipe.rows_per_step, recipe.epochs)

    def step(self) -> Step:
        started = time.perf_counter()
        indices = next(self._order)
        rows = [self._rows[i] for i in indices]
        with torch.autocast("cpu", torch.bfloat16, self._recipe.precision == "bf16-autocast"):
            loss = self._loss(self._inputs(indices, rows))
        loss.backward()
        limit = self._recipe.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad()
        return Step(loss.item(), norm.item(), sum(len(row["ids"]) for row in rows),
                    time.perf_counter() - started)

    def _loss(self, inputs: dict[str, Any]) -> torch.Tensor:
        return self.model(**inputs).loss

    def _inputs(self, indices: list[int], rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        """The model's arguments for the rows of the next step."""
        return padded(rows)


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    """The arguments of a causal language model for rows padded on the right."""
    longest = max(len(row["ids"]) for row in rows)

    def tensor(key: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[key] + [fill] * (longest - len(row[key])) for row in rows])

    mask = torch.tensor([[1] * len(r["ids"]) + [0] * (longest - len(r["ids"])) for r in rows])
    labels = tensor("labels", IGNORE)
    return {"input_ids": tensor("ids", 0), "attention_mask": mask, "labels": labels,
            "num_items_in_batch": (labels[:, 1:] != IGNORE).sum()}
