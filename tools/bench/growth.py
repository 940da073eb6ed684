#!/usr/bin/env python3
"""Shows how the cost of training grows: tokens per second and peak memory of LoRA on SmolLM2-135M
against the length of the rows, their number in a step, the rank, and the number of adapters.

  tools/bench/growth.py [--json]         prints the figures
  tools/bench/growth.py --table          writes them into README.md too

Ours alone, half of each row labelled; medians over --repeats processes. Environment as run.py.
"""

import dataclasses
import statistics
import sys

import table
from cases import SMOLLM2, Case, Rows
from measure import Training, rate, rate_by_arrival
from points import points_main
from workspace import Workspace

LENGTHS = (64, 128, 256, 512, 1024, 2048)
BATCHES = (1, 2, 4, 8, 16, 32)
ADAPTERS = (1, 2, 4, 8, 16, 32)
RANKS = (4, 8, 16, 32, 64, 128, 256)


@dataclasses.dataclass(frozen=True)
class Point:
    sweep: str
    value: int
    tokens_per_second: float
    peak_mb: float


def case(name: str, length: int, batch: int, rank: int = 16) -> Case:
    return Case(f"growth-{name}", "", "train", SMOLLM2, Rows(3 * batch, length, length // 2),
                rows_per_step=batch, warm_up_steps=1, steps=2, peers=(), rank=rank)


def together(adapters: int) -> Case:
    return dataclasses.replace(case(f"adapters{adapters}", 128, adapters), adapters=adapters)


def points() -> list[tuple[str, int, Case]]:
    return ([("tokens of a row, 1 row a step", n, case("length", n, 1)) for n in LENGTHS]
            + [("rows of a step, 128 tokens each", n, case("batch", 128, n)) for n in BATCHES]
            + [("rank, 2 rows of 256 tokens", n, case("rank", 256, 2, n)) for n in RANKS]
            + [("adapters in one step, each a row of 128 tokens", n, together(n))
               for n in ADAPTERS])


def measure(space: Workspace, repeats: int) -> list[Point]:
    measured = []
    for sweep, value, one in points():
        training = Training(space, one)
        if "adapters" in sweep:
            runs = [training.together() for _ in range(repeats)]
            rates = [rate_by_arrival(done, one.warm_up_steps) for done in runs]
        else:
            runs = [training.ours() for _ in range(repeats)]
            rates = [rate(done.lines[one.warm_up_steps:]) for done in runs]
        measured.append(Point(sweep, value, round(statistics.median(rates), 1),
                              round(max(done.peak_mb for done in runs))))
    return measured


def markdown(measured: list[Point], footer: str) -> str:
    lines = []
    for sweep in dict.fromkeys(point.sweep for point in measured):
        line = [point for point in measured if point.sweep == sweep]
        lines += [table.cells([sweep, *(str(p.value) for p in line)]),
                  "|---" * (len(line) + 1) + "|",
                  table.cells(["tokens/s", *(table.number(p.tokens_per_second) for p in line)]),
                  table.cells(["peak MB", *(table.number(p.peak_mb) for p in line)]), ""]
    return "\n".join([*lines, footer])


if __name__ == "__main__":
    sys.exit(points_main("growth", __doc__, 3, measure, markdown,
                         (table.GROWTH_BEGIN, table.GROWTH_END)))
