#!/usr/bin/env python3
"""Trains SmolLM2-135M for 50 steps by evolora and by transformers + PEFT and compares the two.

  tools/bench/parity.py [--floor] [--float64] [--json]

150 chats of unequal length, answers labelled, linear schedule with warm-up, clipping; both start
from the adapter that PEFT made. Prints the relative differences of the losses and gradient norms,
and the smallest cosine of an adapter matrix and of its change. --floor trains by PEFT once more,
with its eager attention, and prints the same between PEFT and PEFT: what the order of fp32 sums
alone does. --float64 trains by PEFT in float64 and prints how far each of the two fp32 runs is from
that: what of their difference is whose; LOSS_LIMIT is then for ours from there. The exit status is
1 beyond LOSS_LIMIT or below COSINE_LIMIT. Environment as run.py.
"""

import argparse
import json
import sys
from typing import Any

import machine
from cases import PARITY, SMOLLM2
from measure import Training, differences
from process import BenchError, Finished, run
from workspace import Workspace

LOSS_LIMIT, COSINE_LIMIT = 1e-5, 0.99999


def same_weights(space: Workspace) -> bool:
    """Whether ours reads from the GGUF what PEFT's side reads from its folder."""
    names = {space.base(SMOLLM2), space.base(SMOLLM2, ids_only=True)}
    bases = run(space.ours("base list"), space.threads, space.log("base")).lines
    return len({base["weights_fingerprint"] for base in bases if base["name"] in names}) == 1


def between(space: Workspace, training: Training, one: Finished, name: str,
            peft: Finished) -> dict[str, Any]:
    """How far run `one`, whose adapter is called `name`, is from PEFT's."""
    if len(one.lines) != len(peft.lines):
        raise BenchError(f"{name} took {len(one.lines)} steps, PEFT {len(peft.lines)}")
    losses = differences(one.lines, peft.lines)
    argv = space.peer("compare_adapters.py", training.out(name), training.out("peft"),
                      space.init(SMOLLM2))
    return {"loss_difference": max(losses),
            "grad_norm_difference": max(differences(one.lines, peft.lines, "grad_norm")),
            **run(argv, space.threads, space.log("compare")).lines[0], "at_each_step": losses}


def from_float64(training: Training, runs: dict[str, Finished]) -> dict[str, Any]:
    """Greatest relative differences of loss and gradient norm of fp32 runs from float64's."""
    exact = training.peft("float64", "--float64").lines
    return {name: {"loss_difference": max(differences(run.lines, exact)),
                   "grad_norm_difference": max(differences(run.lines, exact, "grad_norm"))}
            for name, run in runs.items()}


def compare(space: Workspace, floor: bool, float64: bool) -> dict[str, Any]:
    training = Training(space, PARITY)
    ours, peft = training.ours(), training.peft()
    result = {"steps": len(ours.lines), "same_weights": same_weights(space),
              "first_loss": peft.lines[0]["loss"], "last_loss": peft.lines[-1]["loss"],
              **between(space, training, ours, "ours", peft), "seconds_ours": ours.seconds,
              "seconds_peft": peft.seconds, "commit": machine.commit(),
              "machine": machine.describe(space.threads)}
    if floor:
        eager = training.peft("eager", "--attention", "eager")
        result["floor"] = between(space, training, eager, "eager", peft)
    if float64:
        result["from_float64"] = from_float64(training, {"ours": ours, "peft": peft})
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--floor", action="store_true", help="also PEFT against itself")
    parser.add_argument("--float64", action="store_true", help="also both against float64")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    try:
        result = compare(Workspace.open(args.threads), args.floor, args.float64)
    except BenchError as error:
        print(f"parity: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key:21} {value}" for key, value in result.items()))
    exact = result["from_float64"]["ours"] if args.float64 else result
    ok = (result["same_weights"] and exact["loss_difference"] <= LOSS_LIMIT
          and result["weight_cosine"] >= COSINE_LIMIT)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
