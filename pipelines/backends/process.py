"""The `process` backend: interprets the compiled definition, the same JSON that AWS gets; jobs are local processes.

A boto3 client first checks each request against the service's own model. Steps whose dependencies have finished run in
parallel, as far as the cores allow. Definitions that cannot be run are refused before anything starts
(`mammopipe.pipelines.backends.supported`).
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError

from mammopipe.pipelines.backends import control_plane
from mammopipe.pipelines.backends.execution import Execution
from mammopipe.pipelines.backends.expressions import holds, references, resolve
from mammopipe.pipelines.backends.jobs import StepFailed, model_folder, run_processing, run_training
from mammopipe.pipelines.backends.processes import RunEnding
from mammopipe.pipelines.backends.step_status import Status, StepStatuses
from mammopipe.pipelines.backends.supported import all_steps, check, own_arguments
from mammopipe.pipelines.local_jobs.transform import run_transform
from mammopipe.pipelines.local_jobs.tuning import SearchStep, run_tuning
from mammopipe.processing.errors import MammopipeError
from mammopipe.processing.files import disk_fault
from mammopipe.processing.splits import read_register

JOBS = ("Processing", "Training", "Tuning", "Transform")


def needs(step: Mapping[str, Any]) -> set[str]:
    """Return the names of the steps that a compiled step waits for."""
    return references(own_arguments(step)) | set(step.get("DependsOn", []))


def share_cores(definition: Mapping[str, Any], cores: int) -> dict[str, int]:
    """Return the threads of each step: jobs at the same depth of the graph share the cores, even if they run alone.

    The number depends only on the definition and the machine, not on which steps happen to run: a different number of
    threads changes the last digits of training results.
    """
    steps = {step["Name"]: step for step in all_steps(definition["Steps"])}
    depth: dict[str, int] = {}

    def deep(name: str) -> int:
        if name not in depth:
            depth[name] = 0  # prevents an endless recursion, although the SDK compiles no cycles
            depth[name] = 1 + max((deep(other) for other in needs(steps[name])), default=0)
        return depth[name]

    jobs = [name for name, step in steps.items() if step["Type"] in JOBS]
    levels = [deep(name) for name in jobs]
    shares = {name: max(1, cores // levels.count(level)) for name, level in zip(jobs, levels, strict=True)}
    return {name: shares.get(name, 0) for name in steps}


def job_name(execution: str, step: str, *, most: int = 63) -> str:
    """Return a job's name of letters, digits and hyphens; SageMaker allows 63, for a search 32."""
    if most < 63:  # too short for an execution's whole id; the digest still distinguishes two runs
        execution = hashlib.sha256(execution.encode()).hexdigest()[:12]
        return re.sub(r"[^A-Za-z0-9]+", "-", f"{execution}-{step}")[:most].strip("-")
    return re.sub(r"[^A-Za-z0-9-]", "-", f"pipelines-{execution}-{step}")[:most].rstrip("-")


