"""`start`: one run, from a configuration to its results, on any backend."""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from mammopipe.pipelines.account.scaling import release_candidates
from mammopipe.pipelines.backends import sessions
from mammopipe.pipelines.backends.checkpoints import package_digest
from mammopipe.pipelines.backends.execution import Execution
from mammopipe.pipelines.backends.expressions import Scope
from mammopipe.pipelines.backends.jobs import JobContext
from mammopipe.pipelines.backends.local_endpoint import LocalEndpoint
from mammopipe.pipelines.backends.process import Interpreter
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import Keep, PipelineConfig
from mammopipe.pipelines.data.digests import with_digests
from mammopipe.pipelines.data.model_uri import folder_of
from mammopipe.pipelines.data.staging import stage_salt
from mammopipe.pipelines.data.step_cache import StepCache
from mammopipe.pipelines.data.test_reads import keep_reads, open_register
from mammopipe.pipelines.doctor import resources
from mammopipe.pipelines.graph import sdk
from mammopipe.pipelines.graph.aws_rules import check_run
from mammopipe.pipelines.graph.definition import build_pipeline
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.pipelines.runs import preflight, results
from mammopipe.pipelines.runs.execution_record import ExecutionRecord
from mammopipe.pipelines.runs.folder import CACHE, make_work, new_run
from mammopipe.pipelines.runs.progress import waiting
from mammopipe.pipelines.runs.run import Run
from mammopipe.pipelines.runs.sources import DataSource, bring
from mammopipe.pipelines.runs.tracking import mlflow, tensorboard
from mammopipe.processing.container.job import cores
from mammopipe.processing.errors import ConfigError, MammopipeError
from mammopipe.processing.files import disk_fault, write_bytes
from mammopipe.processing.phantoms import DEFAULT_PHANTOMS, PHANTOMS
from mammopipe.processing.splits import read_register


class Backend(StrEnum):
    """Where a pipeline runs."""

    PROCESS = "process"
    DOCKER = "docker"
    AWS = "aws"


@dataclass(frozen=True)
class _Options:
    """How a run is executed on this machine."""

    backend: Backend
    runs: Path
    keep_endpoint: bool
    """Whether the endpoint keeps running after the run."""
    show: Callable[[Path], Any]
    """Takes the log folder; returns the context manager whose `changed(records)` is called for every step."""
    say: Callable[[str], None]
    """Called with each line for the user."""


