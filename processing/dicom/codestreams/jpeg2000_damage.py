"""Notices overwritten stretches in the coded data of JPEG 2000.

A decoder turns any bytes into samples. But with other bytes it usually needs more or fewer of them for the same number
of coding passes, while the packet headers still state the length of each code-block. OpenJPEG reports the difference if
the style of the code-blocks promises predictable termination (`jpeg2000.with_checked_ends` sets this bit). Code-blocks
of encoders that do not promise it end within a few bytes of the predicted end: such encoders flush a register of 27
bits (15444-1 C.2.9), or cut off bytes that a decoder adds again. So small differences are not damage.

The reports are log messages of imagecodecs. A logging filter collects them for the decoder that makes them, and drops
them from the log.
"""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_BYTES = 8
"""Greatest difference between the number of bytes that a code-block has and the number that its decoding takes."""
MOST_BLOCKS = 2**17
"""Images of more code-blocks are not checked, because a report of each would take too long. Writers make thousands."""
VERBOSE = 2
"""The level at which imagecodecs passes on OpenJPEG's warnings."""
_REPORT = re.compile(r"PTERM check failure: (\d+) ")


class _Collector(logging.Filter):
    """Collects the reports about code-blocks, and drops them and other warnings of the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.own = threading.local()
        """Its `found` holds the reports to the decoder of the current thread."""
        self.others: list[int] | None = None
        """The reports of the threads that one decoder started."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Collect the reports about a decoder that is being watched; let a record pass only if no decoder is."""
        found = getattr(self.own, "found", None)
        found = self.others if found is None else found
        report = _REPORT.search(record.getMessage())
        if found is not None and report:
            found.append(int(report[1]))
        return found is None


_COLLECTOR = _Collector()
_ONE_AT_A_TIME = threading.Lock()
logging.getLogger("imagecodecs").addFilter(_COLLECTOR)


@contextmanager
def differences(threads: int) -> Iterator[list[int]]:
    """Collect the differences, in bytes, that a decoder reports about code-blocks.

    Args:
        threads: The decoder's threads; with several, one decoder of this process works at a time.
    """
    found: list[int] = []
    if threads == 1:
        _COLLECTOR.own.found = found
        try:
            yield found
        finally:
            _COLLECTOR.own.found = None
        return
    with _ONE_AT_A_TIME:
        _COLLECTOR.others = found
        try:
            yield found
        finally:
            _COLLECTOR.others = None
