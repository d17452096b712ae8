"""Measures the time from a label table of full size to a written manifest with splits.

Run `python -m benchmarks.data.bench_manifest [--rsna FOLDER] [--repeats 5]`: a JSON list on stdout. Without `--rsna` (a
folder with `train.csv`), a table with as many rows is generated. Seconds are wall time, the best of the repeats. The
other figure is the ratio to reading the same table with pandas, which alternates with it.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas

from benchmarks.rows import Row, row
from mammopipe.processing.datasets.manifest import write_manifest
from mammopipe.processing.datasets.registry import read_labels
from mammopipe.processing.datasets.rsna import COLUMNS, LABEL_TABLE
from mammopipe.processing.files import write_csv
from mammopipe.processing.splits.assignment import assign_splits

COMMAND = "python -m benchmarks.data.bench_manifest"
ROWS = 54_706
SECONDS_BAR, RATIO_BAR = 5.0, 150.0


def make_table(path: Path) -> None:
    """Write a table of the real one's size, of patients with four views.

    One in ten has cancer and one in ten a benign biopsy, so that small parts of the table can be split, too.
    """
    rng = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        patient = number // 4
        cancer, biopsy = (int(patient % 10 in kinds and number % 4 < 2) for kinds in ((0,), (0, 5)))
        values = (
            1 + patient % 2, 10_000 + patient, 10_000_000 + number, "LR"[number % 4 // 2], ("CC", "MLO")[number % 2],
            float(rng.integers(30, 90)), cancer, biopsy, cancer, ("", "0.0", "1.0", "2.0")[patient % 4], 0,
            ("", "A", "B", "C", "D")[patient % 5], (21, 29, 49)[patient % 3], bool(patient % 7 == 0),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    write_csv(path, list(COLUMNS), rows)


def measure(table: Path, target: Path, repeats: int) -> dict[str, float]:
    """Return the shortest time of each member in seconds; they alternate."""
    members: dict[str, Callable[[], object]] = {
        "manifest": lambda: write_manifest(assign_splits(read_labels("rsna", table)), target),
        "pandas": lambda: pandas.read_csv(table),
    }
    seconds: dict[str, list[float]] = {name: [] for name in members}
    for _ in range(repeats):
        for name, member in members.items():
            started = time.perf_counter()
            member()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(times) for name, times in seconds.items()}


def figures(seconds: dict[str, float], rows: int) -> list[Row]:
    """Return the rows of the benchmark."""
    label = f"{rows:,} rows to a split manifest"
    peers = {f"{name}_seconds": value for name, value in seconds.items()}
    ratio = seconds["manifest"] / seconds["pandas"]
    return [
        row(label, seconds["manifest"], "s", SECONDS_BAR, "lower", COMMAND, **peers),
        row(f"{label}, times pandas.read_csv", ratio, "x", RATIO_BAR, "lower", COMMAND),
    ]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rsna", type=Path, help=f"folder with {LABEL_TABLE}")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        table = (options.rsna or Path(name)) / LABEL_TABLE
        if options.rsna is None:
            make_table(table)
        seconds = measure(table, Path(name, "manifest.csv"), options.repeats)
        rows = len(read_labels("rsna", table))
    print(json.dumps(figures(seconds, rows), indent=2))


if __name__ == "__main__":
    main()
