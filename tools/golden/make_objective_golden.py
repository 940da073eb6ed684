#!/usr/bin/env python3
"""Writes the reference runs under tests/golden/objectives with transformers and PEFT.

Usage: make_objective_golden.py [OUT]     default: tests/golden/objectives

The model and the adapters that runs start from are those of tests/golden/training
(make_training_golden.py). Written are
  OUT/<objective>.jsonl   rows of ids and labels
  OUT/<case>              the adapter after all steps, and expected.json with
                            recipe   the recipe file
                            also     recipe keys for further runs that must give the same
                            rows     the file of rows
                            init     folder of the adapter that the run starts from, below tests/golden
                            loss, grad_norm, figures   of every step

The losses are written as the trainers of TRL (huggingface/trl, 2026) compute them, on logits of one
padded batch an optimiser step; where from stands at each. A new case is a new line in CASES. Needs:
torch 2.11, transformers 5.23, peft 0.21. fp32, CPU, one thread.
"""

import dataclasses
import json
import math
import pathlib
import random
import shutil
import sys
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
sys.path.append(str(ROOT / "tools/bench/peers"))
from make_training_golden import load_model, save_adapter  # noqa: E402
from peft_reference import IGNORE, Recipe, adamw, padded, read_rows  # noqa: E402
from row_order import step_rows  # noqa: E402

Row = dict[str, Any]
Sequence = dict[str, list[int]]

# 22 rows, 5 a step: 5 steps an epoch, the last of 2 rows; 50 steps in all.
NUM_ROWS = 22
COMMON: dict[str, Any] = {"rank": 3, "alpha": 6, "learning_rate": 2e-3, "epochs": 10,
                          "rows_per_step": 5, "schedule": "constant", "max_grad_norm": 0, "seed": 5}
ONE_ROW_AT_A_TIME = {"tokens_per_micro_batch": 1}
FEW_ROWS_AT_A_TIME = {"tokens_per_micro_batch": 70}
# Slow enough that ten epochs on the same samples do not clip them all.
POLICY: dict[str, Any] = {"objective": "policy", "learning_rate": 3e-4}


@dataclasses.dataclass(frozen=True)
class Case:
    keys: dict[str, Any]
    init: str = "training/init"  # B = 0: the base itself; training/plain is another model
    also: tuple[dict[str, Any], ...] = ()
    rows: str = ""  # by default those of the objective


CASES = {
    "dpo": Case({"objective": "dpo", "dpo_beta": 0.5}, also=(ONE_ROW_AT_A_TIME, FEW_ROWS_AT_A_TIME)),
    "dpo_smoothed_from_init": Case({"objective": "dpo", "dpo_beta": 0.2, "dpo_label_smoothing": 0.1,
                                    "reference": "init"}, init="training/plain"),
    "dpo_base_reference": Case({"objective": "dpo", "dpo_beta": 0.1, "max_grad_norm": 0.5},
                               init="training/plain"),
    "distill": Case({"objective": "distill"}, also=(ONE_ROW_AT_A_TIME, FEW_ROWS_AT_A_TIME,
                                                    {"distill_top_k": 250})),
    "distill_warm_from_init": Case({"objective": "distill", "distill_temperature": 2.0,
                                    "reference": "init"}, init="training/plain"),
    "distill_top_k": Case({"objective": "distill", "distill_top_k": 5, "distill_temperature": 0.8},
                          also=(FEW_ROWS_AT_A_TIME,)),
    "policy_grpo": Case(POLICY, also=(ONE_ROW_AT_A_TIME, FEW_ROWS_AT_A_TIME)),
    "policy_cispo": Case(POLICY | {"policy_loss": "cispo", "policy_mean": "sequences",
                          "policy_clip_high": 0.3, "policy_kl_beta": 0.05},
                         also=(FEW_ROWS_AT_A_TIME,)),
    "policy_from_init": Case(POLICY | {"policy_clip_low": 0.1, "policy_clip_high": 0.28,
                              "policy_mean": "sequences"}, init="training/plain", rows="policy_bare"),
    "policy_unscaled": Case(POLICY | {"policy_scale_rewards": False,
                             "policy_kl_beta": 0.2, "reference": "init"}, init="training/plain"),
}


