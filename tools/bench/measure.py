"""Takes the figures of one case: ours and the peers' by turns."""

import dataclasses
import json
import pathlib
import statistics
from typing import Any

from cases import IGNORE, SHAPES, SMOLLM2, Case, Row
from process import Finished, Worker, run
from workspace import CHATS, Workspace


NUM_PARITY_ROWS = 150
LONG_ANSWER = 48  # ids of the stored answer: what follows an early end would only repeat itself


@dataclasses.dataclass
class Samples:
    """The repeats of one side: tokens per second or seconds."""

    values: list[float] = dataclasses.field(default_factory=list)
    peak_mb: float = 0

    def add(self, value: float, peak_mb: float) -> None:
        self.values.append(value)
        self.peak_mb = max(self.peak_mb, peak_mb)

    def median(self) -> float:
        return statistics.median(self.values)


@dataclasses.dataclass
class Measured:
    ours: Samples
    peers: dict[str, Samples]
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    flops_per_unit: float = 0  # that we compute; 0: as the case counts

    @staticmethod
    def of(case: Case) -> "Measured":
        return Measured(Samples(), {peer: Samples() for peer in case.peers})


def rate(steps: list[dict[str, Any]]) -> float:
    return sum(s["tokens"] for s in steps) / sum(s["seconds"] for s in steps)


def rate_by_arrival(done: Finished, warm_up_steps: int) -> float:
    """The same over lines of several adapters, by the clock of this process."""
    steps = [(line["step"], line["tokens"], at) for line, at in zip(done.lines, done.arrived)
             if "step" in line]
    warm = max(at for step, _, at in steps if step <= warm_up_steps)
    tokens = sum(tokens for step, tokens, _ in steps if step > warm_up_steps)
    return tokens / (steps[-1][2] - warm)


def differences(ours: list[dict[str, Any]], peer: list[dict[str, Any]],
                key: str = "loss") -> list[float]:
    """Relative difference of a figure at each step that both took."""
    return [float(f"{abs(a[key] - b[key]) / b[key]:.3g}") for a, b in zip(ours, peer)]


def read_chats() -> list[dict[str, Any]]:
    return json.loads(CHATS.read_text())["chats"]


def training_rows(case: Case) -> list[Row]:
    if case.rows is not None:
        return case.rows.make(SHAPES[case.model].vocab_size)
    return mismatched_chats()


def mismatched_chats() -> list[Row]:
    """Each question with five other questions' answers: nothing that a run of a few steps could
    learn by heart. (A loss near zero is a difference of large numbers: its own last digits are
    noise in fp32.)"""
    chats = read_chats()
    pairs = [(chat["ids"], chats[(i + shift) % len(chats)]["greedy"])
             for shift in (1, 5, 9, 13, 17) for i, chat in enumerate(chats)]
    return [{"ids": ids + answer, "labels": [IGNORE] * len(ids) + answer}
            for ids, answer in pairs[:NUM_PARITY_ROWS]]


