"""Which captures a judgement needs: their names hold the hour (UTC), so that older ones are neither fetched nor read.

    <prefix>/<endpoint>/<variant>/yyyy/mm/dd/hh/<name>.jsonl

Source: "Capture data from real-time endpoint" (SageMaker Developer Guide).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

MONDAY = date(1970, 1, 5)
"""Where windows are counted from, so that those of a week are calendar weeks."""
SUFFIX = ".jsonl"
PROGRESS = "captures: "
"""What lines of the job begin with that say how far it is."""
_HOUR = re.compile(r"(?:^|/)(\d{4}/\d{2}/\d{2})/\d{2}/[^/]+$")


@dataclass(frozen=True)
class Windows:
    """The windows that captures are judged in: the newest ones, counted back from the newest capture."""

    days: int = 7
    """Days of one window."""
    number: int = 26
    """Windows that are looked at."""

    def start_of(self, day: date) -> date:
        """Return the first day of the window that a day falls into."""
        return day - timedelta(days=(day - MONDAY).days % self.days)

    def needed(self, names: Sequence[str]) -> list[str]:
        """Return the names (keys, paths) of captures in these windows, and those that tell no day."""
        days = [day_of(name) for name in names]
        newest = max(filter(None, days), default=MONDAY)
        first = self.start_of(newest) - timedelta(days=self.days * (self.number - 1))
        return [name for name, day in zip(names, days, strict=True) if day is None or day >= first]


def day_of(name: str) -> date | None:
    """Return the day that a capture's name tells; None where it tells none."""
    found = _HOUR.search(name)
    try:
        return date.fromisoformat(found[1].replace("/", "-")) if found else None
    except ValueError:
        return None
