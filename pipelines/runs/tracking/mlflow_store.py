"""Writes to one MLflow store: an execution's run, its candidates' runs, its files and its model."""

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tarfile import is_tarfile
from tempfile import TemporaryDirectory
from typing import Any

from mammopipe.pipelines.backends.step_status import Status, StepRecord
from mammopipe.pipelines.experiment.trials import COLUMNS, TABLE
from mammopipe.pipelines.runs.progress import log_of
from mammopipe.training.model.archive import unpack

EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "mammopipe"
MEASURE = "macro_auc"
"""The figure by which searches choose; on validation."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's page show runs and curves instead of the tools for language models."""
TAG, SEARCH, PARENT = "mammopipe.execution", "mammopipe.search", "mlflow.parentRunId"

EPOCH_FIGURES = (
    "train_loss",
    "validation_loss",
    "validation_macro_auc",
    "validation_balanced_accuracy",
    "learning_rate",
    "seconds",
)
ARTEFACTS = (
    "report.html",
    "evaluation.json",
    "predictions.csv",
    "execution.json",
    "pipeline.json",
    "model_card.md",
    "invocation.json",
    "model.tar.gz",
)
FLAVOUR = "model"
"""Folder of the model in the form that MLflow loads."""
LOADER = "mammopipe.inference.prediction.pyfunc"
_FIGURE = re.compile(r"(\w+)=([0-9.e+-]+|nan)(?:\s|$)")
ENDED = {Status.SUCCEEDED: "FINISHED", Status.FAILED: "FAILED", Status.STOPPED: "KILLED"}


@dataclass(frozen=True)
class Trial:
    """One trial of a search."""

    run: str
    """Id of the run."""
    values: Mapping[str, Any]
    """The values that the search chose, by key."""
    figure: float | None
    """The macro AUC on validation; None if the trial failed."""