def labelled(ids: list[int], begin: int) -> list[int]:
    return [IGNORE] * begin + ids[begin:]


def draw_ids(draw: random.Random, low: int, high: int) -> list[int]:
    return [draw.randrange(250) for _ in range(draw.randint(low, high))]


def dpo_rows(draw: random.Random) -> list[Row]:
    """Pairs on prompts of their own, every third with answers that begin alike."""
    rows = []
    for i in range(NUM_ROWS):
        prompt, same = draw_ids(draw, 3, 9), draw_ids(draw, 2, 3) if i % 3 == 0 else []
        row = {}
        for name in ("chosen", "rejected"):
            ids = prompt + same + draw_ids(draw, 2, 8)
            row |= {f"{name}_ids": ids, f"{name}_labels": labelled(ids, len(prompt))}
        rows.append(row)
    return rows


def distill_rows(draw: random.Random) -> list[Row]:
    """The teacher sees some ids more; every other row begins like others."""
    prefix, rows = draw_ids(draw, 7, 7), []
    for i in range(NUM_ROWS):
        prompt = (prefix if i % 2 else []) + draw_ids(draw, 2, 5)
        hint, answer = draw_ids(draw, 3, 6), draw_ids(draw, 2, 7)
        ids, teacher_ids = prompt + answer, hint + prompt + answer
        rows.append({"ids": ids, "labels": labelled(ids, len(prompt)), "teacher_ids": teacher_ids,
                     "teacher_labels": labelled(teacher_ids, len(hint + prompt))})
    return rows


def samples(draw: random.Random) -> list[Row]:
    """Answers to a few prompts."""
    prompts = [draw_ids(draw, 3, 8) for _ in range(5)]
    rows = []
    for i in range(NUM_ROWS):
        prompt = prompts[i % len(prompts)]
        ids = prompt + draw_ids(draw, 2, 8)
        rows.append({"ids": ids, "labels": labelled(ids, len(prompt))})
    return rows


def policy_rows(draw: random.Random) -> list[Row]:
    """As if sampled from a model near the base, so that some ratios are clipped."""
    rows = samples(draw)
    predicted = predict(load_model(GOLDEN / "training/model"), rows)
    log_probs = predicted.log_probs.detach()
    for i, row in enumerate(rows):
        old = [round(value.item() + draw.gauss(0, 0.25), 5) for value in log_probs[i][predicted.mask[i]]]
        row |= {"reward": draw.choice([0, 1]) + round(draw.random(), 2), "group": f"prompt {i % 5}",
                "old_logprobs": old}
    return rows


def bare_policy_rows(draw: random.Random) -> list[Row]:
    """Advantages as they are; the old log-probabilities are those of the adapter at the start."""
    return [row | {"advantage": round(draw.gauss(0, 1), 3)} for row in samples(draw)]


ROWS = {"dpo": dpo_rows, "distill": distill_rows, "policy": policy_rows,
        "policy_bare": bare_policy_rows}


def sequence(row: Row, prefix: str = "") -> Sequence:
    return {"ids": row[f"{prefix}ids"], "labels": row[f"{prefix}labels"]}


@dataclasses.dataclass
class Predicted:
    """What a model says at the positions before labels: logits and log-probabilities."""

    logits: torch.Tensor  # [B, T - 1, V]
    labels: torch.Tensor  # [B, T - 1], 0 where masked
    mask: torch.Tensor  # [B, T - 1]

    @property
    def log_probs(self) -> torch.Tensor:
        """[B, T - 1], 0 where masked (TRL: selective_log_softmax of the shifted logits)."""
        all_log_probs = self.logits.log_softmax(-1)
        return all_log_probs.gather(-1, self.labels.unsqueeze(-1)).squeeze(-1) * self.mask


def predict(model: torch.nn.Module, sequences: list[Sequence]) -> Predicted:
    batch = padded(sequences)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:]
    mask = labels != IGNORE
    return Predicted(logits[:, :-1], labels.where(mask, 0), mask)


def frozen(model: PeftModel, recipe: dict[str, Any], sequences: list[Sequence]) -> Predicted:
    """Of the reference or teacher, before the first step."""
    with torch.no_grad():
        if recipe.get("reference", "base") == "init":
            return predict(model, sequences)
        with model.disable_adapter():
            return predict(model, sequences)


