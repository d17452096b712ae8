"""Runs a container job; a failure leaves a reason that SageMaker shows, and an exit code for the kind of cause."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Literal

from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.errors import LostProcessError, MammopipeError
from mammopipe.processing.files import disk_fault, write_bytes

REASON_LIMIT = 1024
"""Characters that SageMaker keeps of a reason: `FailureReason` of a training job, `ExitMessage` of a processing job."""
NO_DISK = os.EX_IOERR
"""Exit code of a job whose disk is full or read-only, so that the reason may be missing."""


def run(main: Callable[[Sequence[str]], None], reason_file: Literal["failure", "message"]) -> int:
    """Run `main` with the command line and return the exit code: 0 success, 1 user error, 2 bug, 74 disk (`NO_DISK`).

    The reason for a failure is written to `/opt/ml/output/<reason_file>`: SageMaker reads `failure` for training jobs
    and `message` for processing jobs. Of an unexpected exception only the type is written, because its text could
    identify a patient.
    """
    try:
        main(sys.argv[1:])
    except MammopipeError as error:
        print(f"error: {error}", file=sys.stderr)
        # The lost process may have run on this host and written the cause, which must not be overwritten.
        _write_reason(reason_file, str(error), replaces=not isinstance(error, LostProcessError))
        return 1
    except Exception as error:
        if fault := disk_fault(error):
            reason = f"{fault}: the job's disk (on AWS, compute.processing_volume_gb and training_volume_gb)"
            with contextlib.suppress(OSError):  # the log may lie on the same disk; the exit code also names the cause
                print(f"error: {reason}", file=sys.stderr)
                _write_reason(reason_file, reason)
            return NO_DISK
        traceback.print_exc()
        _write_reason(reason_file, f"{type(error).__name__}: a fault of mammopipe; its traceback is in the log")
        return 2
    return 0


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_reason(reason_file: str, reason: str, *, replaces: bool = True) -> None:
    try:
        path = ContainerPaths.from_environment().output / reason_file
        if replaces or not path.exists():
            write_bytes(path, reason[:REASON_LIMIT].encode())
    except OSError as error:
        print(f"error: the reason could not be written: {error}", file=sys.stderr)