class Store:
    """One MLflow store."""

    def __init__(self, client: Any) -> None:
        self.client = client
        name = os.environ.get(EXPERIMENT_VARIABLE) or EXPERIMENT
        known = client.get_experiment_by_name(name)
        self.experiment = known.experiment_id if known else client.create_experiment(name, tags=KIND)

    def write(self, folder: Path) -> str:
        """Write an execution's parent run and its candidates' runs; returns the parent's id."""
        execution = _read(folder / "execution.json")
        parent, known = self._parent(execution)
        for step in execution["steps"]:
            if step["seconds"] is not None and f"seconds/{step['name']}" not in known:
                self.client.log_metric(parent, f"seconds/{step['name']}", step["seconds"])
        if (folder / "evaluation.json").is_file():
            evaluation = _read(folder / "evaluation.json")
            self._selected(parent, evaluation)
            stage = evaluation.get("stage", {})
            for key in [key for key in ("digest", "input_digest") if key in stage]:
                self.client.log_param(parent, f"data/{key}", stage[key])
            candidates = evaluation.get("candidates", {})
            for run in self._runs(execution) if candidates else []:
                if run.info.run_id != parent:
                    self.client.delete_run(run.info.run_id)  # the evaluation has its epochs, with more figures
            for name, candidate in candidates.items():
                self._candidate(parent, execution, name, candidate, selected=name == evaluation["selected"]["cnn"])
        if (folder / TABLE).is_file():
            with (folder / TABLE).open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    self._tuning_trial(parent, execution, row)
        self._artefacts(parent, folder)
        self.client.set_terminated(parent, ENDED.get(execution["status"], "FAILED"), end_time=_end(execution))
        self._model(parent, folder / "model.tar.gz")
        return parent

    def write_search(self, search: str, name: str, spaces: Mapping[str, str], trials: Sequence[Trial]) -> str:
        """Write a search as one run, and make the runs of its trials nested runs of it; returns the run's id.

        Args:
            search: Identifies the search; its run is found again by it.
            name: Name of the run.
            spaces: The values to choose from, as text, by key.
            trials: The trials that have ended. Their own runs are in the store already.
        """
        quoted = search.replace("'", "")
        known = self.client.search_runs([self.experiment], f"tags.`{SEARCH}` = '{quoted}'")
        tags = {SEARCH: search, "mlflow.runName": name}
        run = known[0] if known else self.client.create_run(self.experiment, tags=tags)
        parent = str(run.info.run_id)
        for key, text in spaces.items():
            self.client.log_param(parent, key, text)
        for trial in trials:
            for old in self._runs({"id": trial.run}):
                if old.data.tags.get("mlflow.runName") == trial.run:
                    self.client.set_tag(old.info.run_id, PARENT, parent)
                    for key, value in trial.values.items():
                        self.client.log_param(old.info.run_id, f"search/{key}", value)
        self.client.log_metric(parent, "trials", len(trials))
        figures = [trial.figure for trial in trials if trial.figure is not None]
        if figures:
            self.client.log_metric(parent, f"validation/{MEASURE}", max(figures))
        self.client.set_terminated(parent)
        return parent

    def add_files(self, run: str, files: Sequence[Path]) -> None:
        """Add files to a run as artefacts."""
        for path in files:
            if path.is_file():
                self.client.log_artifact(run, str(path))

    def write_steps(self, folder: Path, ended: list[StepRecord], *, broken_off: bool) -> None:
        """Write steps that have ended to the execution's MLflow run, which the first of them creates."""
        execution = _read(folder / "execution.json")
        parent, known = self._parent(execution)
        for step in ended:
            if f"seconds/{step.name}" in known:  # an earlier watch has written it
                continue
            self.client.log_metric(parent, f"seconds/{step.name}", step.seconds)
            epochs = _epochs(log_of(step, folder / "logs")) if step.type == "Training" else []
            if epochs:
                name = step.name.removeprefix("Train-").replace("-", "_")
                run = self._child(parent, execution, name, selected=False)
                end = self._history(run, execution, epochs)
                self.client.set_terminated(run, ENDED.get(step.status, "FAILED"), end_time=end)
        if broken_off and execution.get("backend") != "aws":
            self.client.set_terminated(parent, "KILLED")

    def _runs(self, execution: Mapping[str, Any]) -> list[Any]:
        quoted = execution["id"].replace("'", "")
        return list(self.client.search_runs([self.experiment], f"tags.`{TAG}` = '{quoted}'"))

    def _parent(self, execution: Mapping[str, Any]) -> tuple[str, Mapping[str, float]]:
        """Return this execution's run and the metrics it already has.

        A running one is continued. A finished one is deleted with its candidates, so that nothing is there twice.
        """
        runs = self._runs(execution)
        for old in runs:
            if old.info.status == "RUNNING" and PARENT not in old.data.tags:
                return str(old.info.run_id), old.data.metrics
        tags = {TAG: execution["id"], "mlflow.runName": execution["id"], "backend": execution.get("backend", "process")}
        for old in runs:
            if old.data.tags.get("mlflow.runName") == execution["id"] and PARENT in old.data.tags:
                tags[PARENT] = old.data.tags[PARENT]  # a trial stays in its search
            self.client.delete_run(old.info.run_id)
        run = self.client.create_run(self.experiment, start_time=_milliseconds(execution["started"]), tags=tags)
        parent = str(run.info.run_id)
        for name, value in _flat({**_facts(execution), **execution["parameters"]}).items():
            self.client.log_param(parent, name, value)
        return parent, {}

    def _selected(self, parent: str, evaluation: Mapping[str, Any]) -> None:
        selected = evaluation["selected"]
        self.client.set_tag(parent, "selected", selected["cnn"])
        self.client.set_tag(parent, "leakage", evaluation["leakage"]["verdict"])
        for split in ("validation", "test"):
            for name, value in _figures(selected[split], split).items():
                self.client.log_metric(parent, name, value)

    def _candidate(
        self, parent: str, execution: Mapping[str, Any], name: str, candidate: Mapping[str, Any], *, selected: bool
    ) -> None:
        run = self._child(parent, execution, name, selected=selected)
        for key in ("architecture", "initialisation", "best_epoch", "epochs_run", "temperature"):
            if key in candidate:
                self.client.log_param(run, key, candidate[key])
        for key, text in _flat(_hyperparameters(execution, name)).items():
            self.client.log_param(run, key, text)
        end = self._history(run, execution, candidate["history"])
        for split in ("validation", "test"):
            for figure, value in _figures(candidate[split], split).items():
                self.client.log_metric(run, figure, value)
        self.client.set_terminated(run, "FINISHED", end_time=end)

    def _tuning_trial(self, parent: str, execution: Mapping[str, Any], row: Mapping[str, str]) -> None:
        """Write one trial of a tuning job, a row of `tuning.csv`, as a nested run; a trial without a value failed."""
        run = self._child(parent, execution, f"{row['network']} trial {row['trial']}", selected=False)
        for key in ("job", "status", *(key for key in row if key not in COLUMNS)):
            if row[key]:  # networks of one table may have different keys
                self.client.log_param(run, key, row[key])
        if row["value"]:
            self.client.log_metric(run, row["objective"], float(row["value"]))
        self.client.set_terminated(run, "FINISHED" if row["value"] else "FAILED", end_time=_end(execution))

    def _child(self, parent: str, execution: Mapping[str, Any], name: str, *, selected: bool) -> str:
        tags = {
            PARENT: parent,
            "mlflow.runName": f"{name} {execution['id']}",
            "selected": str(selected),
            TAG: execution["id"],
        }
        run = self.client.create_run(self.experiment, start_time=_milliseconds(execution["started"]), tags=tags)
        return str(run.info.run_id)

    def _history(self, run: str, execution: Mapping[str, Any], epochs: list[Mapping[str, Any]]) -> int:
        """Write the figures of epochs, and return the end of the last one, in milliseconds."""
        moment = float(_milliseconds(execution["started"]))
        for epoch in epochs:
            moment += 1000 * epoch["seconds"]
            for figure in EPOCH_FIGURES:
                self.client.log_metric(run, figure, epoch[figure], timestamp=int(moment), step=int(epoch["epoch"]))
        return int(moment)

    def _artefacts(self, parent: str, folder: Path) -> None:
        for name in ARTEFACTS:
            if (folder / name).is_file():
                self.client.log_artifact(parent, str(folder / name))
        for name in ("pictures", "stages", "logs"):
            if (folder / name).is_dir():
                self.client.log_artifacts(parent, str(folder / name), name)

    def _model(self, parent: str, archive: Path) -> None:
        if archive.is_file() and is_tarfile(archive):
            with TemporaryDirectory() as scratch:
                self.client.log_artifacts(parent, str(flavour(archive, Path(scratch))), FLAVOUR)


