"""The folder of runs, and the commands that read it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.runs.folder import RunFolder, find_run, list_runs, make_work, new_run
from mammopipe.processing.errors import ConfigError


def record(root: Path, run: str, **values: Any) -> RunFolder:
    folder = RunFolder(root, run)
    folder.write({"status": "Succeeded", "steps": [], **values})
    return folder


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_ids_sort_by_time_and_do_not_repeat(tmp_path: Path) -> None:
    ids = [new_run(tmp_path).id for _ in range(50)]
    assert len(set(ids)) == 50
    assert sorted(ids, key=lambda run: run[:15]) == ids


def test_latest_moves_from_run_to_run(tmp_path: Path) -> None:
    for run in ("20260101-000000-aaaa", "20260102-000000-bbbb"):
        record(tmp_path, run).become_latest()
        assert find_run(tmp_path).id == run
    assert [run.id for run in list_runs(tmp_path)] == ["20260101-000000-aaaa", "20260102-000000-bbbb"]


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    for run in ("20260101-000000-aaaa", "20260102-000000-bbbb"):
        record(tmp_path, run)
    assert find_run(tmp_path, "20260102").id == "20260102-000000-bbbb"
    with pytest.raises(ConfigError, match="2 runs in"):
        find_run(tmp_path, "2026")
    with pytest.raises(ConfigError, match="no runs in"):
        find_run(tmp_path, "2027")


def test_without_a_run_there_is_no_latest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run has finished"):
        find_run(tmp_path)


def test_what_a_run_did_not_reach_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run r has no evaluation.json"):
        record(tmp_path, "r").document("evaluation.json")


def test_a_run_whose_process_is_gone_is_shown_as_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        {"name": name, "status": status} for name, status in (("A", "Succeeded"), ("B", "Executing"), ("C", "Waiting"))
    ]
    pid = dead_process()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        folder = record(tmp_path, "r", status="Executing", steps=steps)
    shown = folder.execution()
    assert shown["status"] == "Stopped"
    assert [step["status"] for step in shown["steps"]] == ["Succeeded", "Stopped", "NotExecuted"]


def test_a_run_that_goes_on_is_shown_as_it_is(tmp_path: Path) -> None:
    assert record(tmp_path, "r", status="Executing").execution()["status"] == "Executing"


def test_work_folders_of_dead_runs_are_cleared_and_others_are_not(tmp_path: Path) -> None:
    dead = tmp_path / ".work" / f"old-{dead_process()}"
    dead.mkdir(parents=True)
    mine = make_work(tmp_path, "first")
    other = make_work(tmp_path, "second")
    assert not dead.exists() and mine.is_dir() and other.is_dir()
