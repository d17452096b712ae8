"""Starts local processes that end with this process unless they are kept; each runs under a `supervise` process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mammopipe.pipelines.backends import supervise
from mammopipe.processing.errors import MammopipeError

STOP_SECONDS = supervise.GRACE_SECONDS + 5
"""Seconds in which a supervisor stops its command."""


@dataclass
class SupervisedProcess:
    """One command and its supervisor."""

    supervisor: "subprocess.Popen[bytes]"
    _pipe: int

    @classmethod
    def start(
        cls, command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path
    ) -> "SupervisedProcess":
        """Start `command` in `folder` with exactly `environment`; stdout and stderr are appended to the file `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        try:
            with log.open("ab") as output:
                # A new session: Ctrl-C then reaches only this process, which stops the commands one by one.
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", supervise.__file__, str(reading), *command],
                    env=dict(environment),
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[reading],
                    start_new_session=True,
                )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        return cls(process, writing)

    @property
    def pid(self) -> int:
        """The supervisor's process id; SIGTERM to it stops the command."""
        return self.supervisor.pid

    def poll(self) -> int | None:
        """Return the command's exit code, or None while it runs."""
        return self.supervisor.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command and return its exit code; raises `subprocess.TimeoutExpired`."""
        code = self.supervisor.wait(timeout)
        self._close()
        return code

    def stop(self) -> int:
        """Stop the command and everything it started, and return its exit code."""
        self._close()
        try:
            return self.supervisor.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.supervisor.kill()
            return self.supervisor.wait()

    def keep(self) -> None:
        """Let the command outlive this process."""
        os.write(self._pipe, b"k")
        self._close()

    def _close(self) -> None:
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            os.close(pipe)


class RunEnding(MammopipeError):
    """A process was stopped, or not started, because the run is ending."""


@dataclass
class RunningProcesses:
    """The processes of one run, so that all can be stopped together."""

    stopping: threading.Event = field(default_factory=threading.Event)
    """Set once no new process may start."""
    _processes: dict[int, SupervisedProcess] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(
        self, command: Sequence[str], base: Path, log: Path, *, threads: int, environment: Mapping[str, str]
    ) -> SupervisedProcess:
        """Start a job's process on the folder tree `base`; raises `RunEnding` if the run is ending."""
        with self._lock:
            if self.stopping.is_set():
                raise RunEnding("not started, because the run was ending")
            process = SupervisedProcess.start(
                command, environment=job_environment(base, threads, environment), folder=base, log=log
            )
            self._processes[process.pid] = process
            return process

    def ended(self, process: SupervisedProcess) -> None:
        """Forget a process that has ended."""
        with self._lock:
            self._processes.pop(process.pid, None)

    def stop(self) -> None:
        """Prevent new processes and stop the running ones; returns when all have ended."""
        with self._lock:
            self.stopping.set()
            stoppers = [threading.Thread(target=process.stop) for process in self._processes.values()]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()


def is_alive(pid: int) -> bool:
    """Return whether a process with this id is running, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_supervisor(pid: int) -> bool:
    """Return whether `pid` runs `supervise`; the system reuses process ids, so check before stopping one."""
    shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return Path(supervise.__file__).name in shown.stdout


def stop_kept(pid: int) -> bool:
    """Stop a kept command by its supervisor's id and wait for its end; returns False if it had already ended."""
    if not is_supervisor(pid):
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while is_supervisor(pid) and time.monotonic() < deadline:
        time.sleep(0.05)  # it is not a child of this process, so there is nothing to wait on
    return True


def job_environment(base: Path, threads: int, extra: Mapping[str, str]) -> dict[str, str]:
    """Return a job's environment: the caller's, with the job's folder tree, its share of the cores, and `extra`."""
    # Without the caller's settings and credentials: a job on AWS would not have them either.
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MAMMOPIPE_", "SAGEMAKER_"))
    }
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    return (
        inherited
        | dict.fromkeys(counts, str(threads))
        | {"MAMMOPIPE_BASE": str(base), "PYTHONUNBUFFERED": "1"}
        | dict(extra)
    )