Outcome = tuple[torch.Tensor, dict[str, float]]  # loss, figures


class Dpo:
    """trl/trainer/dpo_trainer.py, loss_type "sigmoid": log-probabilities of an answer are summed; label
    smoothing as in conservative DPO; rewards are beta * (policy - reference)."""

    def __init__(self, model: PeftModel, recipe: dict[str, Any], rows: list[Row]) -> None:
        self._model, self._recipe, self._rows = model, recipe, rows
        self._reference = frozen(model, recipe, self._sequences(range(len(rows)))).log_probs.sum(-1)

    def _sequences(self, indices: Any) -> list[Sequence]:
        return ([sequence(self._rows[i], "chosen_") for i in indices]
                + [sequence(self._rows[i], "rejected_") for i in indices])

    def loss(self, indices: list[int]) -> Outcome:
        beta = self._recipe["dpo_beta"]
        smoothing = self._recipe.get("dpo_label_smoothing", 0)
        policy = predict(self._model, self._sequences(indices)).log_probs.sum(-1)
        places = indices + [i + len(self._rows) for i in indices]
        chosen, rejected = (policy - self._reference[places]).chunk(2)
        logits = chosen - rejected
        losses = (-F.logsigmoid(beta * logits) * (1 - smoothing)
                  - F.logsigmoid(-beta * logits) * smoothing)
        rewards = beta * torch.stack([chosen, rejected]).detach()
        margins = rewards[0] - rewards[1]
        return losses.mean(), {"reward_chosen": rewards[0].mean().item(),
                               "reward_rejected": rewards[1].mean().item(),
                               "reward_margin": margins.mean().item(),
                               "reward_accuracy": (margins > 0).float().mean().item()}


def add_tail_bucket(log_probs: torch.Tensor) -> torch.Tensor:
    """One more outcome: all tokens that are not in [.., K]."""
    inside = log_probs.logsumexp(-1, keepdim=True).clamp(max=-1e-7)
    return torch.cat([log_probs, (-torch.expm1(inside)).log()], -1)


class Distill:
    """The forward KL (beta = 0) of trl/trainer/distillation_trainer.py, as of its predecessor
    trl/trainer/gkd_trainer.py: logits over the temperature, sum over the vocabulary, divided by the
    number of labels; with loss_top_k the teacher's likeliest tokens and, as loss_add_tail says, a bucket
    for the rest. Labels of both rows stand in the same order."""

    def __init__(self, model: PeftModel, recipe: dict[str, Any], rows: list[Row]) -> None:
        self._model, self._recipe, self._rows = model, recipe, rows
        predicted = frozen(model, recipe, [sequence(row, "teacher_") for row in rows])
        self._teacher = [self._log_probs(predicted.logits[i][predicted.mask[i]])
                         for i in range(len(rows))]

    def _log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        return (logits.double() / self._recipe.get("distill_temperature", 1)).log_softmax(-1)

    def loss(self, indices: list[int]) -> Outcome:
        predicted = predict(self._model, [sequence(self._rows[i]) for i in indices])
        student = self._log_probs(predicted.logits[predicted.mask])
        teacher = torch.cat([self._teacher[i] for i in indices])
        top_k = self._recipe.get("distill_top_k", 0)
        if top_k > 0:
            top = teacher.topk(top_k, -1).indices
            student, teacher = (add_tail_bucket(each.gather(-1, top)) for each in (student, teacher))
        return F.kl_div(student, teacher, reduction="sum", log_target=True) / len(teacher), {}


