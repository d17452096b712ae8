"""MLflow gets one parent run per execution with its candidates nested in it, however often the run is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.backends.step_status import Status, StepRecord
from mammopipe.pipelines.experiment import trials
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.pipelines.runs.tracking.mlflow import showing, track, track_if_asked, track_search
from mammopipe.pipelines.runs.tracking.mlflow_store import SEARCH, TAG, Trial
from mammopipe.processing.errors import ConfigError
from tests.pipelines.scripted import EVALUATION

mlflow = pytest.importorskip("mlflow.tracking")
pytestmark = pytest.mark.filterwarnings("ignore")
"""The library's own imports warn of each other."""


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def epoch(number: int) -> dict[str, float]:
    return {
        "epoch": number,
        "train_loss": 1 / number,
        "validation_loss": 1.1,
        "learning_rate": 0.001,
        "seconds": 2.5,
        "validation_macro_auc": 0.5 + number / 50,
        "validation_balanced_accuracy": 0.4,
    }


CANDIDATE = {
    "architecture": "alexnet",
    "initialisation": "scratch",
    "best_epoch": 3,
    "epochs_run": 3,
    "temperature": 1.2,
    "history": [epoch(1), epoch(2), epoch(3)],
    "validation": {"macro_auc": figure(0.56), "roc": {"malignant": None}},
    "test": {"macro_auc": figure(0.5)},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = RunFolder(tmp_path / "runs", "20260101-000000-aaaa")
    steps = [
        {"name": "Prepare", "type": "Processing", "status": "Succeeded", "started": "", "seconds": 9.5, "reason": ""}
    ]
    run.write(
        {
            "id": run.id,
            "status": "Succeeded",
            "reason": "",
            "profile": "quick",
            "dataset": "mias",
            "pipeline": "mammopipe",
            "backend": "process",
            "started": "2026-01-01T00:00:00+00:00",
            "seconds": 80.0,
            "parameters": {"Epochs": 3, "MinMacroAuc": 0.0},
            "configuration": {"networks": {"alexnet": {"learning_rate": 1e-4, "epochs": 9, "sampling": "balanced"}}},
            "steps": steps,
        }
    )
    evaluation = {**EVALUATION, "candidates": {"alexnet": CANDIDATE, "resnet50": CANDIDATE}}
    (run.path / "evaluation.json").write_text(json.dumps(evaluation))
    (run.path / "report.html").write_text("<html>")
    return run.path


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store; making one takes mlflow a second of migrations."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    # Artefacts go below the working folder for a store in a database.
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def found(client: Any) -> list[Any]:
    experiment = client.get_experiment_by_name("mammopipe")
    return list(client.search_runs([experiment.experiment_id], f"tags.`{TAG}` = '20260101-000000-aaaa'"))


def test_an_execution_is_one_parent_with_its_candidates(folder: Path, uri: str) -> None:
    parent = track(folder, uri)
    assert track(folder, uri) != parent, "written anew"
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = found(client)
    assert len(runs) == 3, "what was written before is gone"
    (top,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not top]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {top.info.run_id}
    assert top.data.params["Epochs"] == "3" and top.data.tags["selected"] == "alexnet"
    assert top.data.metrics["validation_interval/macro_auc_low"] == 0.4 and top.data.metrics["seconds/Prepare"] == 9.5
    assert (top.info.status, top.info.end_time - top.info.start_time) == ("FINISHED", 80_000)
    assert {item.path for item in client.list_artifacts(top.info.run_id)} >= {"report.html", "evaluation.json"}
    (alexnet,) = [run for run in children if run.data.tags["mlflow.runName"].startswith("alexnet")]
    assert {"learning_rate": "0.0001", "epochs": "3", "sampling": "balanced"}.items() <= alexnet.data.params.items()
    history = client.get_metric_history(children[0].info.run_id, "validation_macro_auc")
    assert [(point.step, point.value) for point in history] == [(1, 0.52), (2, 0.54), (3, 0.56)]
    assert [point.timestamp - top.info.start_time for point in history] == [2500, 5000, 7500]


def test_nothing_is_tracked_unless_asked(folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert track_if_asked(folder) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert track_if_asked(folder)


def test_a_store_that_cannot_be_used_is_one_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI=nonsense://x"):
        track(folder, "nonsense://x")


def test_no_message_shows_the_password_of_a_store(folder: Path) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI=nonsense://host/x") as refused:
        track(folder, "nonsense://user:secret@host/x")
    assert "secret" not in str(refused.value)


class Quiet:
    """Shows nothing."""

    def __init__(self, logs: Path) -> None:
        self.heard: list[str] = []

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *details: Any) -> None:
        pass

    def changed(self, records: list[StepRecord]) -> None:
        self.heard += [record.name for record in records]


STEPS = [
    StepRecord("Prepare", "Processing", Status.SUCCEEDED, seconds=9.5),
    StepRecord("Train-alexnet", "Training", Status.SUCCEEDED, seconds=20.0),
    StepRecord("Evaluate", "Processing", Status.EXECUTING),
]
LOG = "cnn=alexnet\n" + "".join(
    f"epoch={number} " + " ".join(f"{name}={value}" for name, value in epoch(number).items() if name != "epoch") + "\n"
    for number in (1, 2)
)


def top_of(client: Any) -> Any:
    (top,) = [run for run in found(client) if "mlflow.parentRunId" not in run.data.tags]
    return top


def test_steps_are_there_while_the_run_goes_on(folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / "Train-alexnet.log").write_text(LOG)
    with showing(Quiet)(folder / "logs") as live:
        live.changed(STEPS[:1])
        live.changed(STEPS)
    client = mlflow.MlflowClient(tracking_uri=uri)
    top = top_of(client)
    assert (top.info.status, top.data.params["Epochs"]) == ("RUNNING", "3")
    assert top.data.metrics == {"seconds/Prepare": 9.5, "seconds/Train-alexnet": 20.0}
    (child,) = [run for run in found(client) if run.info.run_id != top.info.run_id]
    history = client.get_metric_history(child.info.run_id, "validation_macro_auc")
    assert [(point.step, point.value) for point in history] == [(1, 0.52), (2, 0.54)]
    assert track(folder, uri) == top.info.run_id, "the same run to its end"
    assert top_of(client).info.status == "FINISHED" and len(found(client)) == 3
    assert len(client.get_metric_history(top.info.run_id, "seconds/Prepare")) == 1


def test_an_interrupted_run_does_not_stay_running(folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(KeyboardInterrupt), showing(Quiet)(folder / "logs") as live:
        live.changed(STEPS[:1])
        raise KeyboardInterrupt
    assert top_of(mlflow.MlflowClient(tracking_uri=uri)).info.status == "KILLED"


def test_a_store_that_does_not_answer_ends_no_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with showing(Quiet)(folder / "logs") as live:
        live.changed(STEPS[:1])
        live.changed(STEPS)
    assert capsys.readouterr().err.count("tried again at the end") == 1


def test_without_mlflow_a_run_is_only_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert showing(Quiet) is Quiet


def test_the_trials_of_a_search_are_nested_in_its_run(
    folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    spaces = {"training.learning_rate": "log(1e-5, 1e-2)"}
    (tmp_path / "trials.csv").write_text("trial\n")
    trials = [Trial(folder.name, {"training.learning_rate": 1e-4}, 0.56), Trial("another", {}, None)]
    track(folder, uri)
    track_search("a1", "tune", spaces, trials[:1], [tmp_path / "trials.csv", tmp_path / "none.png"])
    track(folder, uri)  # what is written anew stays in its search
    track_search("a1", "tune", spaces, trials, [])
    client = mlflow.MlflowClient(tracking_uri=uri)
    (experiment,) = [item.experiment_id for item in client.search_experiments() if item.name == "mammopipe"]
    (search,) = client.search_runs([experiment], f"tags.`{SEARCH}` = 'a1'")
    assert search.data.params == spaces and search.data.metrics == {"trials": 2, "validation/macro_auc": 0.56}
    assert [item.path for item in client.list_artifacts(search.info.run_id)] == ["trials.csv"]
    runs = {run.data.tags["mlflow.runName"]: run for run in found(client)}
    trial = runs[folder.name]
    assert trial.data.tags["mlflow.parentRunId"] == search.info.run_id
    assert trial.data.params["search/training.learning_rate"] == "0.0001"
    below = runs["alexnet 20260101-000000-aaaa"]
    assert below.data.tags["mlflow.parentRunId"] == trial.info.run_id


def test_the_trials_of_a_tuning_job_are_nested_in_the_execution(folder: Path, uri: str) -> None:
    metric = {"MetricName": "best_validation_choice", "Value": 0.61}
    summaries = [
        {
            "TrainingJobName": "job-1",
            "TrainingJobStatus": "Completed",
            "FinalHyperParameterTuningJobObjectiveMetric": metric,
            "TunedHyperParameters": {"dropout": "0.2"},
        },
        {
            "TrainingJobName": "job-2",
            "TrainingJobStatus": "Failed",
            "FailureReason": "AlgorithmError",
            "TunedHyperParameters": {"dropout": "0.3"},
        },
    ]
    trials.write(folder, trials.rows("alexnet", summaries))
    parent = track(folder, uri)
    runs = {run.data.tags["mlflow.runName"]: run for run in found(mlflow.MlflowClient(tracking_uri=uri))}
    first, second = (runs[f"alexnet trial {number} {folder.name}"] for number in (1, 2))
    assert first.data.tags["mlflow.parentRunId"] == parent
    assert first.data.metrics == {"best_validation_choice": 0.61}
    assert first.data.params == {"job": "job-1", "status": "Completed", "dropout": "0.2"}
    assert (second.info.status, second.data.metrics) == ("FAILED", {})
    assert second.data.params["reason"] == "AlgorithmError"