class Training:
    """One case's files and the two programs that train from them."""

    def __init__(self, space: Workspace, case: Case) -> None:
        self._space, self._case = space, case
        data = space.write_rows(case.name, training_rows(case))
        self._files = ["--data", data, "--recipe", space.write_recipe(case)]
        if case.peers:  # both start from PEFT's adapter
            self._files += ["--init", space.init(case.model)]

    def out(self, side: str) -> pathlib.Path:
        return self._space.out(f"{self._case.name}-{side}")

    def ours(self) -> Finished:
        out = self._space.fresh(self.out("ours"))
        base = self._space.base(self._case.model)
        argv = self._space.ours("train", "--base", base, *self._files, "--out", out)
        return run(argv, self._space.threads, self._space.log(f"{self._case.name}-ours"))

    def computed_flops_per_token(self) -> float:
        """Of the case's own tokens: the adapter's products included, what is shared once."""
        argv = self._space.ours("train", "--base", self._space.base(self._case.model),
                                *self._files, "--out", self.out("dry"), "--dry-run",
                                "--gflops", 1)
        forecast = run(argv, self._space.threads, self._space.log(f"{self._case.name}-dry"))
        return forecast.lines[0]["computed_flops"] / forecast.lines[0]["tokens"]

    def together(self) -> Finished:
        """Each row by an adapter of its own, all in one step."""
        case, space = self._case, self._space
        recipe = space.write_recipe(dataclasses.replace(case, name=f"{case.name}-each",
                                                        rows_per_step=1))
        jobs = []
        for i, row in enumerate(training_rows(case)[:case.adapters]):
            data = space.write_rows(f"{case.name}-{i}", [row])
            jobs.append({"data": str(data), "recipe": str(recipe),
                         "out": str(space.fresh(self.out(f"adapter{i}")))})
            if case.peers:
                jobs[-1]["init"] = str(space.init(case.model))
        argv = space.ours("train", "--base", space.base(case.model), "--jobs",
                          space.write_jobs(case.name, jobs))
        return run(argv, space.threads, space.log(f"{case.name}-together"))

    def peft_argv(self, *end: object) -> list[str]:
        return self._space.peer("peft_worker.py", "--model", self._space.model(self._case.model),
                                "--threads", self._space.threads, *self._files, *end)

    def peft(self, name: str = "peft", *options: object) -> Finished:
        out = self._space.fresh(self.out(name))
        return run(self.peft_argv("--out", out, *options), self._space.threads, self._log())

    def peft_worker(self) -> Worker:
        return Worker(self.peft_argv("--serve"), self._space.threads, self._log())

    def _log(self) -> pathlib.Path:
        return self._space.log(f"{self._case.name}-peft")


def train(space: Workspace, case: Case, repeats: int) -> Measured:
    """Tokens per second of the steps after the warm-up."""
    measured, training = Measured.of(case), Training(space, case)
    measured.flops_per_unit = training.computed_flops_per_token()
    worker = training.peft_worker()
    try:
        first = worker.ask(case.warm_up_steps, case.warm_up_steps)
        for repeat in range(repeats):
            ours = training.ours()
            measured.ours.add(rate(ours.lines[case.warm_up_steps:]), ours.peak_mb)
            peft = worker.ask(case.steps, case.steps)
            measured.peers["peft"].add(rate(peft), worker.peak_mb())
            if repeat == 0:  # later ones of the worker's go on where it was
                measured.notes["loss_difference"] = max(differences(ours.lines, first + peft))
    finally:
        worker.close()
    return measured


def adapters(space: Workspace, case: Case, repeats: int) -> Measured:
    """Tokens per second of the steps after the warm-up: many adapters, and one on all their rows."""
    measured, training = Measured.of(case), Training(space, case)
    for _ in range(repeats):
        for side, done in ((measured.ours, training.together()),
                           (measured.peers[case.peers[0]], training.ours())):
            side.add(rate_by_arrival(done, case.warm_up_steps), done.peak_mb)
    return measured


def job(space: Workspace, case: Case, repeats: int) -> Measured:
    """Seconds of the whole command."""
    measured, training = Measured.of(case), Training(space, case)
    for _ in range(repeats):
        ours, peft = training.ours(), training.peft()
        measured.ours.add(ours.seconds, ours.peak_mb)
        measured.peers["peft"].add(peft.seconds, peft.peak_mb)
        measured.notes["loss_difference"] = max(differences(ours.lines, peft.lines))
    return measured


def start(space: Workspace, case: Case, repeats: int) -> Measured:
    """Seconds from the start of the process to the line of its first step."""
    measured, training = Measured.of(case), Training(space, case)
    training.ours(), training.peft()  # so that the files lie in the page cache
    for _ in range(repeats):
        ours, peft = training.ours(), training.peft()
        measured.ours.add(ours.arrived[0], ours.peak_mb)
        measured.peers["peft"].add(peft.arrived[0], peft.peak_mb)
    return measured


