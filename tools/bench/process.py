"""Runs programs and measures them: lines with their times, wall time, peak memory."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import time
from typing import Any

MB_PER_KIB = 1024 / 1e6


class BenchError(Exception):
    """A measurement that cannot be taken; the text says why."""


@dataclasses.dataclass(frozen=True)
class Finished:
    lines: list[dict[str, Any]]
    arrived: list[float]  # seconds from the start to each line
    seconds: float
    peak_mb: float


def environment(threads: int) -> dict[str, str]:
    number = str(threads)
    return os.environ | {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number,
                         "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def run(argv: list[str], threads: int, log: pathlib.Path) -> Finished:
    """Runs a program that prints JSON lines; its stderr goes to `log`."""
    started = time.perf_counter()
    lines, arrived = [], []
    with log.open("w") as errors:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True,
                                   env=environment(threads))
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                arrived.append(time.perf_counter() - started)
                lines.append(json.loads(line))
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise failure(argv, process.returncode, log)
    return Finished(lines, arrived, seconds, usage.ru_maxrss * MB_PER_KIB)


def failure(argv: list[str], code: int, log: pathlib.Path) -> BenchError:
    end = log.read_text(errors="replace").strip()[-1500:]
    return BenchError(f"{' '.join(argv[:3])} ...: exit status {code}\n{end}")


class Worker:
    """A peer that stays: one line in, a given number of JSON lines out."""

    def __init__(self, argv: list[str], threads: int, log: pathlib.Path) -> None:
        self._argv, self._log = argv, log
        self._errors = log.open("w")
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=self._errors, text=True, env=environment(threads))

    def ask(self, request: Any, answers: int = 1) -> list[dict[str, Any]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died: the missing answer tells
            print(json.dumps(request), file=self._process.stdin, flush=True)
        lines = [self._process.stdout.readline() for _ in range(answers)]
        if not lines[-1]:
            raise failure(self._argv, self._process.wait(), self._log)
        return [json.loads(line) for line in lines]

    def peak_mb(self) -> float:
        """Of the process so far."""
        status = pathlib.Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * MB_PER_KIB

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
