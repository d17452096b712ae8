"""Peak memory and CPU time of a process and of all processes that it starts, on Linux."""

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

PROC = Path("/proc")
_JOB = re.compile(r"mammopipe\.[\w.]+")
_WORKER = "multiprocessing"


class MemoryWatch:
    """Records the greatest resident size of every process below a root process, by the job that it works for.

    The kernel keeps each process's own peak (`VmHWM`), so a short peak between two looks is seen as long as the process
    lives until the next look. Memory that processes share counts for each of them.
    """

    def __init__(self, root: int, *, seconds: float = 0.5) -> None:
        """Watch the process `root`; `seconds` is the interval between two looks."""
        self.root, self.seconds = root, seconds
        self.peaks: dict[str, int] = {}
        """Peak in bytes by job; `<job> worker` for the processes of its pool."""
        self._spent: dict[int, tuple[str, float]] = {}
        """Job and CPU seconds of each process, by its id."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds by job, its pool included; the last interval before a process ends is missing."""
        jobs = {job for job, _ in self._spent.values()}
        return {job: sum(spent for name, spent in self._spent.values() if name == job) for job in sorted(jobs)}

    def __enter__(self) -> "MemoryWatch":
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look a last time and stop."""
        self._end.set()
        self._thread.join()

    def look(self) -> None:
        """Record the peaks of the processes that live now."""
        parents = _parents()
        for pid in parents:
            line = _lineage(pid, parents, self.root)
            if not line:
                continue
            peak, commands = _peak(pid), [_command(member) for member in line]
            job = next((found[0] for found in map(_JOB.findall, commands) if found), "benchmark")
            name = f"{job} worker" if _WORKER in commands[0] else job
            self.peaks[name] = max(self.peaks.get(name, 0), peak)
            self._spent[pid] = job, max(_cpu_seconds(pid), self._spent.get(pid, (job, 0.0))[1])

    def _watch(self) -> None:
        while not self._end.wait(self.seconds):
            self.look()
        self.look()


def _lineage(pid: int, parents: Mapping[int, int], root: int) -> list[int]:
    """Return the process and those above it up to `root`; an empty list if it does not descend from `root`."""
    line = [pid]
    while line[-1] != root:
        above = parents.get(line[-1])
        if above is None or above == line[-1]:
            return []
        line.append(above)
    return line


def _parents() -> dict[int, int]:
    found: dict[int, int] = {}
    for name in os.listdir(PROC):
        if name.isdigit() and (text := _read(int(name), "stat")):
            # The second field, the command in parentheses, may itself hold blanks and parentheses.
            found[int(name)] = int(text.rpartition(")")[2].split()[1])
    return found


def _peak(pid: int) -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB", _read(pid, "status"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _cpu_seconds(pid: int) -> float:
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _command(pid: int) -> str:
    return _read(pid, "cmdline").replace("\0", " ")


def _read(pid: int, name: str) -> str:
    try:
        return (PROC / str(pid) / name).read_text(encoding="utf-8", errors="replace")
    except OSError:  # the process has ended
        return ""
