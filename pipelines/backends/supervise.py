"""Runs one command for another process, and ends it when that process is gone.

    python -I -S supervise.py FD COMMAND...

FD is the reading end of a pipe whose only writing end the other process holds. End of file there (it closed the pipe,
or died, be it by SIGKILL) stops the command and everything it started; one byte first means that the command may
outlive it.
SIGTERM to this process stops the command as well. The exit code is the command's, or 128 + N when signal N ended it.

This file imports nothing of the project, so it starts in a few hundredths of a second; it runs on Linux and macOS.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from types import FrameType

GRACE_SECONDS = 5.0
"""Time between the request to stop and SIGKILL."""


def main(arguments: list[str]) -> int:
    """Run the command of `arguments` to its end and return its exit code."""
    watched, command = int(arguments[0]), arguments[1:]
    stop: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            stop.append(number)

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
    """Stop the command's process group, the hard way after a while, and return the command's code."""
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
        # Whatever is left of the group when the grace is over is killed below.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    _signal_group(child.pid, signal.SIGKILL)
    return child.wait()


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # the whole group has ended; macOS says so by EPERM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
