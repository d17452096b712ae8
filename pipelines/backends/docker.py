"""The `docker` backend: the SageMaker SDK's own local mode with our images, and the steps that the SDK lacks.

The SDK resolves each step's request and runs jobs with Docker Compose, one after another. This module adds: the steps
for the package, the model, the endpoint configuration and the endpoint (which is a container of its own); inputs that
are prefixes instead of folders; complete logs; the reason that a failed job wrote; and clean-up after every run.

Only this module uses private names of the SDK, for the version that pyproject.toml pins. If another version changes
them, tests/pipelines/backends/test_docker.py fails.
"""

import copy
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import boto3
from sagemaker.core import common_utils
from sagemaker.core.local import image as local_image
from sagemaker.mlops.local import LocalPipelineSession
from sagemaker.mlops.local.exceptions import StepExecutionException
from sagemaker.mlops.local.pipeline import LocalPipelineExecutor, _StepExecutor, _StepExecutorFactory
from sagemaker.mlops.local.pipeline_entities import _LocalPipelineExecution, _LocalPipelineExecutionStep
from sagemaker.mlops.workflow.condition_step import ConditionStep
from sagemaker.mlops.workflow.steps import Step, StepTypeEnum

from mammopipe.pipelines.backends import control_plane
from mammopipe.pipelines.backends.execution import Execution
from mammopipe.pipelines.backends.jobs import JobContext, StepFailed, last_line
from mammopipe.pipelines.backends.process import job_name, share_cores
from mammopipe.pipelines.backends.processes import RunEnding
from mammopipe.pipelines.backends.step_status import Status, StepStatuses
from mammopipe.pipelines.backends.supported import all_steps, images
from mammopipe.pipelines.containers import docker_cli
from mammopipe.processing.container.job import REASON_LIMIT
from mammopipe.processing.container.network import LOCAL_VARIABLE
from mammopipe.processing.errors import ConfigError, MammopipeError

Properties = Mapping[str, Any]
JOB_NAMES = {StepTypeEnum.PROCESSING: "ProcessingJobName", StepTypeEnum.TRAINING: "TrainingJobName"}
NOT_IN_LOCAL_MODE = ("Tuning", "Transform")
"""Step types that the SDK's local executor does not know, or that this project has not tried there."""
_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_PREFIX = re.compile(rb"^[\w-]*algo-\d+-\w+\s*\| ?")
"""The prefix that Compose puts before each line of a container's output."""
_CHATTER = re.compile(
    rb"^\s*$|^ *(Creating|Starting|Attaching to|Network|Container|Aborting on|Gracefully|Stopping) ?"
    rb"|exited with code \d+$"
)
"""The lines that Compose prints about itself."""


@dataclass(kw_only=True)
class LocalMode(Execution):
    """One execution of one pipeline in the SDK's local mode."""

    pipeline: Any
    """The result of `build_pipeline`."""
    interrupt: BaseException | None = None
    """The exception that interrupted a job; kept because the SDK's telemetry wraps its calls and swallows it."""

    def __post_init__(self) -> None:
        """Refuse what cannot run: no engine, a missing image, sharded inputs."""
        definition = json.loads(self.pipeline.definition())
        steps = list(all_steps(definition["Steps"]))
        self.step_statuses = StepStatuses.of(((step["Name"], step["Type"]) for step in steps), self.changed)
        self.threads = share_cores(definition, self.cores)
        for step in steps:
            if step["Type"] in NOT_IN_LOCAL_MODE:
                raise ConfigError(f"step {step['Name']}: SDK local mode runs no {step['Type']}; use --backend process")
        if self.scope.parameters.get("DataDistribution", "FullyReplicated") != "FullyReplicated":
            raise ConfigError("DataDistribution: SDK local mode knows only FullyReplicated; use --backend process")
        self.images = sorted(image for step in steps for image in images(step["Arguments"]).values())
        docker_cli.require(self.images)
        docker_cli.sweep()

    @property
    def run_id(self) -> str:
        """The execution's id."""
        return self.scope.execution["PipelineExecutionId"]

    def run(self) -> Status:
        """Run the steps one after another; leaves nothing in Docker except endpoints."""
        session = _session(self.context, self.environment, self.run_id)
        execution = _Execution(
            self.run_id, self.pipeline, PipelineParameters=dict(self.scope.parameters), local_session=session
        )
        try:
            with _completed(self):
                _Executor(execution, session, self).execute()
        finally:
            self.step_statuses.settle()
            docker_cli.own(self.context.work, self.images[0])
        return Status.FAILED if self.step_statuses.failed else Status.SUCCEEDED

    def raise_interrupt(self) -> None:
        """Raise the exception that interrupted a job, if there was one."""
        if self.interrupt is not None:
            raise self.interrupt

    def server(self, step: str, container: Properties, folder: Path) -> dict[str, Any]:
        """Return the command of an endpoint step's container; its variables are part of the command."""
        name, image = f"mammopipe-{self.run_id}-{step.lower()}", container["Image"]
        variables, model = dict(container.get("Environment") or {}), folder / "model"
        return {
            "environment": {},
            "command": lambda port: docker_cli.serve_command(name, self.run_id, image, model, port, variables),
        }


