"""Runs one command for another process, and stops the command when that process ends.

    python -I -S supervise.py FD COMMAND...

FD is the read end of a pipe; only the other process holds the write end. End of file means that the other process
closed the pipe or died, even by SIGKILL: the command and everything it started are stopped. If one byte comes first,
the command may outlive the other process.
SIGTERM to this process also stops the command. The exit code is the command's, or 128 + N if signal N ended it.

This file imports nothing from the project, so it starts in a few hundredths of a second. It runs on Linux and macOS.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from types import FrameType

GRACE_SECONDS = 5.0
"""Seconds between the request to stop and SIGKILL."""


def main(arguments: list[str]) -> int:
    """Run the command in `arguments` and return its exit code."""
    watched, command = int(arguments[0]), arguments[1:]
    stop: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            stop.append(number)

    # Signals wake `select` through this pipe; without it, a signal just before `select` would go unnoticed.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        child = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    sources = [watched, woken]
    while child.poll() is None and not stop:
        ready, _, _ = select.select(sources, [], [])
        if woken in ready:
            os.read(woken, 512)
        if watched in ready:
            if os.read(watched, 1):
                sources.remove(watched)
            else:
                stop.append(signal.SIGTERM)
    code = _end(child)
    return code if code >= 0 else 128 - code


def _end(child: "subprocess.Popen[bytes]") -> int:
    """Stop the command's process group, with SIGKILL after the grace period, and return the command's exit code."""
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
        # Members of the group that still run after the grace period are killed below.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    _signal_group(child.pid, signal.SIGKILL)
    return child.wait()


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # the whole group has ended; macOS reports that as EPERM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
