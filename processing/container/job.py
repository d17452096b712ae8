"""How every container job ends: with a reason that SageMaker can show, and an exit code that says who has to act."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Literal

from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.errors import MammopipeError
from mammopipe.processing.files import write_bytes

REASON_LIMIT = 1024
"""Characters of a reason that SageMaker keeps: a training job's `FailureReason`, a processing job's `ExitMessage`."""


def run(main: Callable[[Sequence[str]], None], reason_file: Literal["failure", "message"]) -> int:
    """Run `main` on the command line's arguments and return the exit code: 0 done, 1 the user's error, 2 our fault.

    The reason of a failure is written to `/opt/ml/output/<reason_file>`: training jobs are read from `failure`,
    processing jobs from `message`. Of a fault only its type is written, for its text could identify a patient.
    """
    try:
        main(sys.argv[1:])
    except MammopipeError as error:
        print(f"error: {error}", file=sys.stderr)
        _write_reason(reason_file, str(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        _write_reason(reason_file, f"{type(error).__name__}: a fault of mammopipe; its traceback is in the log")
        return 2
    return 0


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_reason(reason_file: str, reason: str) -> None:
    try:
        write_bytes(ContainerPaths.from_environment().output / reason_file, reason[:REASON_LIMIT].encode())
    except OSError as error:
        print(f"error: the reason could not be written: {error}", file=sys.stderr)
