"""The machine that figures hold for."""

import os
import pathlib
import platform
import subprocess

from process import environment, failure
from workspace import ROOT, Workspace


def describe(threads: int) -> str:
    cpu, flags = "unknown CPU", ""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            cpu = value.strip()
        if key.strip() == "flags":
            flags = value
    sets = [name for flag, name in (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("amx_tile", "AMX"))
            if flag in flags.split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (f"{cpu} ({', '.join(sets)}), {os.cpu_count()} processors, {threads} threads used, "
            f"{memory:.0f} GB, Linux {platform.release()}")


def commit() -> str:
    """Short id of the measured sources, with + when they differ from it."""
    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True,
                              check=False).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def sgemm_peak(space: Workspace) -> float:
    """GFLOP/s of the best fp32 matrix product of the peers' LibTorch."""
    argv = space.peer("sgemm_peak.py", space.threads)
    log = space.log("sgemm")
    with log.open("w") as errors:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=errors, text=True,
                              env=environment(space.threads), check=False)
    if done.returncode != 0:
        raise failure(argv, done.returncode, log)
    return float(done.stdout)
