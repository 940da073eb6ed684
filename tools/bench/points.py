"""The command line of programs that measure points and write a table of their own into README.md."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

import machine
import table
from process import BenchError
from workspace import ROOT, Workspace


def points_main(name: str, description: str, repeats: int,
                measure: Callable[[Workspace, int], list[Any]],
                markdown: Callable[[list[Any], str], str], markers: tuple[str, str]) -> int:
    """Points are dataclasses; `markdown` makes a table of them over a footer."""
    parser = argparse.ArgumentParser(description=description.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object a point")
    parser.add_argument("--table", action="store_true", help="write README.md's table too")
    args = parser.parse_args()
    try:
        points = measure(Workspace.open(args.threads), args.repeats)
        text = markdown(points, f"{machine.describe(args.threads)}; commit {machine.commit()}, "
                                f"medians of {args.repeats}.")
        if args.table:
            table.write(ROOT / "README.md", text, *markers)
    except BenchError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    for point in points:
        if args.json:
            print(json.dumps(dataclasses.asdict(point)))
    if not args.json:
        print(text)
    return 0