class Generation:
    """One case's prompts and the programs that go on from them; no id ends a row."""

    def __init__(self, space: Workspace, case: Case, base: str | None = None) -> None:
        """`base`: ours; default: SmolLM2."""
        self._space, self._case = space, case
        self._base = base or space.base(SMOLLM2)
        if case.rows is None:
            self._prompts = [chat["ids"] for chat in read_chats()
                             if len(chat["greedy"]) >= LONG_ANSWER]
        else:
            vocabulary = SHAPES[case.model].vocab_size
            self._prompts = [row["ids"] for row in case.rows.make(vocabulary)]
        # Of equal lengths but other beginnings: what a program keeps of them is of no use later.
        self._warm_up = [ids[::-1] for ids in self._prompts[:case.rows_per_step]]

    def prompts(self, repeat: int) -> list[list[int]]:
        begin = repeat * self._case.rows_per_step
        return [self._prompts[i % len(self._prompts)]
                for i in range(begin, begin + self._case.rows_per_step)]

    def ours(self, repeat: int) -> tuple[float, list[list[int]], float]:
        """Seconds, new ids and peak of a process that has warmed up on other prompts."""
        rows = self._warm_up + self.prompts(repeat)
        path = self._space.write_rows(self._case.name, [{"ids": ids} for ids in rows])
        argv = self._space.ours(
            "generate", "--base", self._base, "--ids", path, "--ignore-eos",
            "--batch", self._case.rows_per_step, "--max-tokens", self._case.new_tokens, "--timing",
            *self._case.our_options)
        done = run(argv, self._space.threads, self._space.log(f"{self._case.name}-ours"))
        ids = [line["ids"] for line in done.lines if "ids" in line]
        return done.lines[-1]["seconds"], ids[self._case.rows_per_step:], done.peak_mb

    def worker(self, peer: str) -> Worker:
        if peer == "transformers":
            argv = self._space.peer("generate_worker.py", "--model", self._space.model(SMOLLM2),
                                    "--threads", self._space.threads)
        else:
            argv = self._space.peer("llama_cpp_worker.py", "--model", self._space.gguf,
                                    "--threads", self._space.threads)
        return Worker(argv, self._space.threads, self._space.log(f"{self._case.name}-{peer}"))

    def warm_up(self, worker: Worker) -> None:
        self._ask(worker, self._warm_up)

    def peer(self, worker: Worker, repeat: int) -> tuple[float, list[list[int]]]:
        """Seconds and new ids."""
        answer = self._ask(worker, self.prompts(repeat))
        return answer["seconds"], answer["rows"]

    def _ask(self, worker: Worker, rows: list[list[int]]) -> dict[str, Any]:
        return worker.ask({"rows": rows, "new_tokens": self._case.new_tokens})[0]

    def tokens(self, repeat: int) -> int:
        """Counted in one repeat: new ones, or those of the prompt when one is asked for."""
        if self._case.new_tokens > 1:
            return self._case.rows_per_step * self._case.new_tokens
        return sum(map(len, self.prompts(repeat)))


def same_rows(ours: list[list[int]], peer: list[list[int]]) -> float:
    return sum(a == b for a, b in zip(ours, peer)) / len(ours)


def generate(space: Workspace, case: Case, repeats: int) -> Measured:
    """Tokens per second of one batch."""
    measured, generation = Measured.of(case), Generation(space, case)
    workers = {peer: generation.worker(peer) for peer in case.peers}
    try:
        for worker in workers.values():
            generation.warm_up(worker)
        for repeat in range(repeats):
            seconds, rows, peak_mb = generation.ours(repeat)
            measured.ours.add(generation.tokens(repeat) / seconds, peak_mb)
            for peer, worker in workers.items():
                seconds, peer_rows = generation.peer(worker, repeat)
                measured.peers[peer].add(generation.tokens(repeat) / seconds, worker.peak_mb())
                measured.notes[f"same_rows {peer}"] = same_rows(rows, peer_rows)
    finally:
        for worker in workers.values():
            worker.close()
    return measured


KINDS = {"train": train, "adapters": adapters, "job": job, "start": start, "generate": generate}
