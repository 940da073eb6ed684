#!/usr/bin/env python3
"""Times LoRA training on a CUDA device against transformers + PEFT, and with Liger's kernels, on
random weights of known models' shapes, and prints one table.

Usage: device_table.py --program device_benchmark [--peers VENV] [--models 8b,4b,1b,0.6b]
                       [--lengths 512,2048,4096] [--tokens 16384] [--device cuda] [--out FILE]

Each engine runs in a process of its own with the largest share of a step at once that fits into
memory: all of it, or half as often as needed. Without --peers, or where Liger is not installed
there, its column says so. Ends with 1 when evolora's own program fails.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

PEER = pathlib.Path(__file__).resolve().parent / "peers/peft_device.py"
FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Engine:
    """A program that takes device_benchmark's arguments, or why there is none."""

    name: str
    argv: tuple[str, ...] = ()
    missing: str = ""


def imports(python: pathlib.Path, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True,
                          check=False).returncode == 0


def find_engines(program: str, peers: pathlib.Path | None) -> list[Engine]:
    evolora = [Engine("evolora", (program,)), Engine("without graphs", (program, "--no-graphs"))]
    python = peers / "bin/python" if peers else None
    if python is None or not python.exists():
        return [*evolora, Engine("PEFT", missing="not installed")]
    peft = Engine("PEFT", (str(python), str(PEER)))
    if not imports(python, "liger_kernel"):
        return [*evolora, peft, Engine("PEFT + Liger", missing="not installed")]
    return [*evolora, peft, Engine("PEFT + Liger", (*peft.argv, "--liger"))]


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no words"


def measure(engine: Engine, model: str, length: int, args: argparse.Namespace) -> dict | str:
    """The engine's figures, or in a few words why there are none."""
    if engine.missing:
        return engine.missing
    micro_batch = args.tokens
    while True:
        argv = [*engine.argv, "--model", model, "--length", str(length), "--tokens",
                str(args.tokens), "--micro-batch", str(micro_batch), "--steps", str(args.steps),
                "--warmup", str(args.warmup), "--device", args.device]
        run = subprocess.run(argv, capture_output=True, text=True, check=False)
        if run.returncode == 0:
            return json.loads(last_line(run.stdout))
        if "out of memory" not in run.stderr:
            print(f"device_table: {' '.join(argv)}\n{run.stderr}", file=sys.stderr)
            return FAILED
        micro_batch //= 2
        if micro_batch < length:
            return "out of memory"


def cell(result: dict | str, base: dict | str) -> str:
    if isinstance(result, str):
        return result
    words = f"{result['tokens_per_second']:,.0f}"
    if result is not base and isinstance(base, dict):
        words += f" ({base['tokens_per_second'] / result['tokens_per_second']:.2f}x)"
    if "peak_bytes" in result:
        words += f", {result['peak_bytes'] / 2**30:.1f} GiB"
    if result["micro_batch"] < result["tokens_per_step"]:
        words += f", {result['micro_batch']:.0f} at once"
    return words


def device_name(device: str) -> str:
    if shutil.which("nvidia-smi") is None:
        return f"an unknown device ({device})"
    index = device.partition(":")[2] or "0"
    run = subprocess.run(["nvidia-smi", "-i", index, "--query-gpu=name,driver_version",
                          "--format=csv,noheader"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or f"an unknown device ({device})"


def rows(engines: list[Engine], args: argparse.Namespace) -> tuple[list[str], bool]:
    """The table's lines, and whether evolora itself failed in one of them."""
    table, failed = [], False
    for model in args.models.split(","):
        for length in (int(text) for text in args.lengths.split(",")):
            if length > args.tokens:
                continue
            results = [measure(engine, model, length, args) for engine in engines]
            failed |= FAILED in results[:2]
            cells = [cell(result, results[0]) for result in results]
            table.append(f"| {model} | {length} | {' | '.join(cells)} |")
            print(table[-1], file=sys.stderr)
    return table, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--peers", type=pathlib.Path)
    parser.add_argument("--models", default="8b,4b,1b,0.6b")
    parser.add_argument("--lengths", default="512,2048,4096")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    engines = find_engines(args.program, args.peers)
    table, failed = rows(engines, args)
    text = "\n".join([
        f"Tokens a second on {device_name(args.device)}; {args.tokens} tokens a step, bf16 base, "
        "LoRA of rank 16 on every linear layer, with CUDA graphs unless it says otherwise; in "
        "brackets how many times evolora's rate is that one's.", "",
        f"| model | row | {' | '.join(engine.name for engine in engines)} |",
        f"|---|---{'|---' * len(engines)}|", *table, ""])
    if args.out:
        args.out.write_text(text)
    print(text)
    if failed:
        sys.exit("device_table: evolora's own benchmark failed")


if __name__ == "__main__":
    main()
