"""The log: JSON lines on standard output that never fail, delay or end a request.

A stopped reader of the pipe, a full disk or a closed descriptor would make a plain `print` block the event loop or
raise inside a request. This log drops and counts a line that cannot be written at once. The next line includes the
count, `/ping` reports that the log is degraded, and requests continue.
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
"""PIPE_BUF of Linux: the bytes that a ready pipe accepts without blocking (pipe(7))."""


class Log:
    """Writes one JSON line per event. Only one thread may use it."""

    def __init__(self, descriptor: int | None) -> None:
        """Write to an open descriptor; with `None` every line is dropped."""
        self._descriptor = descriptor
        self._rest = b""
        self.dropped = 0
        """Number of lines dropped since the last one written."""

    @classmethod
    def standard_output(cls) -> "Log":
        """Return the log on standard output; it drops every line if the process has no standard output."""
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
        """Write one event, or count the line as dropped if it cannot be written at once."""
        # The count travels with the first line that can be written again.
        counted = {"dropped_lines": self.dropped} if self.dropped else {}
        try:
            line = json.dumps({"event": event, "time": round(time.time(), 3), **facts, **counted}).encode() + b"\n"
        except (TypeError, ValueError):
            self.dropped += 1
            return
        # The rest of a truncated line is written first, so that every line is complete.
        self._rest = self._written(self._rest)
        left = line if self._rest else self._written(line)
        if left is line:
            self.dropped += 1
            return
        self._rest = self._rest or left
        self.dropped = 0

    def _written(self, data: bytes) -> bytes:
        """Write as much as possible without blocking and return the rest; `data` itself if nothing was written."""
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
    """Write warnings and errors of libraries to the log, without the values in their messages.

    By default Python writes them to standard error, which can block, and includes exception texts, which can quote
    personal data from a file.
    """
    root = logging.getLogger()
    root.handlers = [_Libraries(log)]


class _Libraries(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write the logger's name, the first line of the message template and the location of a fault."""
        error = record.exc_info[1] if record.exc_info else None
        facts = {"fault": fault_trace(error)} if error is not None else {}
        text = str(record.msg).splitlines()[0][:200] if record.msg else ""
        self._log("library", logger=record.name, level=record.levelname.lower(), message=text, **facts)
