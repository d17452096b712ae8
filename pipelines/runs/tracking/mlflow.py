"""Runs in MLflow, if `MLFLOW_TRACKING_URI` is set: one run per execution, with nested runs of its candidates.

The runs of a search's trials are nested in one run of the search. The URI is a folder, a database
(`sqlite:///mlflow.db`), a server, or the ARN of a managed MLflow on SageMaker. For the latter, the package
`sagemaker-mlflow` signs the requests. The parent run exists, as `RUNNING`, from the start of the first step. Each
step's time and each candidate's epochs are written when the step ends, everything else when the execution ends.
Tracking a finished execution again finds its run by a tag and replaces it.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mammopipe.pipelines.backends.step_status import StepRecord
from mammopipe.pipelines.runs.tracking.mlflow_store import EXPERIMENT, EXPERIMENT_VARIABLE, Store, Trial
from mammopipe.processing.errors import ConfigError, MammopipeError

VARIABLE = "MLFLOW_TRACKING_URI"
_SECRET = re.compile(r"//[^/@]*@")
"""Matches the user and password of a server or database, which no message may show."""


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


def track_search(
    search: str, name: str, spaces: Mapping[str, str], trials: Sequence[Trial], files: Sequence[Path]
) -> None:
    """Write a search to MLflow if `MLFLOW_TRACKING_URI` is set: one run, with the runs of its trials nested in it.

    Args:
        search: Identifies the search.
        name: Name of its run.
        spaces: The values to choose from, as text, by key.
        trials: The trials that have ended.
        files: Files to attach.

    Raises:
        ConfigError: mlflow is not installed, or its store cannot be used.
    """
    uri = os.environ.get(VARIABLE)
    if uri:
        with _store(uri) as store:
            store.add_files(store.write_search(search, name, spaces, trials), files)


def showing(show: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return `show`, extended so that its observer of the steps also writes to MLflow if tracking is configured."""
    uri = os.environ.get(VARIABLE)
    return (lambda logs: _Live(show(logs), logs.parent, uri)) if uri else show


class _Live:
    """Shows a run and writes it to MLflow, in a thread because a store may respond late or never."""

    def __init__(self, shown: Any, folder: Path, uri: str) -> None:
        self._shown, self._folder, self._uri = shown, folder, uri
        self._writer, self._reported, self._broken = ThreadPoolExecutor(1), set[str](), False

    def __enter__(self) -> "_Live":
        self._shown.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> None:
        self._shown.__exit__(kind, *details)
        # An exception ends the run before its final state is written, so the end is written here.
        if kind is not None and not issubclass(kind, MammopipeError):
            self._writer.submit(self._write, [], broken_off=True)
        self._writer.shutdown()

    def changed(self, records: list[StepRecord]) -> None:
        """Show the status of the steps, and write the steps that have ended since the last call."""
        self._shown.changed(records)
        ended = [record for record in records if record.seconds is not None and record.name not in self._reported]
        if ended or not self._reported:
            self._reported |= {"", *(record.name for record in ended)}
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
def _store(uri: str) -> Iterator[Store]:
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
        yield Store(MlflowClient(tracking_uri=uri))
    except MlflowException as error:
        message = str(error).splitlines()[0].replace(uri, shown)
        raise ConfigError(f"{VARIABLE}={shown}: {message}") from None
