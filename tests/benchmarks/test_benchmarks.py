"""The benchmarks' own arithmetic: which figures hold, and the table that docs/BENCHMARKS.md shows."""

import importlib
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_scale
from benchmarks.__main__ import FOLDER, module_of
from benchmarks.bench_scale import Measured
from benchmarks.rows import holds, row, write
from benchmarks.serving import bench_drift
from benchmarks.serving.process_memory import MemoryWatch
from benchmarks.table import fill_in, table
from mammopipe.inference.monitoring.captures import CapturedExam, CapturedImage
from mammopipe.inference.monitoring.drift import DriftConfig, gather
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.drift_features import FIGURES

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"

FAST = row("read, times decode", 1.02, "x", 1.15, "lower", "python -m x", decode=1.0)
SLOW = row("two processes against one", 1.5, "x", 1.8, "higher", "python -m x")
PLAIN = row("images a second", 20.123456, "images/s", None, "higher", "python -m x")


def test_a_bar_is_a_limit_in_its_own_direction() -> None:
    assert holds(FAST) and not holds(SLOW) and holds(PLAIN)
    assert not holds({**FAST, "value": 1.16}) and holds({**SLOW, "value": 1.8})


def test_the_table_shows_what_was_missed() -> None:
    lines = table([FAST, SLOW, PLAIN]).splitlines()
    assert lines[2:] == [
        "| read, times decode | 1.02 x | at most 1.15 |",
        "| two processes against one | **1.5 x** (missed) | at least 1.8 |",
        "| images a second | 20.1 images/s |  |",
    ]


def test_the_table_replaces_what_stands_between_the_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    fill_in(readme, [FAST])
    fill_in(readme, [FAST])
    assert readme.read_text(encoding="utf-8") == f"before\n{BEGIN}\n{table([FAST])}{END}\nafter\n"


def test_measured_figures_leave_the_other_lines_of_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{table([FAST, SLOW])}{END}\nafter\n", encoding="utf-8")
    faster = {**FAST, "value": 0.9}
    fill_in(page, [PLAIN, faster])
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n{table([faster, SLOW, PLAIN])}{END}\nafter\n"


def test_measured_rows_leave_the_other_rows_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "benchmarks.json"
    write(file, [FAST, SLOW])
    faster = {**FAST, "value": 0.9}
    write(file, [PLAIN, faster])
    assert json.loads(file.read_text(encoding="utf-8")) == [faster, SLOW, PLAIN]
    for damaged in ("{", "[1]", '[{"value": 1}]', '{"name": 1}'):
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"benchmarks\.json: is not a list of benchmark rows"):
            write(file, [FAST])
        assert file.read_text(encoding="utf-8") == damaged


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here", encoding="utf-8")
    with pytest.raises(ConfigError, match="benchmarks: begin"):
        fill_in(readme, [FAST])
    assert readme.read_text(encoding="utf-8") == "nothing here"


def test_the_page_has_the_place_for_its_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "BENCHMARKS.md").read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)


def test_drawn_weeks_are_those_that_the_monitor_makes_of_requests() -> None:
    rng = np.random.default_rng(3)
    pools = [
        [tuple({name: float(rng.normal(shift)) for name in FIGURES} for _ in range(2)) for _ in range(12)]
        for shift in (0, 1)
    ]
    tables = [bench_drift.table_of(pool) for pool in pools]
    drawn = bench_drift.weeks_of(*tables, np.random.default_rng(5), machines=("B",))
    again, requests = np.random.default_rng(5), []
    for week in range(bench_drift.WEEKS):
        for number, patient in enumerate(again.integers(12, size=bench_drift.EXAMS)):
            machine = bench_drift.MACHINES[number % 3]
            images = pools[int(machine == "B" and week >= bench_drift.QUIET)][patient]
            moment = bench_drift.START + timedelta(weeks=week)
            requests.append(CapturedExam(moment, tuple(CapturedImage(image, machine) for image in images)))
    made = gather(requests, DriftConfig())
    assert drawn.keys() == made.keys()
    for group, weeks in made.items():
        for mine, theirs in zip(drawn[group], weeks, strict=True):
            assert (mine.start, mine.exams, mine.images) == (theirs.start, theirs.exams, theirs.images)
            assert {name: sorted(values) for name, values in mine.values.items()} == {
                name: sorted(values) for name, values in theirs.values.items()
            }


