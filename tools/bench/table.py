"""Results as README's table: stored one file a case, written between two markers."""

import json
import pathlib
from typing import Any

from cases import CASES
from process import BenchError

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
GROWTH_BEGIN, GROWTH_END = "<!-- growth:begin -->", "<!-- growth:end -->"
TYPES_BEGIN, TYPES_END = "<!-- types:begin -->", "<!-- types:end -->"
Result = dict[str, Any]


def store(folder: pathlib.Path, result: Result) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{result['case']}.json").write_text(json.dumps(result, indent=1) + "\n")


def stored(folder: pathlib.Path) -> list[Result]:
    """In the order of the cases; those that never ran are left out."""
    paths = [folder / f"{name}.json" for name in CASES]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cells(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def row(title: str, result: Result, peer: Result) -> str:
    """With the ratio that there would be if all we compute ran at the machine's peak."""
    unit = result["unit"]
    flops, limit = "-", "-"
    if result["gflops_ours"]:
        flops = f"{result['gflops_ours']:.0f} of {result['sgemm_peak_gflops']:.0f}"
    if result["gflops_ours"] and not CASES[result["case"]].our_options:  # fp32
        limit = f"{peer['ratio'] * result['sgemm_peak_gflops'] / result['gflops_ours']:.2f}x"
    return cells([title, f"{number(result['ours'])} {unit}", f"{number(peer['value'])} {unit}",
             peer["name"], f"**{peer['ratio']:.2f}x**", limit,
             f"{number(result['peak_mb_ours'])} / {number(peer['peak_mb'])}", flops,
             f"{result['repeats']}, {result['commit']}"])


def peers_of(result: Result) -> list[Result]:
    first = {"name": result["peer_name"], "value": result["peer"], "ratio": result["ratio"],
             "peak_mb": result["peak_mb_peer"]}
    return [first, *result["others"]]


def markdown(results: list[Result]) -> str:
    lines = ["| work | ours | peer | which | ours is | at the peak | peak MB, ours / peer | "
             "GFLOP/s of peak | repeats, commit |", "|---|---|---|---|---|---|---|---|---|"]
    for result in results:
        for i, peer in enumerate(peers_of(result)):
            lines.append(row(CASES[result["case"]].title if i == 0 else "the same", result, peer))
    machines = sorted({result["machine"] for result in results})
    return "\n".join([*lines, "", "; ".join(machines) + "."])


def write(readme: pathlib.Path, content: str, begin: str = BEGIN, end: str = END) -> None:
    """Replaces what stands between the markers."""
    text = readme.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise BenchError(f"{readme}: needs one {begin} and one {end} after it")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    readme.write_text(f"{before}{begin}\n{content}\n{end}{after}")
