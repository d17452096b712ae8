"""Runs in MLflow: one parent run per execution, one nested run per candidate; active if `MLFLOW_TRACKING_URI` is set.

The URI is a folder, a database (`sqlite:///mlflow.db`), a server, or the ARN of a managed MLflow on SageMaker. For the
latter, the package `sagemaker-mlflow` signs the requests. The parent run exists, as `RUNNING`, from the start of the
first step. Each step's time and each candidate's epochs are written when the step ends, everything else when the
execution ends. Tracking a finished execution again finds its run by a tag and replaces it.
"""

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tarfile import is_tarfile
from tempfile import TemporaryDirectory
from typing import Any

from mammopipe.pipelines.backends.step_status import Status, StepRecord
from mammopipe.pipelines.runs.progress import log_of
from mammopipe.processing.errors import ConfigError, MammopipeError
from mammopipe.training.model.archive import unpack

VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "mammopipe"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's page show runs and curves instead of the tools for language models."""
TAG, PARENT = "mammopipe.execution", "mlflow.parentRunId"
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
_SECRET = re.compile(r"//[^/@]*@")
"""Matches the user and password of a server or database, which no message may show."""
_FIGURE = re.compile(r"(\w+)=([0-9.e+-]+|nan)(?:\s|$)")
ENDED = {Status.SUCCEEDED: "FINISHED", Status.FAILED: "FAILED", Status.STOPPED: "KILLED"}


def track_if_asked(folder: Path) -> str | None:
    """Write a run's folder to MLflow if `MLFLOW_TRACKING_URI` is set, and return the MLflow run's id."""
    uri = os.environ.get(VARIABLE)
    if not uri:
        return None
    run = track(folder, uri)
    print(f"Tracked in MLflow as run {run} of experiment {os.environ.get(EXPERIMENT_VARIABLE) or EXPERIMENT}")
    return run


def track(folder: Path, uri: str) -> str:
    """Write a run's folder to the MLflow at `uri` and return the id of its parent run.

    Raises `ConfigError` if mlflow is not installed or its store cannot be used.
    """
    with _store(uri) as store:
        return store.write(folder)


def showing(show: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return `show`, extended so that its observer of the steps also writes to MLflow if tracking is configured."""
    uri = os.environ.get(VARIABLE)
    return (lambda logs: _Live(show(logs), logs.parent, uri)) if uri else show


class _Live:
    """Shows a run and writes it to MLflow, in a thread because a store may respond late or never."""

    def __init__(self, shown: Any, folder: Path, uri: str) -> None:
        self._shown, self._folder, self._uri = shown, folder, uri
        self._writer, self._told, self._broken = ThreadPoolExecutor(1), set[str](), False

    def __enter__(self) -> "_Live":
        self._shown.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> None:
        self._shown.__exit__(kind, *details)
        # An exception ends the run before its final state is written, so MLflow is told here.
        if kind is not None and not issubclass(kind, MammopipeError):
            self._writer.submit(self._write, [], broken_off=True)
        self._writer.shutdown()

    def changed(self, records: list[StepRecord]) -> None:
        """Show the status of the steps, and write the steps that have ended since the last call."""
        self._shown.changed(records)
        ended = [record for record in records if record.seconds is not None and record.name not in self._told]
        if ended or not self._told:
            self._told |= {"", *(record.name for record in ended)}
            self._writer.submit(self._write, ended)

    def _write(self, ended: list[StepRecord], *, broken_off: bool = False) -> None:
        if self._broken:
            return
        try:
            with _store(self._uri) as store:
                store.write_steps(self._folder, ended, broken_off=broken_off)
        except ConfigError as error:
            self._broken = True
            print(f"{error}; tried again at the end of the run", file=sys.stderr, flush=True)


@contextmanager
def _store(uri: str) -> Iterator["_Store"]:
    """Yield the store at `uri`; turns MLflow's exceptions into a one-line `ConfigError`."""
    shown = _SECRET.sub("//", uri)
    try:
        with warnings.catch_warnings():
            # In a notebook without ipywidgets. No progress bar is wanted here.
            warnings.filterwarnings("ignore", message="IProgress not found")
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it logs every new database
    except ImportError:
        raise ConfigError(f"{VARIABLE}={shown}: mlflow is not installed; pip install 'mammopipe[tracking]'") from None
    try:
        yield _Store(MlflowClient(tracking_uri=uri))
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
        parent, known = self._parent(execution)
        for step in execution["steps"]:
            if step["seconds"] is not None and f"seconds/{step['name']}" not in known:
                self.client.log_metric(parent, f"seconds/{step['name']}", step["seconds"])
        if (folder / "evaluation.json").is_file():
            evaluation = _read(folder / "evaluation.json")
            self._selected(parent, evaluation)
            for key, value in _flat(_data_facts(evaluation)).items():
                self.client.log_param(parent, key, value)
            candidates = evaluation.get("candidates", {})
            for run in self._runs(execution) if candidates else []:
                if run.info.run_id != parent:
                    self.client.delete_run(run.info.run_id)  # the evaluation has its epochs, with more figures
            for name, candidate in candidates.items():
                self._candidate(parent, execution, name, candidate, selected=name == evaluation["selected"]["cnn"])
        self._artefacts(parent, folder)
        self.client.set_terminated(parent, ENDED.get(execution["status"], "FAILED"), end_time=_end(execution))
        self._model(parent, folder / "model.tar.gz")
        return parent

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
        for old in runs:
            self.client.delete_run(old.info.run_id)
        tags = {TAG: execution["id"], "mlflow.runName": execution["id"], "backend": execution.get("backend", "process")}
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
                self.client.log_artifacts(parent, str(_flavour(archive, Path(scratch))), FLAVOUR)


def _flavour(archive: Path, scratch: Path) -> Path:
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


def _data_facts(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    stage = evaluation.get("stage", {})
    return {f"data/{key}": stage[key] for key in ("digest", "input_digest") if key in stage}


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
