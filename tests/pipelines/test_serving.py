import json
from pathlib import Path

import pytest

from pipelines import serving
from pipelines.jobs import StepFailed
from pipelines.processes import RunningProcesses
from processing.errors import ConfigError


def test_a_server_that_ends_at_once_gives_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "endpoint").mkdir()
    with pytest.raises(StepFailed, match=r"exit code 1; its last line: error: .*model\.json: is missing"):
        serving.serve("films", tmp_path / "endpoint", tmp_path / "log", RunningProcesses(), threads=1, environment={})


def test_nobody_answers_at_a_closed_port() -> None:
    assert not serving.is_healthy("http://127.0.0.1:9")


def test_a_run_that_keeps_no_endpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keeps no endpoint"):
        serving.read_kept(tmp_path)


def test_an_endpoint_whose_server_is_gone_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / serving.FILE).write_text(json.dumps({"name": "films", "url": "http://127.0.0.1:9", "pid": 2**22 - 1}))
    assert serving.delete_kept(tmp_path) is False
    assert not (tmp_path / serving.FILE).exists()
