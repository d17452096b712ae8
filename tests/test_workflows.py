"""The GitHub workflows, by actionlint where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

WORKFLOWS = sorted((Path(__file__).parents[1] / ".github" / "workflows").glob("*.yml"))


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is a Go program; install it to check")
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path: Path) -> None:
    done = subprocess.run(["actionlint", "-no-color", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