def start(
    config: PipelineConfig,
    *,
    backend: Backend | str = Backend.PROCESS,
    source: str = "",
    phantoms: int = DEFAULT_PHANTOMS,
    weights: str = "",
    parameters: Mapping[str, Any] | None = None,
    runs: Path | str = "runs",
    keep_endpoint: bool = False,
    show: Callable[[Path], Any] | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Run the pipeline of `config` and return the run: finished on the local backends, just started on AWS.

    Where `MLFLOW_TRACKING_URI` is set, a local run is tracked there. A run on AWS is tracked by the command that
    watches it.

    Args:
        config: The configuration.
        backend: Where the pipeline runs.
        source: A folder or tarball, an `s3://` folder that is already staged, or `phantoms`. Without a source, local
            runs use phantoms, and runs on AWS use the folder that the configuration names.
        phantoms: Number of phantoms, if `source` is `phantoms`.
        weights: A file or folder of pretrained weights, or an `s3://` folder.
        parameters: Values for the pipeline's parameters.
        runs: The folder of all runs.
        keep_endpoint: Whether the endpoint keeps running after the run.
        show: Takes the log folder; returns the context manager whose `changed(records)` is called for every step.
            The default is a live table.
        say: Called with each line for the user.

    Returns:
        The run. A failed step raises no exception; it sets the run's status and reason.

    Raises:
        MammopipeError: The caller can correct the problem, and no step has run.
    """
    if weights and config.init:
        raise ConfigError(f"init={config.init} and weights={weights}: training starts from one of them; leave one out")
    weights = weights or config.init
    config = config.replace(pretrained=True, init="") if weights else config
    choice, given = _backend(backend), dict(parameters or {})
    preflight.check(config, source, weights, given, Path(runs), phantoms=phantoms, on_aws=choice is Backend.AWS)
    if choice is Backend.DOCKER:
        preflight.check_local_mode(config)
    if choice is Backend.AWS:
        return _start_on_aws(config, {**_staged(config, source, weights), **given}, say)
    options = _Options(choice, Path(runs), keep_endpoint, mlflow.showing(show or _live_table), say)
    return _tracked(_run_here(config, DataSource(source or PHANTOMS, phantoms, weights), given, options))


def _tracked(run: Run) -> Run:
    """Write a run to MLflow if tracking is configured; a failure to do so does not fail the run."""
    if run.folder is None:
        return run
    try:
        mlflow.track_if_asked(run.folder)
    except ConfigError as error:
        return replace(run, untracked=str(error))
    return run


def _backend(name: str) -> Backend:
    try:
        return Backend(name)
    except ValueError:
        raise ConfigError(f"backend {name!r}: must be one of {', '.join(Backend)}") from None


def _run_here(config: PipelineConfig, source: DataSource, given: dict[str, Any], options: _Options) -> Run:
    record = ExecutionRecord(new_run(options.runs), config, str(options.backend))
    with waiting("compiling"):
        pipeline = build_pipeline(config)
        compiled: str = pipeline.definition()
    execution: Execution | None = None
    try:
        with ExitStack() as stack:
            work = make_work(options.runs, record.run.id)
            stack.callback(_remove, work)
            # Containers can only reach S3 through its API; processes on this machine can share its disk.
            folder = work / "s3" if options.backend is Backend.PROCESS else None
            services = stack.enter_context(sessions.local_services(config, cache=work / "sent", folder=folder))
            execution = _execution(record, pipeline, services, work, given, options)
            record.parameters = bring(config, source, services, record.parameters, given, options.say)
            if source.place.startswith("s3://"):
                amount = resources.amount_on_s3(services.storage.list(source.place))
                resources.check_here(preflight.with_parameters(config, given), amount, options.runs, source.place)
            # Where S3 ends with the run, the register lies beside the runs.
            kept = None if services.durable else options.runs / read_register.NAME / config.dataset
            open_register(config, services.storage, kept)
            if kept is not None:
                record.evaluated = lambda: keep_reads(config, services.storage, kept)
            record.parameters = with_digests(record.parameters, given, services.storage)
            execution.scope.parameters = record.parameters
            write_bytes(record.run.path / "pipeline.json", compiled.encode())
            _carry_out(record, execution, services, options)
    except BaseException:
        # Here, where the work folder is gone: on a full disk, that makes room for the record.
        if execution is not None and record.status is Status.STOPPED:
            record.end(execution)
        raise
    return record.end(execution)


def _remove(work: Path) -> None:
    """Remove the files that only this run needed; with many images it takes minutes on some disks."""
    with waiting("removing temporary files"):
        shutil.rmtree(work, ignore_errors=True)


def _execution(
    record: ExecutionRecord,
    pipeline: Any,
    services: sessions.LocalServices,
    work: Path,
    given: Mapping[str, Any],
    options: _Options,
) -> Execution:
    """Return the execution of this run; its parameters and all steps have been checked."""
    run, config, definition = record.run, record.config, json.loads(pipeline.definition())
    record.parameters = resolve_parameters(definition, given)
    check_run(config, definition, record.parameters)
    for cnn in config.cnns:  # raises now for settings that the training jobs would reject later
        config.training_of(cnn, epochs=record.parameters["Epochs"])
    arn = f"arn:aws:sagemaker:{config.region}:000000000000:pipeline/{config.name}"
    execution = {
        "PipelineExecutionId": run.id,
        "PipelineExecutionArn": f"{arn}/execution/{run.id}",
        "PipelineName": config.name,
        "PipelineArn": arn,
        "StartDateTime": record.started,
        "CurrentDateTime": record.started,
    }
    scope = Scope(record.parameters, execution)
    cache = (
        StepCache(run.root / CACHE, services.storage, package_digest(), config.compute.cache_gigabytes * 1e9)
        if config.compute.cache
        else None
    )
    context = JobContext(
        services.storage, work, run.logs, run.checkpoints, durable_storage=services.durable, cache=cache
    )
    serving = run.path / "endpoint" if options.keep_endpoint else work / "endpoint"
    common: dict[str, Any] = {
        "scope": scope, "context": context, "sagemaker": services.sagemaker, "serving": serving,
        "environment": services.environment, "cores": cores(), "changed": record.changed,
    }  # fmt: skip
    if options.backend is Backend.PROCESS:
        return Interpreter(definition=definition, **common)
    with sdk.quiet_sdk():
        from mammopipe.pipelines.backends.docker import LocalMode

    return LocalMode(pipeline=pipeline, **common)


def _carry_out(
    record: ExecutionRecord, execution: Execution, services: sessions.LocalServices, options: _Options
) -> None:
    """Run the steps, collect the results and ask the endpoint; stops every process except an endpoint to keep."""
    try:
        with options.show(record.run.logs) as progress:
            record.listener = progress.changed
            record.status = execution.run()
        steps, storage, folder = execution.scope.steps, services.storage, record.run.path
        results.collect(steps, storage, folder)
        if (folder / "evaluation.json").is_file():
            selected = record.run.document("evaluation.json")["selected"]["cnn"]
            results.keep(steps, storage, folder, record.config.keep, selected)
            if Keep.TENSORBOARD in record.config.keep:
                tensorboard.write_events(folder)
        for endpoint in list(execution.endpoints):
            _ask_endpoint(record, execution, endpoint, services, options)
    except MammopipeError as error:
        record.status, record.reason = Status.FAILED, str(error)
    except BaseException as error:
        fault = "interrupted" if isinstance(error, KeyboardInterrupt) else disk_fault(error)
        record.status = Status.STOPPED
        record.reason = fault or f"{type(error).__name__}: a fault of mammopipe"
        raise
    finally:
        for endpoint in execution.endpoints:
            endpoint.stop()


def _ask_endpoint(
    record: ExecutionRecord,
    execution: Execution,
    endpoint: LocalEndpoint,
    services: sessions.LocalServices,
    options: _Options,
) -> None:
    """Send a test image to the endpoint, and keep the endpoint running if the caller asked for that."""
    steps, raw = execution.scope.steps, execution.scope.parameters["InputDataUri"]
    image = results.choose_image(steps, raw, services.storage)
    if image is not None:
        results.ask(endpoint, image, services.storage, record.run.path, options.say)
    if options.keep_endpoint and endpoint.asynchronous and not services.durable:
        options.say(f"Endpoint {endpoint.name} ends with the run, as its S3 does; set AWS_ENDPOINT_URL_S3 to keep both")
    elif options.keep_endpoint:
        endpoint.keep(record.run.path)
        execution.endpoints.remove(endpoint)


def _live_table(logs: Path) -> Any:
    from mammopipe.pipelines.runs.progress import RunProgress

    return RunProgress(logs)


def _staged(config: PipelineConfig, source: str, weights: str) -> dict[str, str]:
    """Return the parameters that name the images and weights of a run on AWS; both must be on S3."""
    if source == PHANTOMS:
        raise ConfigError(f"{PHANTOMS}: made on this machine only; on AWS, give the s3:// folder of staged images")
    places = {"InputDataUri": (source, config.dataset), "WeightsUri": (weights, "weights")}
    for place, what in places.values():
        if place and not place.startswith("s3://"):
            raise ConfigError(f"{place}: stage it first (mammopipe stage {what} ...), then give the s3:// folder")
    return {name: folder_of(place) for name, (place, _) in places.items() if place}


def _start_on_aws(config: PipelineConfig, given: Mapping[str, Any], say: Callable[[str], None]) -> Run:
    """Upload the definition to AWS and start it; needs credentials, and a role in the configuration."""
    if sessions.PLACEHOLDER_ACCOUNT in config.security.role:
        raise ConfigError(
            f"security.role={config.security.role}: set the execution role of your account for --backend aws"
        )
    config = config.on_aws()
    session = sdk.aws_session(config)
    pipeline = build_pipeline(config, session)
    definition = json.loads(pipeline.definition())
    values = resolve_parameters(definition, given)
    check_run(config, definition, values)
    storage = sessions.caller_storage(config)
    stage_salt(config, storage)
    open_register(config, storage)
    if place := values.get("WeightsUri"):
        preflight.check_staged_weights(config, [item.key for item in storage.list(f"{place}/")], place)
    images = resources.amount_on_s3(storage.list(values["InputDataUri"]))
    resources.check_instances(preflight.with_parameters(config, values), images, values["InputDataUri"])
    values = with_digests(values, given, storage)
    clients = session.boto_session.client
    scaling = clients("application-autoscaling")
    release_candidates(config, values["EndpointInstanceType"], clients("sagemaker"), scaling, say)
    with sessions.aws_errors():
        made = pipeline.upsert(role_arn=config.security.role)
        # Start the version just written: another one may be written before the start. A new pipeline has only one.
        version = {"pipeline_version_id": made["PipelineVersionId"]} if made.get("PipelineVersionId") else {}
        execution = pipeline.start(parameters=values, **version)
    say(f"Started {execution.arn}, which reads {values['InputDataUri']}")
    return Run(execution.arn.rpartition("/")[2], Status.EXECUTING, arn=execution.arn)