class Policy:
    """trl/trainer/grpo_trainer.py: loss_type "dapo" (mean over tokens) and "grpo" (mean over samples),
    "cispo" with epsilon_high 1 + policy_clip_high; rewards are scaled by group, with std of n - 1 and
    1e-4; the KL is its per_token_kl."""

    def __init__(self, model: PeftModel, recipe: dict[str, Any], rows: list[Row]) -> None:
        self._model, self._recipe, self._rows = model, recipe, rows
        self._advantages = self._scale() if "reward" in rows[0] else torch.tensor(
            [row["advantage"] for row in rows])
        everything = [sequence(row) for row in rows]
        self._old = frozen(model, {"reference": "init"}, everything).log_probs
        if "old_logprobs" in rows[0]:
            mask = predict(model, everything).mask
            self._old[mask] = torch.tensor(sum((row["old_logprobs"] for row in rows), []))
        self._reference = frozen(model, recipe, everything).log_probs

    def _scale(self) -> torch.Tensor:
        rewards = torch.tensor([row["reward"] for row in self._rows])
        advantages = torch.zeros_like(rewards)
        for group in {row["group"] for row in self._rows}:
            members = torch.tensor([row["group"] == group for row in self._rows])
            advantages[members] = rewards[members] - rewards[members].mean()
            if self._recipe.get("policy_scale_rewards", True):
                advantages[members] /= rewards[members].std() + 1e-4
        return advantages

    def loss(self, indices: list[int]) -> Outcome:
        recipe, predicted = self._recipe, predict(self._model, [sequence(self._rows[i]) for i in indices])
        logps, mask, width = predicted.log_probs, predicted.mask, predicted.mask.shape[1]
        advantages = self._advantages[indices].unsqueeze(1)
        log_ratio = logps - self._old[indices, :width]
        ratio = log_ratio.exp()
        low = 1 - recipe.get("policy_clip_low", 0.2)
        high = 1 + recipe.get("policy_clip_high", 0.2)
        if recipe.get("policy_loss", "grpo") == "cispo":
            losses = -ratio.clamp(max=high).detach() * advantages * logps
            clipped = ratio > high
        else:
            losses = -torch.min(ratio * advantages, ratio.clamp(low, high) * advantages)
            clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
        d = self._reference[indices, :width] - logps
        losses = losses + recipe.get("policy_kl_beta", 0) * (d.exp() - d - 1)
        if recipe.get("policy_mean", "tokens") == "tokens":
            loss = (losses * mask).sum() / mask.sum()
        else:
            loss = ((losses * mask).sum(-1) / mask.sum(-1)).mean()
        return loss, {"policy_ratio": ratio[mask].mean().item(),
                      "policy_clipped": clipped[mask].float().mean().item(),
                      "policy_kl_old": (ratio ** -1 + log_ratio - 1)[mask].mean().item()}


OBJECTIVES = {"distill": Distill, "dpo": Dpo, "policy": Policy}


def train(model: PeftModel, keys: dict[str, Any], rows: list[Row]) -> dict[str, list[Any]]:
    """All steps; what each of them reports."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    recipe = Recipe(**{key: value for key, value in keys.items() if key in names})
    objective = OBJECTIVES[keys["objective"]](model, keys, rows)
    optimizer = adamw(model, recipe)
    parameters = [p for p in model.parameters() if p.requires_grad]
    report: dict[str, list[Any]] = {"loss": [], "grad_norm": [], "figures": []}
    for indices in step_rows(recipe.seed, len(rows), recipe.rows_per_step, recipe.epochs):
        loss, figures = objective.loss(indices)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        report["loss"].append(loss.item())
        report["grad_norm"].append(norm.item())
        report["figures"].append(figures)
    return report


def write_case(out: pathlib.Path, name: str) -> None:
    case = CASES[name]
    keys = COMMON | case.keys
    rows_file = f"{case.rows or keys['objective']}.jsonl"
    model = PeftModel.from_pretrained(load_model(GOLDEN / "training/model"), GOLDEN / case.init,
                                      is_trainable=True).train()
    report = train(model, keys, read_rows(out / rows_file))
    save_adapter(model, out / name)
    expected = {"recipe": keys, "also": case.also, "rows": rows_file, "init": case.init} | report
    text = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in expected.items())
    (out / name / "expected.json").write_text(f"{{\n{text}\n}}\n")
    print(f"{name}: loss {report['loss'][0]:.4f} to {report['loss'][-1]:.4f}, gradient norm "
          f"{min(report['grad_norm']):.4f} to {max(report['grad_norm']):.4f}, "
          f"{report['figures'][-1]}")


def main() -> None:
    torch.set_num_threads(1)
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else GOLDEN / "objectives")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name, rows_of in ROWS.items():
        rows = rows_of(random.Random(name))
        (out / f"{name}.jsonl").write_text(
            "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    for name in CASES:
        write_case(out, name)


if __name__ == "__main__":
    main()
