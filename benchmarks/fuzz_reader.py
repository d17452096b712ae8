"""Reads mutated image files one after the other, and measures the exceptions, the time and the memory.

Run `python -m benchmarks.fuzz_reader [--cases 40000] [--first 0] [--seconds 600]`. Case n is the same on every machine
and the same as in tests/processing/images/test_fuzz.py. The script stops after `--seconds`. It prints as JSON: the
number of cases read, the longest processor time of a case, the growth of the process's memory, and the cases that broke
a rule: an undocumented exception, more than 2 s of processor time, more than 1.5 GB.
"""

import argparse
import json
import resource
import time
from collections import Counter
from typing import Any

import numpy as np

from mammopipe.processing.errors import ImageError, ReaderFaultError
from mammopipe.processing.images.mammogram import ReadConfig, identity_fields, read_mammogram
from tests.processing.conftest import LOSSLESS, LOSSY, item, write_dicom
from tests.processing.images.test_fuzz import HALVED, MAX_RESIDENT, MAX_SECONDS, mutate, seeds

SEED = 20240117


def outcome(data: bytes, config: ReadConfig) -> str:
    """Return `read`, the name of the documented error, or `fault: ` with the name of another exception."""
    try:
        read_mammogram(data, config=config)
        identity_fields(data)
    except ReaderFaultError as error:
        return f"fault: {str(error).split()[-1]}"
    except ImageError as error:
        return type(error).__name__
    except Exception as error:  # An undocumented exception is the fault that this script looks for.
        return f"fault: {type(error).__name__}"
    return "read"


def fuzz(cases: range, seconds: float) -> dict[str, Any]:
    """Return the outcomes of the cases that could be read within the time."""
    files = seeds(write_dicom, item, {"lossless": LOSSLESS, "lossy": LOSSY})
    outcomes: Counter[str] = Counter()
    broken: list[str] = []
    slowest, begun = 0.0, time.monotonic()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in cases:
        if time.monotonic() - begun > seconds:
            break
        data = mutate(files[number % len(files)], np.random.default_rng([SEED, number]))
        started = time.process_time()
        result = outcome(data, HALVED if number % 3 == 0 else ReadConfig())
        spent = time.process_time() - started
        outcomes[result] += 1
        slowest = max(slowest, spent)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) * 1024
        if result.startswith("fault") or spent > MAX_SECONDS or grown > MAX_RESIDENT:
            broken.append(f"{number}: {result}, {spent:.1f} s, {grown / 2**20:.0f} MiB")
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 1024
    return {
        "cases": outcomes.total(),
        "outcomes": dict(outcomes.most_common()),
        "slowest_s": round(slowest, 3),
        "memory_growth_mib": round(growth, 1),
        "broken": broken,
    }


def main() -> int:
    """Print the outcomes; returns 1 if a case broke a rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seconds", type=float, default=600.0)
    options = parser.parse_args()
    found = fuzz(range(options.first, options.first + options.cases), options.seconds)
    print(json.dumps(found, indent=2))
    return int(bool(found["broken"]))


if __name__ == "__main__":
    raise SystemExit(main())
