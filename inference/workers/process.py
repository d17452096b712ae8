"""What every process of the server asks of the system: to end with its parent, and to leave no core file."""

import ctypes
import os
import resource
import signal
import sys

_SET_PARENT_DEATH_SIGNAL, _SET_DUMPABLE = 1, 4
"""PR_SET_PDEATHSIG and PR_SET_DUMPABLE of prctl(2)."""


def end_with_parent(parent: int | None = None) -> None:
    """Have the system kill this process when its parent ends, however that ends; elsewhere than on Linux do nothing."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    # The parent may have gone before that call; then the channel's end says so, but not to a worker that computes.
    if parent is not None and os.getppid() != parent:
        os._exit(0)


def prevent_core_files() -> None:
    """Have a crash leave no image of this process's memory, which holds patients' images.

    The limit alone is not obeyed where the system pipes core files into a program (core(5)); a process that is not
    dumpable has none in either case.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_DUMPABLE, 0)
