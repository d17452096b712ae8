"""The whole pipeline on phantoms, through the command line: from the images to an answer of the chosen model."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.backends.local_endpoint import is_healthy
from mammopipe.pipelines.backends.processes import is_supervisor
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from tests.support import fork_server

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
[data]
max_height = 256
[training]
epochs = 1
head_epochs = 0
warmup_epochs = 0
precision = "float32"
[segmentation]
height = 64
width = 64
[evaluation]
bootstrap = 100
[endpoint]
mode = "both"
"""


def started(*arguments: str, folder: Path) -> "subprocess.Popen[str]":
    """Start the command in `folder`, without anything of AWS in its environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment["PYTHONPATH"] = str(ROOT)
    command = [*fork_server.shared(), "-m", "mammopipe.pipelines.cli", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def mammopipe(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder` to its end."""
    running = started(*arguments, folder=folder)
    output, errors = running.communicate()
    return subprocess.CompletedProcess(arguments, running.returncode, output, errors)


@dataclass(frozen=True)
class Done:
    """A run that has ended, its endpoint kept; another one ran at the same time in the same folder."""

    folder: Path
    output: str
    other: str
    """What the other run printed."""

    def document(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / "runs" / "latest" / name).read_text()))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "quick.toml").write_text(CONFIG)
    words = ("run", "--config", "quick.toml", "--phantoms", "30")
    # The same network, settings and data: both want the same checkpoints.
    beside = started(*words, "--cnns", "modified_cnn", "--set", "deploy=false", folder=folder)
    ended = mammopipe(*words, "--keep-endpoint", folder=folder)
    other, _ = beside.communicate()
    assert (ended.returncode, beside.returncode) == (0, 0), ended.stdout + ended.stderr + other
    run = next(path.parent.name for path in (folder / "runs").glob("2*/endpoint.json"))
    RunFolder(folder / "runs", run).become_latest()  # whichever ended last
    yield Done(folder, ended.stdout, other)
    mammopipe("delete", folder=folder)


def test_every_step_succeeded(done: Done) -> None:
    execution = done.document("execution.json")
    assert execution["status"] == "Succeeded" and execution["profile"] == "quick"
    statuses = {step["name"]: step["status"] for step in execution["steps"]}
    assert statuses.pop("Fail") == "NotExecuted"
    assert set(statuses.values()) == {"Succeeded"}
    assert {"Train-modified-cnn", "Train-alexnet", "Train-resnet50", "Register", "Endpoint"} <= statuses.keys()


def test_two_runs_at_once_in_one_folder_do_not_meet(done: Done) -> None:
    first, second = sorted(
        (path for path in (done.folder / "runs").glob("2*") if path.is_dir()),
        key=lambda path: (path / "endpoint.json").is_file(),
    )
    executions = [json.loads((run / "execution.json").read_text()) for run in (first, second)]
    assert [execution["id"] for execution in executions] == [first.name, second.name]
    assert {execution["status"] for execution in executions} == {"Succeeded"}
    spans = [
        (start := datetime.fromisoformat(execution["started"]).timestamp(), start + execution["seconds"])
        for execution in executions
    ]
    assert max(start for start, _ in spans) < min(end for _, end in spans), "they ran at the same time"
    candidates = [json.loads((run / "evaluation.json").read_text())["candidates"] for run in (first, second)]
    assert [len(found) for found in candidates] == [1, 3]
    assert "SYNTHETIC" in done.other and first.name in done.other and second.name not in done.other
    assert f"{second.name}" in (done.folder / "runs" / "latest").resolve().name


def test_the_run_says_that_its_images_are_synthetic_and_where_things_are(done: Done) -> None:
    assert "SYNTHETIC IMAGES" in done.output
    for name in (
        "report.html",
        "evaluation.json",
        "model.tar.gz",
        "model_card.md",
        "invocation.json",
        "execution.json",
        "pipeline.json",
    ):
        assert name in done.output
        assert (done.folder / "runs" / "latest" / name).stat().st_size > 0


def test_the_leakage_audit_passed_and_the_best_was_chosen_on_validation(done: Done) -> None:
    evaluation = done.document("evaluation.json")
    assert evaluation["leakage"]["passed"] is True
    best = max(item["validation"]["macro_auc"]["value"] for item in evaluation["candidates"].values())
    assert evaluation["selected"]["validation"]["macro_auc"]["value"] == best
    assert evaluation["candidates"].keys() == {"modified_cnn", "alexnet", "resnet50"}


def test_the_report_shows_the_figures_of_the_evaluation(done: Done) -> None:
    report = (done.folder / "runs" / "latest" / "report.html").read_text()
    for candidate in done.document("evaluation.json")["candidates"].values():
        assert f"{candidate['validation']['macro_auc']['value']:.3f}" in report


def test_the_endpoint_answered_about_a_test_image(done: Done) -> None:
    invocation = done.document("invocation.json")
    assert invocation["split"] == "test" and invocation["truth"] in ("normal", "benign", "malignant")
    assert sum(invocation["answer"]["probabilities"].values()) == pytest.approx(1.0, abs=1e-3)
    assert f"truth: {invocation['truth']}" in done.output


def test_the_async_endpoint_answered_the_same_through_s3(done: Done) -> None:
    at_once, queued = done.document("invocation.json"), done.document("invocation-async.json")
    assert (at_once["endpoint"], queued["endpoint"]) == ("mammopipe-candidate", "mammopipe-candidate-async")
    assert queued["answer"]["probabilities"] == at_once["answer"]["probabilities"]
    assert "Endpoint mammopipe-candidate-async ends with the run" in done.output


def test_the_kept_endpoint_answers_until_it_is_deleted(done: Done, tmp_path: Path) -> None:
    write_mias_tree(tmp_path, films=2)
    endpoint = done.document("endpoint.json")
    answer = mammopipe("invoke", str(tmp_path / "mdb001.pgm"), "--output", str(tmp_path), folder=done.folder)
    assert answer.returncode == 0 and "Research use only" in answer.stdout
    assert (tmp_path / "mdb001-overlay.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "broken.pgm").write_bytes(b"P5\n1024 1024\n255\n\0")
    refused = mammopipe("invoke", str(tmp_path / "broken.pgm"), folder=done.folder)
    assert refused.returncode == 2 and refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1

    deleted = mammopipe("delete", folder=done.folder)
    assert deleted.returncode == 0 and "stopped" in deleted.stdout
    assert not is_supervisor(endpoint["pid"]) and not is_healthy(endpoint["url"])
    assert not (done.folder / "runs" / "latest" / "endpoint.json").exists()


def test_nothing_is_left_but_the_results(done: Done) -> None:
    assert {path.name for path in done.folder.iterdir()} == {"quick.toml", "runs"}
    assert list((done.folder / "runs" / ".work").iterdir()) == []
    assert list((done.folder / "runs" / ".checkpoints").iterdir()) == []