@dataclass(kw_only=True)
class Interpreter(Execution):
    """One execution of one compiled definition."""

    definition: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse what cannot be run, before anything starts."""
        check(self.definition, self.scope)
        self._steps = {step["Name"]: step for step in all_steps(self.definition["Steps"])}
        self.step_statuses = StepStatuses.of(((name, step["Type"]) for name, step in self._steps.items()), self.changed)
        self._pending = [step["Name"] for step in self.definition["Steps"]]
        self._threads = share_cores(self.definition, self.cores)

    def run(self) -> Status:
        """Run all steps; if one fails, or on an interrupt, the others are stopped first."""
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(max(1, len(self._steps))) as pool:
            try:
                while True:
                    for name in self._startable(list(running.values())):
                        self.step_statuses.note(name, Status.EXECUTING)
                        running[pool.submit(self._execute, name)] = name
                    if not running:
                        break
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._finish(running.pop(future), future)
                    if self.step_statuses.failed:
                        self.context.processes.stop()
            except BaseException:
                # Also for Ctrl-C: jobs must not outlive the run, and each step gets its final status.
                self.context.processes.stop()
                wait(running)
                for future, name in running.items():
                    self._finish(name, future)
                raise
            finally:
                self.step_statuses.settle()
        return Status.FAILED if self.step_statuses.failed else Status.SUCCEEDED

    def _startable(self, running: list[str]) -> list[str]:
        """Remove and return the pending steps that may start: their dependencies succeeded, and cores are free."""
        if self.step_statuses.failed:
            return []
        free = self.cores - sum(self._threads[name] for name in running)
        chosen: list[str] = []
        for name in list(self._pending):
            ready = all(
                self.step_statuses.records[other].status is Status.SUCCEEDED for other in needs(self._steps[name])
            )
            # A step that wants more threads than the machine has must still start when nothing else runs.
            if ready and (self._threads[name] <= free or not (running or chosen)):
                free -= self._threads[name]
                self._pending.remove(name)
                chosen.append(name)
        return chosen

    def _execute(self, name: str) -> None:
        step = self._steps[name]
        properties = _EXECUTORS[step["Type"]](self, step)
        self.scope.steps[name] = properties
        for file in step.get("PropertyFiles", []):
            self.scope.documents[name, file["PropertyFileName"]] = self._read_property_file(properties, file)

    def _finish(self, name: str, future: "Future[None]") -> None:
        error = future.exception()
        if error is None:
            self.step_statuses.note(name, Status.SUCCEEDED)
        elif isinstance(error, RunEnding):
            self.step_statuses.note(name, Status.STOPPED, str(error))
        elif isinstance(error, MammopipeError):
            self.step_statuses.note(name, Status.FAILED, str(error))
        elif fault := disk_fault(error):
            self.step_statuses.note(name, Status.FAILED, fault)
        elif isinstance(error, ParamValidationError | ClientError):
            self.step_statuses.note(
                name, Status.FAILED, f"SageMaker would refuse the request: {' '.join(str(error).split())}"
            )
        else:
            raise error

    def _request(self, step: Mapping[str, Any], **names: str) -> dict[str, Any]:
        request: dict[str, Any] = resolve(step["Arguments"], self.scope) | names
        return request

    def _job_name(self, step: Mapping[str, Any]) -> str:
        return job_name(self.scope.execution["PipelineExecutionId"], step["Name"])

    def _processing(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(step, ProcessingJobName=self._job_name(step))
        self.sagemaker.create_processing_job(**request)
        outputs = request["ProcessingOutputConfig"]["Outputs"]
        # Entries of the register of test reads belong to one evaluation; a later run must not reuse them.
        places = {
            item["OutputName"]: item["S3Output"]["S3Uri"]
            for item in outputs
            if item["OutputName"] != read_register.NAME
        }
        with self._reused(step, step["Type"], request, places, self._log(step)) as done:
            if not done:
                run_processing(step["Name"], request, self.context, threads=self._threads[step["Name"]])
        return request

    def _training(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(step, TrainingJobName=self._job_name(step))
        self.sagemaker.create_training_job(**request)
        folder = model_folder(request)
        with self._reused(step, step["Type"], request, {"model": folder}, self._log(step)) as done:
            if not done:
                run_training(step["Name"], request, self.context, threads=self._threads[step["Name"]])
        return request | {"ModelArtifacts": {"S3ModelArtifacts": f"{folder}/model.tar.gz"}}

    def _tuning(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        execution = self.scope.execution["PipelineExecutionId"]
        request = self._request(step, HyperParameterTuningJobName=job_name(execution, step["Name"], most=32))
        self.sagemaker.create_hyper_parameter_tuning_job(**request)
        reuse = partial(self._reused, step, "Training")
        return run_tuning(SearchStep(step["Name"], request, self.context, self._threads[step["Name"]], reuse))

    def _transform(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(step, TransformJobName=self._job_name(step))
        self.sagemaker.create_transform_job(**request)
        container = self.sagemaker.describe_model(ModelName=request["ModelName"])["PrimaryContainer"]
        run_transform(step["Name"], request, container, self.context, threads=self._threads[step["Name"]])
        return request

    def _log(self, step: Mapping[str, Any]) -> Path:
        return self.context.logs / f"{step['Name']}.log"

    @contextmanager
    def _reused(
        self, step: Mapping[str, Any], kind: str, request: Mapping[str, Any], places: Mapping[str, str], log: Path
    ) -> Iterator[bool]:
        """Yield whether an earlier run's results replace this job; otherwise cache the results of the body."""
        settings, cache = step.get("CacheConfig") or {}, self.context.cache
        if cache is None or not settings.get("Enabled"):
            yield False
            return
        key = cache.key(kind, request)
        if cache.restore(key, places, settings["ExpireAfter"]):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(f"reused: results of an earlier run with equal inputs ({key[:12]})\n", encoding="utf-8")
            yield True
            return
        yield False
        cache.keep(key, places)

    def _condition(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        outcome = all(holds(condition, self.scope) for condition in step["Arguments"]["Conditions"])
        chosen = step["Arguments"].get("IfSteps" if outcome else "ElseSteps", [])
        self._pending += [inner["Name"] for inner in chosen]
        return {"Outcome": str(outcome)}

    def _register(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        return control_plane.register(self.sagemaker, self._request(step))

    def _model(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        return control_plane.create_model(self.sagemaker, self._request(step, ModelName=self._job_name(step)))

    def _endpoint_config(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        return control_plane.create_endpoint_config(self.sagemaker, self._request(step))

    def _endpoint(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(step)
        self.serve(step["Name"], request)
        return request

    def server(self, step: str, container: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Return the container's own variables and those that give access to S3."""
        return {"environment": dict(container.get("Environment") or {}) | dict(self.environment)}

    def _fail(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        raise StepFailed(str(resolve(step["Arguments"]["ErrorMessage"], self.scope)))

    def _read_property_file(self, properties: Mapping[str, Any], file: Mapping[str, str]) -> Any:
        outputs = {
            item["OutputName"]: item["S3Output"]["S3Uri"] for item in properties["ProcessingOutputConfig"]["Outputs"]
        }
        uri = f"{outputs[file['OutputName']].rstrip('/')}/{file['FilePath']}"
        try:
            return json.loads(self.context.storage.read(uri))
        except ValueError as error:
            raise StepFailed(f"property file {uri} is not JSON: {error}") from None


_EXECUTORS: Mapping[str, Callable[[Interpreter, Mapping[str, Any]], Mapping[str, Any]]] = {
    "Processing": Interpreter._processing,
    "Training": Interpreter._training,
    "Tuning": Interpreter._tuning,
    "Transform": Interpreter._transform,
    "Condition": Interpreter._condition,
    "RegisterModel": Interpreter._register,
    "Model": Interpreter._model,
    "EndpointConfig": Interpreter._endpoint_config,
    "Endpoint": Interpreter._endpoint,
    "Fail": Interpreter._fail,
}
