"""tools/bench/device_table.py with programs that only pretend. Run by ctest."""

import pathlib
import subprocess
import sys
import tempfile
import textwrap
import unittest

TABLE = pathlib.Path(__file__).resolve().parents[2] / "tools/bench/device_table.py"

# Has memory for --micro-batch up to 4096, for the model "big" for none; 1000 tokens a second,
# half of it without graphs.
PRETENDER = textwrap.dedent("""\
    #!{python}
    import json, sys
    graphs = "--no-graphs" not in sys.argv
    words = [word for word in sys.argv[1:] if word != "--no-graphs"]
    given = dict(zip(words[::2], words[1::2]))
    micro = int(given["--micro-batch"])
    if given["--model"] == "broken":
        sys.exit("no such thing")
    if micro > 4096 or given["--model"] == "big":
        sys.exit("device: CUDA out of memory. Tried to allocate")
    print("a warning")
    print(json.dumps({{"tokens_per_second": 1000.0 if graphs else 500.0, "peak_bytes": 2**31, "micro_batch": micro,
                      "tokens_per_step": int(given["--tokens"])}}))
    """)


def run_table(*arguments: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "program"
        program.write_text(PRETENDER.format(python=sys.executable))
        program.chmod(0o755)
        return subprocess.run([sys.executable, TABLE, "--program", program, *arguments],
                              capture_output=True, text=True, check=False)


def table_of(*arguments: str, status: int = 0) -> list[str]:
    run = run_table(*arguments)
    if run.returncode != status:
        raise AssertionError(f"ends with {run.returncode}, not {status}: {run.stderr}")
    return [line for line in run.stdout.splitlines() if line.startswith("| ")]


class DeviceTableTest(unittest.TestCase):
    def test_a_step_is_cut_in_halves_until_it_fits(self) -> None:
        rows = table_of("--models", "x", "--lengths", "512,2048", "--tokens", "16384")
        self.assertEqual(rows[0], "| model | row | evolora | without graphs | PEFT |")
        for length, row in zip((512, 2048), rows[1:]):
            self.assertEqual(
                row, f"| x | {length} | 1,000, 2.0 GiB, 4096 at once "
                     "| 500 (2.00x), 2.0 GiB, 4096 at once | not installed |")

    def test_what_does_not_fit_or_fails_says_so(self) -> None:
        rows = table_of("--models", "big,broken,x", "--lengths", "512", "--tokens", "4096",
                        status=1)
        self.assertEqual(rows[1], "| big | 512 | out of memory | out of memory | not installed |")
        self.assertEqual(rows[2], "| broken | 512 | failed | failed | not installed |")
        self.assertEqual(
            rows[3], "| x | 512 | 1,000, 2.0 GiB | 500 (2.00x), 2.0 GiB | not installed |")

    def test_a_model_too_large_is_no_failure(self) -> None:
        rows = table_of("--models", "big", "--lengths", "512", "--tokens", "4096")
        self.assertEqual(rows[1], "| big | 512 | out of memory | out of memory | not installed |")

    def test_a_failure_is_named_at_the_end(self) -> None:
        run = run_table("--models", "broken", "--lengths", "512", "--tokens", "4096")
        self.assertEqual(run.stderr.splitlines()[-1],
                         "device_table: evolora's own benchmark failed")

    def test_rows_longer_than_a_step_are_left_out(self) -> None:
        self.assertEqual(len(table_of("--models", "x", "--lengths", "8192", "--tokens", "4096")), 1)


if __name__ == "__main__":
    unittest.main()
