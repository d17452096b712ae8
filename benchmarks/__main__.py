"""Run every benchmark of this folder in turn and write `benchmarks.json`: `python -m benchmarks [NAME ...]`.

Rows of benchmarks that did not run, or that a benchmark no longer prints, stay unchanged in `benchmarks.json` and in
the page. Remove the row of an obsolete figure by hand.

A benchmark is a script `bench_NAME.py` that prints a JSON list of {name, value, unit, bar, better, peers, command}.
Only ratios within one run are comparable, because machines differ and the speed of one machine varies over time.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import Row, holds, write
from benchmarks.table import fill_in

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
HOURS = frozenset({"scale"})
"""Benchmarks that take hours and run only if they are named."""


def main(arguments: Sequence[str]) -> int:
    """Return 1 if a figure misses its bar, else 0."""
    found = {path.stem.removeprefix("bench_"): path for path in sorted(FOLDER.rglob("bench_*.py"))}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(found)} but {', '.join(sorted(HOURS))}"
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks.json")
    parser.add_argument("--page", action="store_true", help="also put the figures into the table of docs/BENCHMARKS.md")
    parser.add_argument("--rsna", type=Path, help="folder with train_images, for the benchmarks that read mammograms")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(found):
        parser.error(f"no benchmark called {', '.join(sorted(unknown))}; there are {', '.join(found)}")
    rows = [row for name in options.names or sorted(found.keys() - HOURS) for row in run(found[name], options.rsna)]
    write(options.output, rows)
    if options.page:
        fill_in(ROOT / "docs" / "BENCHMARKS.md", rows)
    for row in rows:
        verdict = "ok  " if holds(row) else "MISS"
        print(f"{verdict} {row['name']:<72} {row['value']:>9.3f} {row['unit']:<10} bar {row['bar']}")
    return 0 if all(map(holds, rows)) else 1


def run(script: Path, rsna: Path | None) -> list[Row]:
    """Return the rows that a benchmark prints; its progress goes to standard error."""
    command = [sys.executable, "-m", module_of(script)]
    # Only some benchmarks have the option; to import each in order to ask it would be slow.
    if rsna is not None and '"--rsna"' in script.read_text(encoding="utf-8"):
        command += ["--rsna", str(rsna.resolve())]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    rows: list[Row] = json.loads(done.stdout)
    return rows


def module_of(script: Path) -> str:
    """Return the module name of a file of this folder, as `benchmarks.data.bench_audit`."""
    return ".".join(script.relative_to(ROOT).with_suffix("").parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
