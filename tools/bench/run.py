#!/usr/bin/env python3
"""Measures evolora against its peers on this machine.

  tools/bench/run.py --case NAME [--quick] [--json]
  tools/bench/run.py --all [--quick]      every case, then the table in README.md
  tools/bench/run.py --table              the table from the results that are stored

Ours and the peers take turns in one call: same weights, rows, order of rows and adapter start,
fp32, 2 threads; medians over the repeats. (adapters8 compares evolora with itself: many adapters in
one step with one adapter on as many tokens.) Durations are whole processes; rates leave the warm-up
out. A ratio above 1 means that evolora is ahead. Results are kept in build/bench/results.

Needs a release build (EVOLORA_BENCH_PROGRAM, default build/release/tools/evolora) and the peers'
environment (EVOLORA_BENCH_PYTHON, default build/peers/bin/python; tools/bench/setup_peers.sh).
"""

import argparse
import dataclasses
import datetime
import json
import sys

import machine
import table
from cases import CASES, Case
from measure import KINDS, Samples
from process import BenchError
from workspace import ROOT, Workspace, bench_folder

REPEATS, QUICK_REPEATS = 5, 2


def ratio(case: Case, ours: Samples, peer: Samples) -> float:
    if case.unit == "s":
        return peer.median() / ours.median()
    return ours.median() / peer.median()


def digits(value: float) -> float:
    """Enough of them for any use of a timing."""
    return float(f"{value:.5g}")


def measure(space: Workspace, case: Case, repeats: int) -> table.Result:
    peak = machine.sgemm_peak(space)
    measured = KINDS[case.kind](space, case, repeats)
    peak = max(peak, machine.sgemm_peak(space))
    peers = [{"name": name, "value": digits(samples.median()),
              "ratio": digits(ratio(case, measured.ours, samples)),
              "peak_mb": round(samples.peak_mb), "samples": list(map(digits, samples.values))}
             for name, samples in measured.peers.items()]
    ours, flops = measured.ours.median(), case.flops_per_unit() * 1e-9
    our_flops = measured.flops_per_unit * 1e-9 or flops
    return {"case": case.name, "ours": digits(ours), "peer": peers[0]["value"],
            "ratio": peers[0]["ratio"], "unit": case.unit,
            "peak_mb_ours": round(measured.ours.peak_mb), "peak_mb_peer": peers[0]["peak_mb"],
            "machine": machine.describe(space.threads), "peer_name": peers[0]["name"],
            "others": peers[1:], "samples_ours": list(map(digits, measured.ours.values)),
            "samples_peer": peers[0]["samples"], "gflops_ours": digits(ours * our_flops),
            "gflops_peer": digits(peers[0]["value"] * flops), "sgemm_peak_gflops": peak,
            "repeats": repeats, "commit": machine.commit(),
            "date": datetime.date.today().isoformat(), **measured.notes}


def show(result: table.Result, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result), flush=True)
        return
    for peer in table.peers_of(result):
        print(f"{result['case']:8} ours {table.number(result['ours'])} {result['unit']}, "
              f"{peer['name']} {table.number(peer['value'])}: {peer['ratio']:.2f}x; peak MB "
              f"{result['peak_mb_ours']} and {peer['peak_mb']}; {result['gflops_ours']:.0f} of "
              f"{result['sgemm_peak_gflops']:.0f} GFLOP/s", flush=True)


def without(case: Case, peers: list[str]) -> Case:
    left = tuple(peer for peer in case.peers if peer not in peers)
    if not left:
        raise BenchError(f"{case.name}: --without leaves no peer of {', '.join(case.peers)}")
    return dataclasses.replace(case, peers=left)


def run_cases(args: argparse.Namespace) -> None:
    names = list(CASES) if args.all else [args.case]
    space = Workspace.open(args.threads)
    cases = [without(CASES[name], args.without) for name in names]
    repeats = args.repeats or (QUICK_REPEATS if args.quick else REPEATS)
    for case in cases:
        result = measure(space, case, repeats)
        table.store(space.folder / "results", result)
        show(result, args.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--case", choices=[*CASES])
    what.add_argument("--all", action="store_true", help="every case, then README's table")
    what.add_argument("--table", action="store_true", help="README's table from stored results")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REPEATS} repeats")
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--without", action="append", default=[], metavar="PEER",
                        help="leave a peer out where a case has another")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object a case")
    return parser.parse_args()


def main() -> int:
    args = parse()
    try:
        if not args.table:
            run_cases(args)
        if args.all or args.table:
            results = table.stored(bench_folder() / "results")
            if not results:
                raise BenchError(f"{bench_folder() / 'results'}: no result to make a table of")
            table.write(ROOT / "README.md", table.markdown(results))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
