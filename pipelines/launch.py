"""`start`: one run, from a configuration to its results, on any backend."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines import results, sessions, staging
from pipelines.config import PipelineConfig
from pipelines.definition import build_pipeline
from pipelines.expressions import Scope
from pipelines.jobs import Workshop
from pipelines.local import Interpreter, Status, StepRecord
from pipelines.run_parameters import resolve_parameters
from pipelines.runs import RunFolder, make_work, new_run
from processing import phantom
from processing.errors import ConfigError
from processing.files import write_json
from processing.job import cores
from processing.records import Dataset

PHANTOMS = "phantoms"
"""The source that is made, not read."""


class Backend(StrEnum):
    """Where a pipeline runs."""

    PROCESS = "process"
    DOCKER = "docker"
    AWS = "aws"


@dataclass(frozen=True)
class Source:
    """Where a run's films come from."""

    place: str = PHANTOMS
    """A folder or tarball, an `s3://` folder that is staged already, or `phantoms`."""
    films: int = 40
    """How many phantoms to make."""
    weights: str = ""
    """A folder or file of pretrained weights, an `s3://` folder of staged ones, or nothing."""


@dataclass(frozen=True)
class Run:
    """A run, and what it left."""

    id: str
    status: Status
    reason: str = ""
    """Why it failed, in one sentence."""
    folder: Path | None = None
    """The folder of its results; None on AWS."""
    arn: str = ""
    """The execution's ARN on AWS."""

    def document(self, name: str) -> dict[str, Any]:
        """Return one of the run's JSON files: `evaluation.json`, `execution.json`, `invocation.json`, `endpoint.json`."""
        if self.folder is None:
            raise ConfigError(f"run {self.id} is on AWS; its {name} lies in the execution's folder on S3")
        return RunFolder(self.folder.parent, self.folder.name).document(name)


def start(config: PipelineConfig, *, backend: Backend | str = Backend.PROCESS, source: Source | str = Source(),  # noqa: B008
          parameters: Mapping[str, Any] | None = None, runs: Path = Path("runs"), keep_endpoint: bool = False,
          show: Callable[[Path], Any] | None = None, say: Callable[[str], None] = print) -> Run:
    """Run the pipeline of `config` and return the run: ended on the process backend, just started on AWS.

    `parameters` are values for the pipeline's parameters. `show(logs)` makes the context manager whose `changed(records)`
    is told of every step (default: `pipelines.progress.Progress`); `say` takes each line for the user. Raises
    `processing.errors.MammopipeError` for what the caller can mend before anything has run; a step that fails is no
    exception but the run's status and reason.
    """
    source = Source(source) if isinstance(source, str) else source
    if source.weights:
        config = replace(config, pretrained=True)
    if backend == Backend.AWS:
        return _start_on_aws(config, source, parameters or {}, say)
    if backend == Backend.DOCKER:
        raise ConfigError("backend docker: this version has no local mode in containers; use --backend process or aws")
    if show is None:
        from pipelines.progress import Progress
        show = Progress
    return _run_here(config, source, dict(parameters or {}), runs, keep_endpoint, show, say)


def _run_here(config: PipelineConfig, source: Source, given: dict[str, Any], root: Path, keep_endpoint: bool,
              show: Callable[[Path], Any], say: Callable[[str], None]) -> Run:
    started, clock = datetime.now(UTC), time.monotonic()
    run = new_run(root)
    with ExitStack() as stack:
        work = make_work(root, run.id)
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        services = stack.enter_context(sessions.local_services(config, cache=work / "sent"))
        compiled = build_pipeline(config).definition()
        definition = json.loads(compiled)
        _check_hyperparameters(config, resolve_parameters(definition, given))
        given |= _stage(config, source, services, given, say)
        values = resolve_parameters(definition, given)
        shop = Workshop(services.storage, work, run.logs, run.checkpoints, durable_storage=services.durable)
        account = _Account(run, config, definition, values, started, clock)
        with show(run.logs) as progress:
            interpreter = Interpreter(
                definition, Scope(values, _execution_variables(config, run.id, started)), shop, services.sagemaker,
                run.path / "endpoint" if keep_endpoint else work / "endpoint", services.environment, cores(),
                changed=lambda records: (account.changed(records), progress.changed(records)))
            results.write_text(run.path / "pipeline.json", compiled)
            status = _interpret(interpreter, account)
        if interpreter.endpoint is not None:
            stack.callback(interpreter.endpoint.stop)
        results.collect(definition, interpreter.scope.steps, services.storage, run.path)
        if interpreter.endpoint is not None:
            results.invoke(interpreter.endpoint, interpreter.scope.steps, values["InputDataUri"], services.storage, run.path, say)
            if keep_endpoint:
                interpreter.endpoint.keep(run.path)
                stack.pop_all().close() if False else None
        account.end(status, list(interpreter.records.values()))
        return account.conclude()
