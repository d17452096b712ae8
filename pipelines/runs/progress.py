"""Displays a run: a live table on a terminal, one line per event elsewhere."""

import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from mammopipe.pipelines.backends.jobs import last_line, tail
from mammopipe.pipelines.backends.step_status import Status, StepRecord

EPOCH = re.compile(r"epoch=(\d+) .*?validation_macro_auc=([0-9.a-z]+) .*?seconds=([0-9.]+)")
FOLD = re.compile(r"^fold=(\d+) ")
"""The line that a training job prints before the epochs of a fold."""
SLOW = ("Processing", "Training", "Tuning", "Transform", "Endpoint")
"""Step types whose start is worth a line."""
STYLES = {
    Status.WAITING: "dim",
    Status.EXECUTING: "bold cyan",
    Status.SUCCEEDED: "green",
    Status.FAILED: "bold red",
    Status.STOPPED: "yellow",
    Status.NOT_EXECUTED: "dim",
}


def console() -> Console:
    """Return the console for tables: as wide as the terminal, or 100 columns if there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 100)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal that `what` is in progress, beside other output; shows nothing without a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(what):
        yield


@dataclass
class RunProgress:
    """Shows the steps of a run while open as a context manager."""

    logs: Path
    console: Console = field(default_factory=console)
    _records: list[StepRecord] = field(default_factory=list)
    _announced: dict[str, Status] = field(default_factory=dict)
    _epochs: dict[str, int] = field(default_factory=dict)
    _printing: threading.Lock = field(default_factory=threading.Lock)
    """Held while lines are printed: the watcher and the thread of the run print the same epochs."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _live: Live | None = None

    def __enter__(self) -> "RunProgress":
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4)
            self._live.start()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watcher.join()
        if self._live is not None:
            self._live.stop()

    def changed(self, records: list[StepRecord]) -> None:
        """Update the display to the current status of the steps."""
        self._records = records
        if self._live is None:
            for record in records:
                if record.status is not self._announced.get(record.name, Status.WAITING):
                    self._announced[record.name] = record.status
                    self._print_epochs([record])
                    if record.status is not Status.NOT_EXECUTED and (record.seconds is not None or record.type in SLOW):
                        print(_line(record), flush=True)

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            if self._live is None:
                self._print_epochs(record for record in list(self._records) if record.status is Status.EXECUTING)

    def _print_epochs(self, records: Iterable[StepRecord]) -> None:
        for record in records:
            lines = list(_epochs(_read(self.logs / f"{record.name}.log"))) if record.type == "Training" else []
            with self._printing:
                for fold, epoch, score, seconds in lines[self._epochs.get(record.name, 0) :]:
                    where = f"  {record.name:<20} {fold}epoch {epoch:>3}"
                    print(f"{where}  validation AUC {score}  {seconds} s", flush=True)
                self._epochs[record.name] = max(len(lines), self._epochs.get(record.name, 0))
                if record.type == "Tuning":
                    self._print_trials(record)

    def _print_trials(self, record: StepRecord) -> None:
        """Print the trials of a search that have ended since the last call."""
        lines = _read(self.logs / f"{record.name}.log").splitlines()
        for line in lines[self._epochs[record.name] :]:
            print(f"  {record.name:<20} {line}", flush=True)
        self._epochs[record.name] = len(lines)

    def _table(self) -> Table:
        return steps_table(self._records, self.logs)


def steps_table(records: Iterable[StepRecord], logs: Path | None = None) -> Table:
    """Return the steps as a table; with `logs`, running steps show the last line of their log."""
    table = Table("step", "status", Column("time", justify="right"), "", box=None, pad_edge=False)
    for record in records:
        seconds = record.seconds
        note = record.reason
        if record.status is Status.EXECUTING and logs is not None:
            seconds, note = time.monotonic() - record.clock, _last_words(log_of(record, logs))
        table.add_row(
            record.name,
            Text(str(record.status), STYLES[record.status]),
            duration(seconds),
            Text(note, no_wrap=record.status is Status.EXECUTING, overflow="ellipsis"),
        )
    return table


def log_of(record: StepRecord, logs: Path) -> Path:
    """Return a step's log; for several instances, the log of the first."""
    log = logs / f"{record.name}.log"
    return log if log.is_file() else logs / f"{record.name}-algo-1.log"


def _last_words(log: Path) -> str:
    epochs = list(_epochs(tail(log, 2**14)))
    if epochs:
        fold, epoch, score, seconds = epochs[-1]
        return f"{fold}epoch {epoch}, validation AUC {score}, {seconds} s an epoch"
    return last_line(log)


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""


def _epochs(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield fold (empty if there is none), epoch, score and seconds of each epoch that a log reports completely."""
    fold = ""
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            return  # still being written
        if found := FOLD.match(line):
            fold = f"fold {found[1]} "
        elif found := EPOCH.search(line):
            yield fold, found[1], found[2], found[3]


def _line(record: StepRecord) -> str:
    detail = f"  {record.reason}" if record.reason else ""
    return f"{record.name:<22} {record.status!s:<11} {duration(record.seconds):>8}{detail}".rstrip()


def duration(seconds: float | None) -> str:
    """Return a time in readable form, or an empty text if it is unknown."""
    if seconds is None:
        return ""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
