#!/usr/bin/env python3
r"""Builds the shipped streams from public data sets, the same bytes every time.

  build_quickstart.py --data DIR --out data/streams/quickstart.jsonl \
                      [--tiny data/streams/tiny.jsonl]
  build_quickstart.py --check data/streams/quickstart.jsonl

DIR holds datasets/knowedit, datasets/bfcl_v4 and datasets/llamafactory_demo as data/README.md
lists them. Needs Python 3.9 and nothing else.
"""

import argparse
import collections
import os
import random
import sys

import checks
import facts
import general
import persona
import planted
import rows as stream_rows
import tool_calls

SEED = 20260

# How many rows of each (cluster, split) the tiny stream takes.
TINY = {
    ("facts", "stream"): 4, ("facts", "query"): 4, ("facts", "test"): 4, ("tools", "stream"): 3,
    ("tools", "query"): 2, ("tools", "test"): 2, ("persona", "stream"): 2, ("persona", "query"): 1,
    ("persona", "test"): 1, ("general", "anchor"): 4, ("general", "test"): 2,
    ("locality", "anchor"): 1, ("tools-broken", "stream"): 1, ("bad-verifier", "stream"): 1,
    ("office", "stream"): 1,
}


def in_order(rows):
    """Stream rows first, shuffled so that clusters mix; then query, anchor and test."""
    by_split = {split: [row for row in rows if row["split"] == split] for split in checks.SPLITS}
    random.Random(SEED).shuffle(by_split["stream"])
    return [row for split in checks.SPLITS for row in by_split[split]]


def build(data_dir):
    questions = general.load()
    edits = facts.load(data_dir)
    rows = facts.fact_rows(edits)
    rows += facts.portability_rows(edits)
    rows += facts.locality_rows(edits, questions["locality"])
    rows += general.general_rows(questions)
    rows += tool_calls.tool_rows(tool_calls.load(data_dir), SEED)
    rows += persona.persona_rows(persona.load(data_dir))
    rows += planted.planted_rows()
    return in_order(rows)


def tiny(rows):
    left, out = dict(TINY), []
    for row in rows:
        key = (row["cluster"], row["split"])
        if left.get(key, 0) > 0:
            left[key] -= 1
            out.append(row)
    return out


def report(path, rows):
    counts = collections.Counter((row["cluster"], row["split"]) for row in rows)
    print(f"{path}: {len(rows)} rows, {os.path.getsize(path)} bytes")
    for (cluster, split), count in sorted(counts.items()):
        print(f"  {cluster:18} {split:7} {count}")


def main():
    parser = argparse.ArgumentParser(description="Build or check the shipped streams.")
    parser.add_argument("--data", help="folder of the public data sets")
    parser.add_argument("--out", help="stream to write")
    parser.add_argument("--tiny", help="small stream to write beside it")
    parser.add_argument("--check", help="stream to check instead of building")
    options = parser.parse_args()
    if not options.check and not (options.data and options.out):
        parser.error("--data and --out, or --check")
    if options.check:
        rows = stream_rows.read_jsonl(options.check)
    else:
        rows = build(options.data)
    found = checks.complaints(rows)
    for complaint in found:
        print(complaint, file=sys.stderr)
    if found:
        return 1
    if options.check:
        report(options.check, rows)
        return 0
    stream_rows.write_jsonl(options.out, rows)
    report(options.out, rows)
    if options.tiny:
        stream_rows.write_jsonl(options.tiny, tiny(rows))
        report(options.tiny, tiny(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