def flavour(archive: Path, scratch: Path) -> Path:
    """Return a folder with the model as an MLflow pyfunc model, which `mlflow.pyfunc.load_model` loads."""
    import mlflow.pyfunc

    unpack(archive, scratch / "data")
    folder = scratch / FLAVOUR
    mlflow.pyfunc.save_model(
        str(folder), loader_module=LOADER, data_path=str(scratch / "data"), pip_requirements=["mammopipe[serving]"]
    )
    return folder


def _epochs(log: Path) -> list[Mapping[str, Any]]:
    """Return the epochs that a training job printed to its log."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    found = [dict(_FIGURE.findall(line)) for line in lines if line.startswith("epoch=")]
    return [{name: float(value) for name, value in epoch.items()} for epoch in found if {*EPOCH_FIGURES} <= {*epoch}]


def _hyperparameters(execution: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return all hyperparameters of a candidate, with the values that the pipeline's parameters give them."""
    found = dict(execution.get("configuration", {}).get("networks", {}).get(name, {}))
    if found and "Epochs" in execution["parameters"]:
        found["epochs"] = execution["parameters"]["Epochs"]
    return found


def _facts(execution: Mapping[str, Any]) -> dict[str, Any]:
    return {key: execution[key] for key in ("pipeline", "dataset", "profile", "protocol") if key in execution}


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _figures(scorecard: Mapping[str, Any], split: str) -> dict[str, float]:
    """Return the figures of a split that have a value, with the bounds of their intervals.

    MLflow's page shows the text before the slash as a section; the bounds have their own section.
    """
    found = {}
    for name, figure in scorecard.items():
        if isinstance(figure, Mapping) and isinstance(figure.get("value"), int | float):
            found[f"{split}/{name}"] = float(figure["value"])
            found |= {
                f"{split}_interval/{name}_{end}": float(figure[end])
                for end in ("low", "high")
                if figure.get(end) is not None
            }
    return found


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def _end(execution: Mapping[str, Any]) -> int:
    return _milliseconds(execution["started"]) + int(1000 * execution["seconds"])