def _session(context: JobContext, environment: Mapping[str, str], run: str) -> Any:
    """Return the SDK's local session on the run's S3, with its folders below the run's folder."""
    session = LocalPipelineSession(
        boto_session=boto3.Session(
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=environment.get("AWS_SESSION_TOKEN"),
            region_name=environment["AWS_DEFAULT_REGION"],
        ),
        # Not the run's own bucket: the SDK checks the owner of its default bucket before each transfer.
        default_bucket="unused",
        s3_endpoint_url=context.storage.endpoint,
        # Not empty: the SDK would then read the configuration files of the machine and the user.
        sagemaker_config={"SchemaVersion": "1.0"},
    )
    labels = docker_cli.job_labels(run)
    local = {"container_root": str(context.work), "local_code": False, "container_config": {"labels": labels}}
    session.config = {"local": local}
    return session


class _Execution(_LocalPipelineExecution):  # type: ignore[misc]
    """An execution that accepts every step type that we run."""

    def _initialize_step_execution(self, steps: Any) -> None:
        for step in steps:
            self.step_execution[step.name] = _LocalPipelineExecutionStep(
                step.name, step.step_type, step.description, step.display_name
            )
            if isinstance(step, ConditionStep):
                self._initialize_step_execution(step.if_steps + step.else_steps)


class _Executor(LocalPipelineExecutor):  # type: ignore[misc]
    """The SDK's executor; it also reports the status of steps, and names jobs as the other backends do."""

    def __init__(self, execution: _Execution, session: Any, mode: LocalMode) -> None:
        super().__init__(execution, session)
        self.mode = mode
        self._step_executor_factory = _Factory(self)

    def _execute_step(self, step: Step) -> None:
        step_statuses = self.mode.step_statuses
        if self.mode.context.processes.stopping.is_set():
            raise RunEnding("not started, because the run was ending")
        step_statuses.note(step.name, Status.EXECUTING)
        try:
            super()._execute_step(step)
            self.mode.raise_interrupt()
        except StepExecutionException as error:
            self._note_failure(step.name, error.message)
            raise
        except MammopipeError as error:
            step_statuses.note(step.name, Status.FAILED, str(error))
            raise StepExecutionException(step.name, str(error)) from None
        except BaseException:
            step_statuses.note(step.name, Status.STOPPED, "stopped, because the run was ending")
            raise
        step_statuses.note(step.name, Status.SUCCEEDED)

    def _note_failure(self, name: str, message: str) -> None:
        if self.mode.interrupt is None:
            self.mode.step_statuses.note(name, Status.FAILED, _plain(message))
            return
        self.mode.step_statuses.note(name, Status.STOPPED, "stopped, because the run was ending")
        self.mode.raise_interrupt()

    def evaluate_step_arguments(self, step: Step) -> dict[str, Any]:
        """Return a step's request, checked against the service's model, and store it for collecting the results."""
        request: dict[str, Any] = super().evaluate_step_arguments(step)
        mode, key = self.mode, JOB_NAMES.get(step.step_type)
        if key:
            request[key] = job_name(mode.run_id, step.name)
            create = mode.sagemaker.create_processing_job if "Processing" in key else mode.sagemaker.create_training_job
            create(**request)
            # LOCAL_VARIABLE: the SDK passes AWS's instance type to the container, and this machine may lack its GPU.
            threads = {
                "OMP_NUM_THREADS": str(mode.threads[step.name]),
                "PYTHONUNBUFFERED": "1",
                LOCAL_VARIABLE: "true",
            }
            request["Environment"] = {**threads, **(request.get("Environment") or {})}
        elif step.step_type is StepTypeEnum.CREATE_MODEL:
            request["ModelName"] = job_name(mode.run_id, step.name)
        mode.scope.steps[step.name] = copy.deepcopy(request)
        return request


