"""The log: JSON lines on standard output that never fail, delay or end a request.

A pipe whose reader has stopped, a full disk and a closed descriptor each stop a plain `print`: by blocking the event
loop or by raising inside of a request. Here a line that cannot be written at once is dropped and counted. The count is
part of the next line that can be written, `/ping` says that the log is degraded, and requests go on.
"""

import json
import logging
import os
import select
import sys
import time
from typing import Any

from mammopipe.inference.contract.errors import fault_trace

PIECE_BYTES = 4096
"""PIPE_BUF of Linux: as many bytes as a pipe that is ready takes without blocking (pipe(7))."""


class Log:
    """Writes one JSON line an event. Belongs to one thread."""

    def __init__(self, descriptor: int | None) -> None:
        """Write to an open descriptor; `None`: there is none, and every line is dropped."""
        self._descriptor = descriptor
        self._rest = b""
        self.dropped = 0
        """Lines that were dropped since the last one that was written."""

    @classmethod
    def standard_output(cls) -> "Log":
        """Return the log on standard output; a process can be started without one."""
        try:
            descriptor = sys.stdout.fileno()
            os.fstat(descriptor)
        except (AttributeError, OSError, ValueError):
            return cls(None)
        return cls(descriptor)

    @property
    def degraded(self) -> bool:
        """Whether the last line was dropped."""
        return self.dropped > 0

    def __call__(self, event: str, **facts: Any) -> None:
        """Write one event; where that cannot be done at once, count the line and go on."""
        counted = {"dropped_lines": self.dropped} if self.dropped else {}
        try:
            line = json.dumps({"event": event, "time": round(time.time(), 3), **facts, **counted}).encode() + b"\n"
        except (TypeError, ValueError):
            self.dropped += 1
            return
        # The rest of a line that was cut off comes first, so that every line is a whole one.
        self._rest = self._written(self._rest)
        left = line if self._rest else self._written(line)
        if left is line:
            self.dropped += 1
            return
        self._rest = self._rest or left
        self.dropped = 0

    def _written(self, data: bytes) -> bytes:
        """Write as much as can be written now and return what is left; `data` itself where nothing could be."""
        if self._descriptor is None:
            return data
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        try:
            while data and ready.poll(0):
                data = data[os.write(self._descriptor, data[:PIECE_BYTES]) :]
        except OSError:
            return data
        return data


def log_libraries(log: Log) -> None:
    """Write warnings and errors of libraries to the log, without the values that they are about.

    Python writes them to standard error otherwise, which can block, and with the texts of exceptions, which can quote
    what a file says of a person.
    """
    root = logging.getLogger()
    root.handlers = [_Libraries(log)]


class _Libraries(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write the name of the library, the first line of its message's template and where a fault happened."""
        error = record.exc_info[1] if record.exc_info else None
        facts = {"fault": fault_trace(error)} if error is not None else {}
        text = str(record.msg).splitlines()[0][:200] if record.msg else ""
        self._log("library", logger=record.name, level=record.levelname.lower(), message=text, **facts)
