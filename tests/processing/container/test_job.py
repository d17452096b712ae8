"""How a container job ends: its exit code and the reason that SageMaker shows."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from mammopipe.processing.container.job import NO_DISK, run
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import disk_fault

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/opt/ml/processing/output/PATIENT.png")


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ConfigError("a key breaks a rule"), 1, "a key breaks a rule"),
        (ValueError("PATIENT"), 2, "ValueError: a fault of mammopipe"),
        (FULL, NO_DISK, "No space left on device: the job's disk"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), NO_DISK, "Read-only file system: the job's disk"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), NO_DISK, "No space left on device"),
        (OSError(errno.EPIPE, os.strerror(errno.EPIPE)), 2, "BrokenPipeError: a fault"),
    ],
)
def test_the_exit_code_and_the_reason_name_the_cause_and_no_patient(
    error: Exception, code: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(arguments: Sequence[str]) -> None:
        raise error

    monkeypatch.setenv("MAMMOPIPE_BASE", str(tmp_path))
    assert run(main, "message") == code
    written = (tmp_path / "output" / "message").read_text()
    assert written.startswith(reason) and "PATIENT" not in written


def test_a_full_disk_behind_another_error_is_found() -> None:
    try:
        try:
            raise FULL
        except OSError:
            raise RuntimeError("the archive could not be finished")  # noqa: B904 - as a library does
    except RuntimeError as error:
        assert disk_fault(error) == "No space left on device"
    assert disk_fault(RuntimeError("no space")) == "" and disk_fault(None) == ""
