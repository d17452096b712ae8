"""The `process` backend: interprets the compiled definition, the JSON that AWS would get, with jobs as local processes.

Every request goes through a boto3 client first, so the service's own model checks it. Steps that wait for nothing run
side by side, as many as the cores allow. What cannot be run is refused before anything starts (`pipelines.refusals`).
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError

from pipelines.expressions import Scope, holds, references, resolve
from pipelines.jobs import StepFailed, Workshop, run_processing, run_training, unpack_model
from pipelines.processes import RunEnding
from pipelines.refusals import all_steps, check
from pipelines.serving import LocalEndpoint, add_async, serve
from pipelines.storage import S3Uri
from processing.errors import MammopipeError

JOBS = ("Processing", "Training")


class Status(StrEnum):
    """How a step or a run stands; the words are SageMaker's."""

    WAITING = "Waiting"
    EXECUTING = "Executing"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"
    NOT_EXECUTED = "NotExecuted"


@dataclass
class StepRecord:
    """One step of a run."""

    name: str
    type: str
    status: Status = Status.WAITING
    started: str | None = None
    """UTC, ISO 8601."""
    seconds: float | None = None
    reason: str = ""
    clock: float = 0.0
    """`time.monotonic()` of the start."""

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "clock"}


@dataclass
class Interpreter:
    """One execution of one compiled definition."""

    definition: Mapping[str, Any]
    scope: Scope
    shop: Workshop
    sagemaker: Any
    """A boto3 SageMaker client."""
    serving: Path
    """Folder of the endpoint's model."""
    environment: Mapping[str, str]
    """What a served container needs to reach S3."""
    cores: int
    changed: Callable[[list[StepRecord]], None]
    """Called whenever a step starts or ends."""
    records: dict[str, StepRecord] = field(init=False)
    endpoints: list[LocalEndpoint] = field(default_factory=list)
    """The servers that endpoint steps started; stopping them is the caller's."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run, before anything starts."""
        check(self.definition, self.scope)
        self._steps = {step["Name"]: step for step in all_steps(self.definition["Steps"])}
        self.records = {name: StepRecord(name, step["Type"]) for name, step in self._steps.items()}
        self._pending = [step["Name"] for step in self.definition["Steps"]]
        self._threads = self._share_cores()

    def run(self) -> Status:
        """Run the steps to the end; when one fails, or this is interrupted, the others are stopped first."""
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(max(1, len(self._steps))) as pool:
            try:
                while True:
                    for name in self._startable(list(running.values())):
                        self._note(name, Status.EXECUTING)
                        running[pool.submit(self._execute, name)] = name
                    if not running:
                        break
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._finish(running.pop(future), future)
                    if self._failed():
                        self.shop.processes.stop()
            except BaseException:
                self.shop.processes.stop()
                wait(running)
                for future, name in running.items():
                    self._finish(name, future)
                raise
            finally:
                self._settle()
        return Status.FAILED if self._failed() else Status.SUCCEEDED

    def _startable(self, running: list[str]) -> list[str]:
        """Take out of the pending steps those that may start: all they need has succeeded, and cores are free."""
        if self._failed():
            return []
        free = self.cores - sum(self._threads[name] for name in running)
        chosen: list[str] = []
        for name in list(self._pending):
            ready = all(self.records[other].status is Status.SUCCEEDED for other in self._needs(name))
            if ready and (self._threads[name] <= free or not (running or chosen)):
                free -= self._threads[name]
                self._pending.remove(name)
                chosen.append(name)
        return chosen

    def _needs(self, name: str) -> set[str]:
        arguments = self._steps[name]["Arguments"]
        own = {key: value for key, value in arguments.items() if key not in ("IfSteps", "ElseSteps")}
        return references(own) | set(self._steps[name].get("DependsOn", []))

    def _share_cores(self) -> dict[str, int]:
        """Return the threads of each step: jobs of one depth of the graph share the cores, whatever else runs then.

        The figure depends on the definition and the machine alone, since a different number of threads changes the last
        digits of a training's results.
        """
        depth: dict[str, int] = {}

        def deep(name: str) -> int:
            if name not in depth:
                depth[name] = 0  # a cycle, which no SDK compiles, would otherwise never end
                depth[name] = 1 + max((deep(other) for other in self._needs(name)), default=0)
            return depth[name]

        jobs = [name for name, step in self._steps.items() if step["Type"] in JOBS]
        levels = [deep(name) for name in jobs]
        shares = {name: max(1, self.cores // levels.count(level)) for name, level in zip(jobs, levels, strict=True)}
        return {name: shares.get(name, 0) for name in self._steps}

    def _execute(self, name: str) -> None:
        step = self._steps[name]
        properties = _EXECUTORS[step["Type"]](self, step)
        self.scope.steps[name] = properties
        for file in step.get("PropertyFiles", []):
            self.scope.documents[name, file["PropertyFileName"]] = self._read_property_file(properties, file)

    def _finish(self, name: str, future: "Future[None]") -> None:
        error = future.exception()
        if error is None:
            self._note(name, Status.SUCCEEDED)
        elif isinstance(error, RunEnding):
            self._note(name, Status.STOPPED, str(error))
        elif isinstance(error, MammopipeError):
            self._note(name, Status.FAILED, str(error))
        elif isinstance(error, ParamValidationError | ClientError):
            self._note(name, Status.FAILED, f"SageMaker would refuse the request: {' '.join(str(error).split())}")
        else:
            raise error

    def _note(self, name: str, status: Status, reason: str = "") -> None:
        record = self.records[name]
        if status is Status.EXECUTING:
            record.clock, record.started = time.monotonic(), datetime.now(UTC).isoformat(timespec="milliseconds")
        else:
            record.seconds = round(time.monotonic() - record.clock, 3)
        record.status, record.reason = status, reason
        self.changed(list(self.records.values()))

    def _failed(self) -> bool:
        return any(record.status in (Status.FAILED, Status.STOPPED) for record in self.records.values())

    def _settle(self) -> None:
        for record in self.records.values():
            if record.status is Status.WAITING:
                record.status = Status.NOT_EXECUTED
            elif record.status is Status.EXECUTING:
                record.status, record.reason = Status.STOPPED, "stopped, because the run was ending"
        self.changed(list(self.records.values()))

    def _request(self, step: Mapping[str, Any], **names: str) -> dict[str, Any]:
        request: dict[str, Any] = resolve(step["Arguments"], self.scope) | names
        return request

    def _job_name(self, step: Mapping[str, Any]) -> str:
        """Return a job's name; SageMaker takes 63 letters, digits and hyphens."""
        return re.sub(r"[^A-Za-z0-9-]", "-", f"pipelines-{self.scope.execution['PipelineExecutionId']}-{step['Name']}")[
            :63
        ].rstrip("-")

    def _processing(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(step, ProcessingJobName=self._job_name(step))
        self.sagemaker.create_processing_job(**request)
        run_processing(step["Name"], request, self.shop, threads=self._threads[step["Name"]])
        return request

    def _training(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(step, TrainingJobName=self._job_name(step))
        self.sagemaker.create_training_job(**request)
        artefact = run_training(step["Name"], request, self.shop, threads=self._threads[step["Name"]])
        return request | {"ModelArtifacts": {"S3ModelArtifacts": artefact}}

    def _condition(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        outcome = all(holds(condition, self.scope) for condition in step["Arguments"]["Conditions"])
        chosen = step["Arguments"].get("IfSteps" if outcome else "ElseSteps", [])
        self._pending += [inner["Name"] for inner in chosen]
        return {"Outcome": str(outcome)}

    def _register(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(step)
        group = request["ModelPackageGroupName"]
        try:
            self.sagemaker.describe_model_package_group(ModelPackageGroupName=group)
        except ClientError:
            self.sagemaker.create_model_package_group(ModelPackageGroupName=group)
        return request | {"ModelPackageArn": self.sagemaker.create_model_package(**request)["ModelPackageArn"]}

    def _model(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(step, ModelName=self._job_name(step))
        self.sagemaker.create_model(**request)
        return request

    def _endpoint_config(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(step)
        self.sagemaker.create_endpoint_config(**request)
        return request

    def _endpoint(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        request = self._request(step)
        self.sagemaker.create_endpoint(**request)
        settings = self.sagemaker.describe_endpoint_config(EndpointConfigName=request["EndpointConfigName"])
        model = self.sagemaker.describe_model(ModelName=settings["ProductionVariants"][0]["ModelName"])
        container, log = model["PrimaryContainer"], self.shop.logs / f"{step['Name']}.log"
        folder = self._unpack(container["ModelDataUrl"], self.serving / step["Name"])
        endpoint = serve(
            request["EndpointName"],
            folder,
            log,
            self.shop.processes,
            threads=self.cores,
            environment=dict(container.get("Environment") or {}) | dict(self.environment),
        )
        if queue := settings.get("AsyncInferenceConfig"):
            front = log.with_stem(f"{step['Name']}-runtime")
            endpoint = add_async(endpoint, queue, folder, front, self.shop.processes, self.environment)
        self.endpoints.append(endpoint)
        return request

    def _unpack(self, uri: str, folder: Path) -> Path:
        """Unpack a model's archive into `folder/model` and return `folder`."""
        place, archive = S3Uri.parse(uri), folder / "model.tar.gz"
        found = [item for item in self.shop.storage.list(uri) if item.key == place.key]
        if not found:
            raise StepFailed(f"the model cannot be served: there is no object {place}")
        self.shop.storage.fetch(place, found[0], archive)
        unpack_model(archive, folder / "model")
        archive.unlink()
        return folder

    def _fail(self, step: Mapping[str, Any]) -> Mapping[str, Any]:
        raise StepFailed(str(resolve(step["Arguments"]["ErrorMessage"], self.scope)))

    def _read_property_file(self, properties: Mapping[str, Any], file: Mapping[str, str]) -> Any:
        outputs = {
            item["OutputName"]: item["S3Output"]["S3Uri"] for item in properties["ProcessingOutputConfig"]["Outputs"]
        }
        uri = f"{outputs[file['OutputName']].rstrip('/')}/{file['FilePath']}"
        try:
            return json.loads(self.shop.storage.read(uri))
        except ValueError as error:
            raise StepFailed(f"property file {uri} is not JSON: {error}") from None


_EXECUTORS: Mapping[str, Callable[[Interpreter, Mapping[str, Any]], Mapping[str, Any]]] = {
    "Processing": Interpreter._processing,
    "Training": Interpreter._training,
    "Condition": Interpreter._condition,
    "RegisterModel": Interpreter._register,
    "Model": Interpreter._model,
    "EndpointConfig": Interpreter._endpoint_config,
    "Endpoint": Interpreter._endpoint,
    "Fail": Interpreter._fail,
}
