"""Many images on several processes: every image has its result, whatever happens to its worker."""

import io
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mammopipe.processing.errors import ImageError
from mammopipe.processing.jobs.parallel import SECONDS_BETWEEN_LINES, ProgressDisplay, Refused, map_images

ROOT = Path(__file__).parents[3]


def square(number: int) -> int:
    return number * number


def work(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 11:
        raise ImageError("eleven is no image")
    return square(number)


def fault(number: int) -> int:
    raise KeyError(number)


def test_every_item_has_its_result() -> None:
    found = dict(map_images(square, range(50), total=50, title="Square", workers=2))
    assert found == {number: number * number for number in range(50)}


def test_a_killed_worker_costs_its_image_and_no_other() -> None:
    found = dict(map_images(work, range(30), total=30, title="Work", workers=2))
    refused = {number: result.reason for number, result in found.items() if isinstance(result, Refused)}
    assert set(refused) == {7, 11}
    assert "worker process died" in refused[7]
    assert refused[11] == "eleven is no image"
    assert all(found[number] == number * number for number in set(range(30)) - {7, 11})


def report(number: int) -> int:
    """Print the process id of this worker."""
    print(os.getpid(), flush=True)
    return number


def test_workers_end_with_a_killed_parent() -> None:
    code = (
        "from mammopipe.processing.jobs.parallel import map_images\n"
        "from tests.processing.jobs.test_parallel import report\n"
        "results = map_images(report, range(100), total=100, title='Report', workers=1)\n"
        "next(results)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as job:
        assert job.stdout is not None
        worker = os.pidfd_open(int(job.stdout.readline()))
        job.kill()
        # The descriptor of a process is readable once the process has ended.
        assert select.select([worker], [], [], 60)[0]
        os.close(worker)


def test_a_programming_error_is_not_taken_for_a_bad_image() -> None:
    with pytest.raises(KeyError):
        list(map_images(fault, range(3), total=3, title="Fault", workers=2))


def test_items_are_taken_as_they_are_needed() -> None:
    taken = 0

    def source() -> object:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = map_images(square, source(), total=1000, title="Square", workers=2)  # type: ignore[arg-type, var-annotated]
    next(results)
    assert taken < 20
    results.close()  # type: ignore[attr-defined]


def test_progress_lines_state_speed_time_left_and_refusals() -> None:
    now, stream = 100.0, io.StringIO()
    progress = ProgressDisplay("Prepare", 1000, stream=stream, clock=lambda: now)
    for number in range(1, 1001):
        now += 0.25
        progress.add(refused=number in (3, 30))
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1000 * 0.25 / SECONDS_BETWEEN_LINES
    assert lines[0] == "Prepare: 40 of 1000 images, 4.0 images/s, 0:04:00 left, 2 refused"
    assert lines[-1] == "Prepare: 1000 of 1000 images, 4.0 images/s, 0:00:00 left, 2 refused"


def test_progress_on_a_terminal_is_one_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = ProgressDisplay("Prepare", 3, stream=stream)
    for refused in (False, True, False):
        progress.add(refused=refused)
    progress.close()
    last = stream.getvalue().rsplit("\r", 1)[-1]
    assert "Prepare: 100%" in last and "3/3" in last and "image/s" in last and "refused=1" in last


def test_a_short_job_logs_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    list(map_images(square, range(5), total=5, title="Square", workers=1))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("Square:")]
    assert line.startswith("Square: 5 of 5 images, ") and line.endswith(" left, 0 refused")
