"""The parts of tools/bench that need no peer. Run by ctest."""

import pathlib
import sys
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "tools/bench"
sys.path += [str(BENCH), str(BENCH / "peers")]
import file_types  # noqa: E402
import growth  # noqa: E402
import table  # noqa: E402
from cases import CASES, Case, Rows  # noqa: E402
from measure import rate_by_arrival  # noqa: E402
from process import BenchError, Finished, Worker, run  # noqa: E402
from row_order import Random, step_rows  # noqa: E402

RESULT = {"case": "dense", "ours": 1234.5, "peer": 138.0, "ratio": 8.94, "unit": "tok/s",
          "peak_mb_ours": 900, "peak_mb_peer": 3800, "machine": "a machine", "peer_name": "peft",
          "others": [], "gflops_ours": 80.0, "sgemm_peak_gflops": 160.0, "repeats": 5,
          "commit": "0123456"}


class RowsTest(unittest.TestCase):
    def test_rows_share_their_prefix_and_label_their_end(self) -> None:
        rows = Rows(count=3, length=10, labelled=4, shared=5).make(vocab_size=1000)
        self.assertEqual(len({tuple(row["ids"][:5]) for row in rows}), 1)
        self.assertEqual(len({tuple(row["ids"]) for row in rows}), 3)
        for row in rows:
            self.assertEqual(row["labels"], [-100] * 6 + row["ids"][6:])

    def test_every_training_case_has_rows_for_its_steps(self) -> None:
        for case in CASES.values():
            if case.kind != "generate":
                assert case.rows is not None
                self.assertGreaterEqual(case.rows.count, case.rows_per_step, case.name)

    def test_flops_count_the_head_for_labelled_tokens_only(self) -> None:
        def flops(labelled: int) -> float:
            return Case("x", "", "train", "3m", Rows(8, 100, labelled)).flops_per_unit()
        self.assertEqual(flops(50) - flops(0), 4 * 0.5 * 4096 * 192)


class RowOrderTest(unittest.TestCase):
    def test_splitmix64_gives_the_published_values(self) -> None:
        draw = Random(1234567)
        self.assertEqual([draw.next_u64() for _ in range(3)],
                         [6457827717110365317, 3203168211198807973, 9817491932198370423])

    def test_each_epoch_takes_every_row_once_in_its_own_order(self) -> None:
        steps = list(step_rows(seed=1, num_rows=10, rows_per_step=4, epochs=2))
        self.assertEqual([len(step) for step in steps], [4, 4, 2, 4, 4, 2])
        first, second = sum(steps[:3], []), sum(steps[3:], [])
        self.assertEqual(sorted(first), list(range(10)))
        self.assertEqual(sorted(second), list(range(10)))
        self.assertNotEqual(first, second)


class TableTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_only_what_stands_between_the_markers_changes(self) -> None:
        readme = self.folder / "README.md"
        readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
        table.write(readme, table.markdown([RESULT]))
        text = readme.read_text()
        self.assertTrue(text.startswith(f"before\n{table.BEGIN}\n|"))
        self.assertTrue(text.endswith(f"{table.END}\nafter\n"))
        self.assertIn("| 1,234 tok/s | 138 tok/s | peft | **8.94x** | 17.88x |", text)
        self.assertNotIn("old", text)

    def test_a_readme_without_markers_is_refused(self) -> None:
        readme = self.folder / "README.md"
        readme.write_text("nothing")
        with self.assertRaisesRegex(BenchError, "needs one <!-- bench:begin -->"):
            table.write(readme, table.markdown([RESULT]))
        self.assertEqual(readme.read_text(), "nothing")

    def test_results_come_back_in_the_order_of_the_cases(self) -> None:
        for name in ("start", "dense"):
            table.store(self.folder, RESULT | {"case": name})
        self.assertEqual([r["case"] for r in table.stored(self.folder)], ["dense", "start"])


class GrowthTest(unittest.TestCase):
    def test_each_sweep_is_a_table_of_its_own(self) -> None:
        measured = [growth.Point("rank", 4, 170.0, 900), growth.Point("rank", 8, 165.5, 910),
                    growth.Point("rows", 1, 99.0, 800)]
        lines = growth.markdown(measured, "footer").splitlines()
        self.assertEqual(lines[:4], ["| rank | 4 | 8 |", "|---|---|---|",
                                     "| tokens/s | 170 | 166 |", "| peak MB | 900 | 910 |"])
        self.assertEqual(lines[5:], ["| rows | 1 |", "|---|---|", "| tokens/s | 99 |",
                                     "| peak MB | 800 |", "", "footer"])

    def test_each_point_has_rows_for_its_steps_and_a_rank_that_fits_the_layers(self) -> None:
        for _, _, case in growth.points():
            assert case.rows is not None
            self.assertEqual(case.rows.count, 3 * case.rows_per_step)
            own = case.recipe().get("rank_pattern", {})  # SmolLM2's widths
            for module, width in (("q_proj", 576), ("k_proj", 192), ("v_proj", 192)):
                self.assertLessEqual(own.get(module, case.rank), width, module)


class ProcessTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.log = pathlib.Path(folder.name) / "log"

    def test_a_failed_program_is_named_with_the_end_of_its_stderr(self) -> None:
        argv = [sys.executable, "-c", "import sys; sys.exit('out of luck')"]
        with self.assertRaisesRegex(BenchError, "(?s)exit status 1.*out of luck"):
            run(argv, 1, self.log)
        worker = Worker(argv, 1, self.log)
        with self.assertRaisesRegex(BenchError, "(?s)exit status 1.*out of luck"):
            worker.ask("anything")
        worker.close()

    def test_peak_memory_is_the_programs_own(self) -> None:
        argv = [sys.executable, "-c", "x = bytearray(200_000_000); print('{}')"]
        done = run(argv, 1, self.log)
        self.assertEqual(done.lines, [{}])
        self.assertGreater(done.peak_mb, 200)
        self.assertLess(done.peak_mb, 300)


class FileTypesTest(unittest.TestCase):
    def test_each_type_is_a_line_with_its_ratio_and_equal_chats(self) -> None:
        points = [file_types.Point("Q4_1", 170.0, 85.0, 372, 0.375),
                  file_types.Point("F16", 50.0, 100.0, 700, 1.0)]
        lines = file_types.markdown(points, "footer").splitlines()
        self.assertEqual(lines[2], "| Q4_1 | 170 tok/s | 85 tok/s | 2.00x | 372 MB | 38% |")
        self.assertEqual(lines[3], "| F16 | 50 tok/s | 100 tok/s | 0.50x | 700 MB | 100% |")
        self.assertEqual(lines[0].count("|"), lines[1].count("|"))
        self.assertEqual(lines[-1], "footer")


class RateTest(unittest.TestCase):
    def test_lines_of_several_adapters_are_timed_by_their_arrival(self) -> None:
        lines = [{"step": step, "tokens": 10, "job": job} for step in (1, 2, 3) for job in "ab"]
        lines.append({"job": "a", "steps": 3})  # the adapter is written
        done = Finished(lines, [1.0, 1.1, 2.0, 2.1, 4.0, 4.1, 9.0], 9.5, 1.0)
        self.assertAlmostEqual(rate_by_arrival(done, 1), 40 / 3)
        self.assertAlmostEqual(rate_by_arrival(done, 2), 20 / 2)


if __name__ == "__main__":
    unittest.main()
