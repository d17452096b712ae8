"""Selects the captures of the newest windows by the hour (UTC) in their names; older ones are not fetched or read.

    <prefix>/<endpoint>/<variant>/yyyy/mm/dd/hh/<name>.jsonl

Source: "Capture data from real-time endpoint" (SageMaker Developer Guide).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

MONDAY = date(1970, 1, 5)
"""Origin of the windows, so that windows of 7 days are calendar weeks."""
SUFFIX = ".jsonl"
PROGRESS = "captures: "
"""Prefix of the job's progress lines."""
_HOUR = re.compile(r"(?:^|/)(\d{4}/\d{2}/\d{2})/\d{2}/[^/]+$")


@dataclass(frozen=True)
class Windows:
    """The windows of captures: the newest ones, counted back from the newest capture."""

    days: int = 7
    """Length of one window in days."""
    number: int = 26
    """Number of windows."""

    def start_of(self, day: date) -> date:
        """Return the first day of the window that contains a day."""
        return day - timedelta(days=(day - MONDAY).days % self.days)

    def needed(self, names: Sequence[str]) -> list[str]:
        """Return the names (keys or paths) of captures in these windows, and names without a day."""
        days = [day_of(name) for name in names]
        newest = max(filter(None, days), default=MONDAY)
        first = self.start_of(newest) - timedelta(days=self.days * (self.number - 1))
        return [name for name, day in zip(names, days, strict=True) if day is None or day >= first]


def day_of(name: str) -> date | None:
    """Return the day in a capture's name; `None` if the name has none."""
    found = _HOUR.search(name)
    try:
        return date.fromisoformat(found[1].replace("/", "-")) if found else None
    except ValueError:
        return None
