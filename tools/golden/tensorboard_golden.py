#!/usr/bin/env python3
"""Event files against TensorBoard itself (pip install tensorboard; no TensorFlow needed).

  tensorboard_golden.py write   tests/golden/metrics/events.bin, by TensorBoard's record writer and
                                protobuf messages: what trainers_metrics_test expects byte by byte
  tensorboard_golden.py read DIR   prints what TensorBoard reads from a run's metrics folder, and
                                fails unless every step is there exactly once in every curve
"""

import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/metrics/events.bin"
START = 1_700_000_000.25
STEPS = [  # wall time, step, curves
    (START, 1, [("train/loss", 2.5), ("train/tokens", 512.0)]),
    (START + 1.5, 300, [("train/loss", 0.1), ("train/tokens", 0.0)]),
]


def write() -> None:
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    events = [event_pb2.Event(wall_time=START, file_version="brain.Event:2")]
    for wall_time, step, curves in STEPS:
        event = event_pb2.Event(wall_time=wall_time, step=step)
        for tag, value in curves:
            event.summary.value.add(tag=tag, simple_value=value)
        events.append(event)
    with GOLDEN.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


def read(folder: str) -> None:
    accumulator = EventAccumulator(folder, size_guidance={"scalars": 0})
    accumulator.Reload()
    for tag in accumulator.Tags()["scalars"]:
        steps = [event.step for event in accumulator.Scalars(tag)]
        values = [event.value for event in accumulator.Scalars(tag)]
        print(f"{tag}: {len(steps)} steps, {steps[0]}..{steps[-1]}, {values[0]:.6g}..{values[-1]:.6g}")
        if steps != list(range(1, len(steps) + 1)):
            sys.exit(f"{tag}: steps {steps}")


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        write()
    elif len(sys.argv) == 3 and sys.argv[1] == "read":
        read(sys.argv[2])
    else:
        sys.exit(__doc__)
