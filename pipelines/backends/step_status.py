"""The status of each step of a run, shown during the run and written to `execution.json`."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The status of a step or a run, in SageMaker's terms."""

    WAITING = "Waiting"
    EXECUTING = "Executing"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"
    NOT_EXECUTED = "NotExecuted"


@dataclass
class StepRecord:
    """One step of a run."""

    name: str
    type: str
    status: Status = Status.WAITING
    started: str | None = None
    """UTC, ISO 8601."""
    seconds: float | None = None
    reason: str = ""
    clock: float = 0.0
    """`time.monotonic()` of the start."""

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "clock"}


@dataclass
class StepStatuses:
    """The records of one run, in the order of the definition."""

    records: dict[str, StepRecord]
    changed: Callable[[list[StepRecord]], None]
    """Called whenever a step starts or ends."""
    failed: bool = field(default=False, init=False)
    """Whether a step has failed or was stopped."""

    @classmethod
    def of(cls, steps: Iterable[tuple[str, str]], changed: Callable[[list[StepRecord]], None]) -> "StepStatuses":
        """Return the statuses of steps that have not started; each step is given by name and type."""
        return cls({name: StepRecord(name, kind) for name, kind in steps}, changed)

    def note(self, name: str, status: Status, reason: str = "") -> None:
        """Record that a step has started, or how it has ended."""
        record = self.records[name]
        if status is Status.EXECUTING:
            record.clock, record.started = time.monotonic(), datetime.now(UTC).isoformat(timespec="milliseconds")
        else:
            record.seconds = round(time.monotonic() - record.clock, 3)
        record.status, record.reason = status, reason
        self.failed = self.failed or status in (Status.FAILED, Status.STOPPED)
        self.changed(list(self.records.values()))

    def settle(self) -> None:
        """Mark every unfinished step as stopped, or as never run."""
        for record in self.records.values():
            if record.status is Status.WAITING:
                record.status = Status.NOT_EXECUTED
            elif record.status is Status.EXECUTING:
                record.status, record.reason = Status.STOPPED, "stopped, because the run was ending"
        self.changed(list(self.records.values()))
