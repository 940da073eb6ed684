#!/usr/bin/env python3
"""Generates from SmolLM2-135M in several types of GGUF file, by evolora and by llama.cpp.

  tools/bench/file_types.py [--json]     prints the figures
  tools/bench/file_types.py --table      writes them into README.md too

llama.cpp makes the files from the package's own, under build/bench/types. One chat of 64 new tokens
as the case gen1 of run.py, in the file's bits; both take turns. Environment as run.py.
"""

import dataclasses
import pathlib
import statistics
import sys

import table
from cases import CASES
from measure import Generation, same_rows
from points import points_main
from workspace import Workspace

OWN = "Q4_1"  # of the package's file
TYPES = (OWN, "Q4_K_M", "Q5_K_M", "F16")
LLAMA = "llama.cpp Q4_1"  # the peer's name in cases.py; it reads the workspace's file


@dataclasses.dataclass(frozen=True)
class Point:
    type: str
    ours: float  # tokens/s, as the next
    llama_cpp: float
    peak_mb_ours: float
    same_rows: float  # share of the chats whose new tokens are all equal


def gguf(space: Workspace, kind: str) -> pathlib.Path:
    if kind == OWN:
        return space.gguf
    path = space.folder / "types" / f"smollm2-{kind}.gguf"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        space.call(space.peer("quantize_gguf.py", space.gguf, part, kind))
        part.rename(path)
    return path


def point(space: Workspace, kind: str, repeats: int) -> Point:
    of_type = dataclasses.replace(space, gguf=gguf(space, kind))
    generation = Generation(of_type, dataclasses.replace(CASES["gen1"], name=f"type-{kind}",
                                                         our_options=()),
                            of_type.base_of_file(f"smollm2-{kind.lower()}"))
    ours, theirs, same, peak = [], [], [], 0.0
    worker = generation.worker(LLAMA)
    try:
        generation.warm_up(worker)
        for repeat in range(repeats):
            seconds, rows, peak_mb = generation.ours(repeat)
            ours.append(generation.tokens(repeat) / seconds)
            peak = max(peak, peak_mb)
            seconds, peer_rows = generation.peer(worker, repeat)
            theirs.append(generation.tokens(repeat) / seconds)
            same.append(same_rows(rows, peer_rows))
    finally:
        worker.close()
    return Point(kind, round(statistics.median(ours), 1), round(statistics.median(theirs), 1),
                 round(peak), statistics.mean(same))


def markdown(points: list[Point], footer: str) -> str:
    rows = [table.cells([p.type, f"{table.number(p.ours)} tok/s",
                         f"{table.number(p.llama_cpp)} tok/s", f"{p.ours / p.llama_cpp:.2f}x",
                         f"{table.number(p.peak_mb_ours)} MB", f"{p.same_rows:.0%}"])
            for p in points]
    return "\n".join(["| file | evolora | llama.cpp | evolora is | evolora at its peak | chats with "
                      "equal tokens |", "|---|---|---|---|---|---|", *rows, "", footer])


def measure(space: Workspace, repeats: int) -> list[Point]:
    return [point(space, kind, repeats) for kind in TYPES]


if __name__ == "__main__":
    sys.exit(points_main("file_types", __doc__, 5, measure, markdown,
                         (table.TYPES_BEGIN, table.TYPES_END)))
