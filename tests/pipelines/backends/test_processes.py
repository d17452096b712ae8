"""No process outlives its owner unless it was kept. A pipe that a job holds open shows when the job has ended."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mammopipe.pipelines.backends.processes import (
    RunEnding,
    RunningProcesses,
    SupervisedProcess,
    is_supervisor,
    job_environment,
    stop_kept,
)

SECONDS = 30.0
"""An upper limit, reached only if the code is wrong."""


class Witness:
    """A named pipe: `wait_open` returns when a job has written to it, `wait_closed` when no process holds it."""

    def __init__(self, folder: Path):
        self.path = folder / "witness"
        os.mkfifo(self.path)
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def wait_open(self) -> None:
        assert self._read() == b"x"

    def wait_closed(self) -> None:
        assert self._read() == b""

    def _read(self) -> bytes:
        ready, _, _ = select.select([self.descriptor], [], [], SECONDS)
        assert ready, "nothing happened in time"
        return os.read(self.descriptor, 10)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    made = Witness(tmp_path)
    yield made
    os.close(made.descriptor)


def start(code: str, folder: Path, *arguments: str) -> SupervisedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return SupervisedProcess.start(
        command, environment=job_environment(folder, 1, {}), folder=folder, log=folder / "job.log"
    )


HOLD = "import signal, sys; pipe = open(sys.argv[1], 'w'); pipe.write('x'); pipe.flush(); signal.pause()"
"""Keeps the witness pipe open until it is stopped."""
SPAWN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {HOLD!r}, sys.argv[1]])"


@pytest.mark.parametrize(
    ("code", "expected"), [("", 0), ("raise SystemExit(3)", 3), ("import os; os.abort()", 128 + 6)]
)
def test_the_exit_code_is_the_commands(tmp_path: Path, code: str, expected: int) -> None:
    assert start(code, tmp_path).wait(SECONDS) == expected


def test_everything_printed_is_in_the_log_to_the_last_line(tmp_path: Path) -> None:
    start("import sys; print('out'); print('err', file=sys.stderr)", tmp_path).wait(SECONDS)
    assert sorted((tmp_path / "job.log").read_text().split()) == ["err", "out"]


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    process = SupervisedProcess.start(["/no/such/program"], environment={}, folder=tmp_path, log=tmp_path / "job.log")
    assert process.wait(SECONDS) == 127
    assert (tmp_path / "job.log").read_text() == "cannot start /no/such/program: No such file or directory\n"


def test_stopping_ends_the_command_and_its_children(tmp_path: Path, witness: Witness) -> None:
    parent = f"import signal; {SPAWN}; signal.pause()"
    process = start(parent, tmp_path, str(witness.path))
    witness.wait_open()
    assert process.stop() == 128 + signal.SIGTERM
    witness.wait_closed()


def test_children_that_a_command_leaves_are_ended_with_it(tmp_path: Path, witness: Witness) -> None:
    parent = f"{SPAWN}; open(sys.argv[2]).read()"
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = start(parent, tmp_path, str(witness.path), str(gate))
    witness.wait_open()
    gate.write_text("go")
    assert process.wait(SECONDS) == 0
    witness.wait_closed()


def test_a_killed_owner_leaves_no_process(tmp_path: Path, witness: Witness) -> None:
    owner = (
        "import signal, sys\nfrom pathlib import Path\n"
        "from mammopipe.pipelines.backends.processes import SupervisedProcess, job_environment\n"
        f"folder, code = Path(sys.argv[1]), {HOLD!r}\n"
        "command, environment = [sys.executable, '-c', code, sys.argv[2]], job_environment(folder, 1, {})\n"
        "SupervisedProcess.start(command, environment=environment, folder=folder, log=folder / 'job.log')\n"
        "signal.pause()\n"
    )
    root = str(Path(__file__).resolve().parents[3])
    process = subprocess.Popen(
        [sys.executable, "-c", owner, str(tmp_path), str(witness.path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    witness.wait_open()
    process.kill()
    process.wait(SECONDS)
    witness.wait_closed()


def test_a_kept_command_outlives_its_owner_until_it_is_stopped(tmp_path: Path, witness: Witness) -> None:
    process = start(HOLD, tmp_path, str(witness.path))
    witness.wait_open()
    process.keep()
    assert is_supervisor(process.pid)
    assert stop_kept(process.pid)
    witness.wait_closed()
    assert not is_supervisor(process.pid) and not stop_kept(process.pid)
    process.wait(SECONDS)


def test_a_process_that_is_no_supervisor_is_never_stopped() -> None:
    assert not stop_kept(os.getpid())


def test_after_stopping_nothing_starts(tmp_path: Path) -> None:
    processes = RunningProcesses()
    processes.stop()
    with pytest.raises(RunEnding):
        processes.start([sys.executable, "-c", ""], tmp_path, tmp_path / "log", threads=1, environment={})


def test_a_job_sees_its_share_of_the_cores_and_nothing_of_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    environment = job_environment(tmp_path, 3, {"EXTRA": "1"})
    assert environment["OMP_NUM_THREADS"] == "3" and environment["EXTRA"] == "1"
    assert environment["MAMMOPIPE_BASE"] == str(tmp_path)
    assert not [name for name in environment if name.startswith("AWS_")]
