"""Compares the `evaluation.json` of two runs.

    python -m mammopipe.training.fitting.reproducibility FIRST SECOND [--tolerance X]

On the same machine, the same seed gives the same bytes except for `TIMES`. Another processor or another number of
threads adds numbers in another order. With the same weights, the figures then differ by at most `TOLERANCE`. Training
amplifies such differences step by step and gives a different network; compare such networks by their intervals.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TIMES = ("seconds",)
"""Keys of `evaluation.json` that hold durations."""
TOLERANCE = 1e-3
"""Largest accepted difference of a value for the same weights and images on another machine.

With other convolution kernels and another number of threads, the measured difference was at most 2.4e-5, and below 1e-5
except for one point of a plot (`tests/training/fitting/test_reproducibility.py`). The rest is a margin for other
processors.
"""
STATEMENT = (
    "Same seed, data and code on the same machine: the same bytes of evaluation.json except for the keys "
    f"{', '.join(TIMES)}. The same weights on another machine: every figure differs by at most {TOLERANCE:g}. Training "
    "on another machine, or with another number of threads, gives a different network: compare intervals, not digits."
)


def differences(first: Any, second: Any, *, tolerance: float = 0.0, path: str = "") -> Iterator[str]:
    """Yield a line for each value that differs between two evaluations.

    Durations are ignored; numbers differ if they are more than `tolerance` apart.
    """
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            if key in TIMES:
                continue
            where = f"{path}/{key}".lstrip("/")
            if key not in first or key not in second:
                yield f"{where}: only in the {'second' if key in second else 'first'}"
            else:
                yield from differences(first[key], second[key], tolerance=tolerance, path=where)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, (left, right) in enumerate(zip(first, second, strict=True)):
            yield from differences(left, right, tolerance=tolerance, path=f"{path}/{index}")
    elif not _equal(first, second, tolerance):
        yield f"{path}: {first!r} and {second!r}"


def _equal(first: Any, second: Any, tolerance: float) -> bool:
    if isinstance(first, float | int) and isinstance(second, float | int):
        return math.isclose(first, second, rel_tol=0, abs_tol=tolerance)
    return bool(first == second)


def main(arguments: Sequence[str]) -> int:
    """Print the differences between two files; return 1 if there are any, else 0."""
    parser = argparse.ArgumentParser(prog="python -m mammopipe.training.fitting.reproducibility", description=__doc__)
    parser.add_argument("files", nargs=2, type=Path, metavar="evaluation.json")
    parser.add_argument(
        "--tolerance", type=float, default=0.0, help=f"largest accepted difference; {TOLERANCE:g} suits another machine"
    )
    options = parser.parse_args(arguments)
    first, second = (json.loads(path.read_text(encoding="utf-8")) for path in options.files)
    found = list(differences(first, second, tolerance=options.tolerance))
    print("\n".join(found) if found else f"the same except for {', '.join(TIMES)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
