"""Runs in MLflow: one parent run per execution, one nested run per candidate; where `MLFLOW_TRACKING_URI` is set.

The URI is a folder or database of one's own (`sqlite:///mlflow.db`), a server, or the ARN of a managed MLflow on
SageMaker, for which the package `sagemaker-mlflow` signs the requests. An execution is written once, when it has ended:
tracked again, it is the same MLflow run, found by its tag.
"""

import json
import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.ledger import Status
from processing.errors import ConfigError

VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "mammopipe"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""By which MLflow's page shows runs and curves, not the tools for language models."""
TAG = "mammopipe.execution"
EPOCH_FIGURES = ("train_loss", "validation_loss", "validation_macro_auc", "validation_balanced_accuracy",
                 "learning_rate", "seconds")
ARTEFACTS = ("report.html", "evaluation.json", "execution.json", "pipeline.json", "model_card.md", "invocation.json",
             "model.tar.gz")
_SECRET = re.compile(r"//[^/@]*@")
"""User and password of a server or database, which no message may show."""
ENDED = {Status.SUCCEEDED: "FINISHED", Status.FAILED: "FAILED", Status.STOPPED: "KILLED"}


def track_if_asked(folder: Path) -> str | None:
    """Write a run's folder to MLflow where `MLFLOW_TRACKING_URI` is set, and return the MLflow run's id."""
    uri = os.environ.get(VARIABLE)
    if not uri:
        return None
    run = track(folder, uri)
    print(f"Tracked in MLflow as run {run} of experiment {os.environ.get(EXPERIMENT_VARIABLE) or EXPERIMENT}")
    return run


def track(folder: Path, uri: str) -> str:
    """Write a run's folder to the MLflow at `uri` and return the id of its parent run.

    Raises `ConfigError` where mlflow is not installed or its store cannot be used.
    """
    shown = _SECRET.sub("//", uri)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise ConfigError(f"{VARIABLE}={shown}: mlflow is not installed; pip install 'mammopipe[tracking]'") from None
    try:
        return _Store(MlflowClient(tracking_uri=uri)).write(folder)
    except MlflowException as error:
        said = str(error).splitlines()[0].replace(uri, shown)
        raise ConfigError(f"{VARIABLE}={shown}: {said}") from None


class _Store:
    """One MLflow store."""

    def __init__(self, client: Any) -> None:
        self.client = client
        name = os.environ.get(EXPERIMENT_VARIABLE) or EXPERIMENT
        known = client.get_experiment_by_name(name)
        self.experiment = known.experiment_id if known else client.create_experiment(name, tags=KIND)

    def write(self, folder: Path) -> str:
        """Write an execution's parent run and its candidates' runs; returns the parent's id."""
        execution = _read(folder / "execution.json")
        parent = self._parent(execution)
        for name, value in _flat({**_facts(execution), **execution["parameters"]}).items():
            self.client.log_param(parent, name, value)
        for step in execution["steps"]:
            if step["seconds"] is not None:
                self.client.log_metric(parent, f"seconds/{step['name']}", step["seconds"])
        if (folder / "evaluation.json").is_file():
            evaluation = _read(folder / "evaluation.json")
            self._selected(parent, evaluation)
            for name, candidate in evaluation.get("candidates", {}).items():
                self._candidate(parent, execution, name, candidate, selected=name == evaluation["selected"]["cnn"])
        self._artefacts(parent, folder)
        self.client.set_terminated(parent, ENDED.get(execution["status"], "FAILED"), end_time=_end(execution))
        return parent

    def _parent(self, execution: Mapping[str, Any]) -> str:
        """Return a new run of this execution; one that was written before goes, so that nothing is there twice."""
        quoted = execution["id"].replace("'", "")
        for old in self.client.search_runs([self.experiment], f"tags.`{TAG}` = '{quoted}'"):
            self.client.delete_run(old.info.run_id)
        tags = {TAG: execution["id"], "mlflow.runName": execution["id"], "backend": execution.get("backend", "process")}
        run = self.client.create_run(self.experiment, start_time=_milliseconds(execution["started"]), tags=tags)
        return str(run.info.run_id)

    def _selected(self, parent: str, evaluation: Mapping[str, Any]) -> None:
        selected = evaluation["selected"]
        self.client.set_tag(parent, "selected", selected["cnn"])
        self.client.set_tag(parent, "leakage", evaluation["leakage"]["verdict"])
        for split in ("validation", "test"):
            for name, value in _figures(selected[split]).items():
                self.client.log_metric(parent, f"{split}/{name}", value)

    def _candidate(self, parent: str, execution: Mapping[str, Any], name: str, candidate: Mapping[str, Any], *,
                   selected: bool) -> None:
        tags = {"mlflow.parentRunId": parent, "mlflow.runName": f"{execution['id']} {name}", "selected": str(selected),
                TAG: execution["id"]}
        start = _milliseconds(execution["started"])
        run = self.client.create_run(self.experiment, start_time=start, tags=tags).info.run_id
        for key in ("architecture", "initialisation", "best_epoch", "epochs_run", "temperature"):
            self.client.log_param(run, key, candidate[key])
        moment = float(start)
        for epoch in candidate["history"]:
            moment += 1000 * epoch["seconds"]
            for figure in EPOCH_FIGURES:
                self.client.log_metric(run, figure, epoch[figure], timestamp=int(moment), step=epoch["epoch"])
        for split in ("validation", "test"):
            for figure, value in _figures(candidate[split]).items():
                self.client.log_metric(run, f"{split}/{figure}", value)
        self.client.set_terminated(run, "FINISHED", end_time=int(moment))

    def _artefacts(self, parent: str, folder: Path) -> None:
        for name in ARTEFACTS:
            if (folder / name).is_file():
                self.client.log_artifact(parent, str(folder / name))
        for name in ("pictures", "stages", "logs"):
            if (folder / name).is_dir():
                self.client.log_artifacts(parent, str(folder / name), name)


def _facts(execution: Mapping[str, Any]) -> dict[str, Any]:
    return {key: execution[key] for key in ("pipeline", "dataset", "profile", "protocol") if key in execution}


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _figures(scorecard: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a scorecard that have a value, with the bounds of their intervals."""
    found = {}
    for name, figure in scorecard.items():
        if isinstance(figure, Mapping) and isinstance(figure.get("value"), int | float):
            found[name] = float(figure["value"])
            found |= {f"{name}_{end}": float(figure[end]) for end in ("low", "high") if figure.get(end) is not None}
    return found


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def _end(execution: Mapping[str, Any]) -> int:
    return _milliseconds(execution["started"]) + int(1000 * execution["seconds"])
