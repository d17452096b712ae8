"""Process settings of the server: end with the parent process, and leave no core file."""

import ctypes
import os
import resource
import signal
import sys

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