def test_the_table_of_drift_is_made_of_its_rows() -> None:
    rows = [row("drift, quiet: share of 100 weeks with a false alarm", 0.065, "share", 0.17, "lower", "x")]
    for who, value, slowest, never in (("all machines", 1.0, 50, 0), ("one machine of three", 3.5, 93, 1)):
        rows.append(
            row(
                f"drift, other machine, {who}: weeks to the alarm, median",
                value,
                "weeks",
                None,
                "lower",
                "x",
                slowest=slowest,
                never=never,
            )
        )
    table_ = bench_drift.markdown(rows).splitlines()
    assert table_[2:] == ["| other machine | 1 (50) | 3.5 (never) |"]
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "drift.md").read_text(encoding="utf-8")
    assert "\n".join(table_[:2]) in page
    assert all(f"| {shift} |" in page for shift in bench_drift.SHIFTS)


def test_growth_compares_the_time_of_one_image() -> None:
    small, large = (
        Measured(images, {"stage": 2.0, "Prepare": seconds}, {"prepare": 10**9}, {"prepare": seconds}, 10**6, {})
        for images, seconds in ((100, 8.0), (200, 30.0))
    )
    assert bench_scale.growth(small, large) == pytest.approx(1.6)
    assert bench_scale.growth(small, large, "stage") == pytest.approx(0.5)
    assert [found["value"] for found in bench_scale.figures([small, large])[-1:]] == [1.6]


def test_the_watch_sees_the_peak_of_a_process_below_another() -> None:
    grandchild = "import sys; kept = bytearray(150_000_000); print(1, flush=True); sys.stdin.read()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}], check=True)"
    process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.read(1) == b"1"
    watch, other = MemoryWatch(process.pid), MemoryWatch(os.getppid() + 10**7)
    watch.look()
    other.look()
    process.communicate()
    assert 150_000_000 < watch.peaks["benchmark"] < 400_000_000
    assert other.peaks == {} and 0 < watch.cpu_seconds["benchmark"] < 60


@pytest.mark.parametrize("module", sorted(module_of(path) for path in FOLDER.rglob("[a-z]*.py")))
def test_every_benchmark_can_be_imported(module: str) -> None:
    importlib.import_module(module)


def test_the_rows_of_scale_fill_the_pages(tmp_path: Path) -> None:
    runs = [
        Measured(
            images,
            dict.fromkeys(("stage", *bench_scale.STEPS), seconds),
            {"prepare": 2 * 10**9},
            {"prepare": seconds},
            10**6,
            {},
        )
        for images, seconds in ((1000, 6.0), (54706, 300.0))
    ]
    (tmp_path / "how-to").mkdir()
    growing, every = tmp_path / "how-to" / "growing.md", tmp_path / "BENCHMARKS.md"
    growing.write_text("text\n<!-- scale: begin -->\nold\n<!-- scale: end -->\n")
    every.write_text("<!-- benchmarks: begin -->\n<!-- benchmarks: end -->\n")
    bench_scale.fill_pages(bench_scale.figures(runs), tmp_path)
    lines = growing.read_text().splitlines()
    assert "| 54,706 | 300 s | 300 s | 300 s | 300 s | 300 s | 300 s | 30.0 min | 2.00 GB |" in lines
    assert "| an image, 1,000 to 54,706 images |" + " 0.91 x |" * 7 + " |" in lines and "old" not in lines
    assert "| RSNA pipeline, 54,706 images: hours in all | 0.5 h | at most 2 |" in every.read_text().splitlines()
