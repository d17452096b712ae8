"""Process settings of the server: end with the parent process, leave no core file, yield to other processes."""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

_SET_PARENT_DEATH_SIGNAL, _SET_DUMPABLE = 1, 4
"""PR_SET_PDEATHSIG and PR_SET_DUMPABLE of prctl(2)."""


def end_with_parent(parent: int | None = None) -> None:
    """Let the system kill this process when its parent ends, for whatever reason. Does nothing except on Linux."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    # The parent may have ended before that call. The closed channel shows it too, but not to a worker that computes.
    if parent is not None and os.getppid() != parent:
        os._exit(0)


def prevent_core_files() -> None:
    """Prevent core files, because this process's memory holds patients' images.

    The system ignores the limit if it pipes core files into a program (core(5)). A process that is not dumpable leaves
    no core file in either case.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_DUMPABLE, 0)


def compute_in_batches() -> None:
    """Mark this process as one that computes (SCHED_BATCH of sched(7)): it does not interrupt other processes.

    With all cores busy, the server then receives and answers in between at once, and no worker waits for it long.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a container may forbid the call; it is no more than advice
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