class _Factory(_StepExecutorFactory):  # type: ignore[misc]
    """The SDK's executors, and ours for the step types that the SDK has none for."""

    def get(self, step: Step) -> _StepExecutor:
        run = _CONTROL_PLANE.get(step.step_type)
        return super().get(step) if run is None else _ControlPlane(self.pipeline_executor, step, run)


@dataclass
class _ControlPlane(_StepExecutor):  # type: ignore[misc]
    """Runs a step that is a single call of the SageMaker API."""

    pipline_executor: _Executor
    """The SDK spells the name like this."""
    step: Step
    call: Callable[[LocalMode, str, Properties], Properties]

    def execute(self) -> dict[str, Any]:
        request = self.pipline_executor.evaluate_step_arguments(self.step)
        return dict(self.call(self.pipline_executor.mode, self.step.name, request))


def _endpoint(mode: LocalMode, step: str, request: Properties) -> Properties:
    mode.serve(step, request)
    return request


_CONTROL_PLANE: Mapping[Any, Callable[[LocalMode, str, Properties], Properties]] = {
    StepTypeEnum.REGISTER_MODEL: lambda mode, step, request: control_plane.register(mode.sagemaker, request),
    StepTypeEnum.CREATE_MODEL: lambda mode, step, request: control_plane.create_model(mode.sagemaker, request),
    StepTypeEnum.ENDPOINT_CONFIG: lambda mode, step, request: control_plane.create_endpoint_config(
        mode.sagemaker, request
    ),
    StepTypeEnum.ENDPOINT: _endpoint,
}


@contextmanager
def _completed(mode: LocalMode) -> Iterator[None]:
    """During a run, make the SDK download as SageMaker does, and write the log, reason and clean-up of each job."""
    saved = common_utils.download_folder, local_image._stream_output

    def download(bucket: str, prefix: str, target: str, session: Any) -> None:
        uri = f"s3://{bucket}/{prefix.lstrip('/')}"
        if not mode.context.storage.download(uri, Path(target)):
            raise StepFailed(f"there is no object under {uri}")

    common_utils.download_folder = download
    local_image._stream_output = lambda process: _follow(process, mode)
    try:
        yield
    finally:
        common_utils.download_folder, local_image._stream_output = saved


def _follow(process: "subprocess.Popen[bytes]", mode: LocalMode) -> int:
    """Write a job's output to its log, remove its containers, and raise `StepFailed` with the reason if it failed."""
    (name,) = (record.name for record in mode.step_statuses.records.values() if record.status is Status.EXECUTING)
    command = [str(word) for word in process.args]  # type: ignore[union-attr]
    root = Path(command[command.index("-f") + 1]).parent
    log = mode.context.logs / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    seconds = mode.scope.steps[name].get("StoppingCondition", {}).get("MaxRuntimeInSeconds")
    clock = threading.Timer(seconds, process.terminate) if seconds else None
    try:
        if clock is not None:
            clock.start()
        with log.open("ab") as output:
            _copy(process.stdout, output)  # type: ignore[arg-type]
        code = process.wait()
        docker_cli.own(mode.context.work, mode.images[0])
        if code:
            timed_out = clock is not None and not clock.is_alive()
            raise StepFailed(f"stopped after MaxRuntimeInSeconds={seconds}" if timed_out else _reason(root, log, code))
    except (KeyboardInterrupt, SystemExit) as interrupt:
        mode.interrupt = interrupt
        raise
    finally:
        if clock is not None:
            clock.cancel()
        if process.poll() is None:
            process.terminate()
        process.communicate()
        docker_cli.compose_down(command)
    return code


def _copy(stream: IO[bytes], log: IO[bytes]) -> None:
    """Write a container's lines and errors, without Compose's prefixes and its messages about itself."""
    for raw in stream:
        line = _COLOUR.sub(b"", raw).rstrip(b"\r\n")
        text = _PREFIX.sub(b"", line)
        # A line with the prefix comes from the container, whatever it says.
        if text != line or not _CHATTER.search(line):
            log.write(text + b"\n")
            log.flush()


def _reason(root: Path, log: Path, code: int) -> str:
    """Return why a job failed: the reason that it wrote for SageMaker, or the last line of its log."""
    for file in sorted([*root.glob("*/output/failure"), *root.glob("*/output/message"), *root.glob("output/failure")]):
        if words := file.read_text(encoding="utf-8", errors="replace").split():
            return " ".join(words)[:REASON_LIMIT]
    line = last_line(log)
    return f"exit code {code}; its last line: {line}" if line else f"exit code {code}, without output"


def _plain(message: str) -> str:
    """Return the reason in an SDK error without our exception's name, which the SDK puts before it."""
    return message.removeprefix(f"{StepFailed.__name__}: ")
