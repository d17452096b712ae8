"""Processing and training jobs as local processes; each instance has its own `/opt/ml`.

Source: "How Amazon SageMaker Processing Runs Your Processing Container Image" and "How Amazon SageMaker AI Provides
Training Information" (SageMaker Developer Guide).
"""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mammopipe.pipelines.backends.checkpoints import held, job_digest
from mammopipe.pipelines.backends.processes import RunEnding, RunningProcesses, SupervisedProcess
from mammopipe.pipelines.config.compute import Distribution, InputMode
from mammopipe.pipelines.data.s3 import Storage
from mammopipe.pipelines.data.step_cache import StepCache
from mammopipe.processing.container.job import NO_DISK, REASON_LIMIT
from mammopipe.processing.container.paths import OPT_ML, ContainerPaths
from mammopipe.processing.container.s3_uri import S3Uri
from mammopipe.processing.errors import ConfigError, MammopipeError
from mammopipe.processing.files import write_json
from mammopipe.training.model.archive import pack, unpack

ENTRYPOINTS: Mapping[str, Sequence[str]] = {
    "python": [sys.executable],
    "python3": [sys.executable],
    "train": [sys.executable, "-m", "mammopipe.training.train"],
    "serve": [sys.executable, "-m", "mammopipe.inference.server"],
}
"""Maps the images' commands to commands on this machine."""


class StepFailed(MammopipeError):
    """A step failed; the message is the reason."""


@dataclass(frozen=True)
class JobContext:
    """The folders and services that jobs use."""

    storage: Storage
    work: Path
    """Folder of the jobs' file trees; each tree is removed when its job has ended."""
    logs: Path
    checkpoints: Path
    """Folder that outlives the run: training jobs keep their checkpoints there until they succeed."""
    durable_storage: bool = False
    """Whether S3 outlives the run; only then are checkpoints copied there."""
    cache: StepCache | None = None
    """Results of earlier runs; None runs every step."""
    processes: RunningProcesses = field(default_factory=RunningProcesses)
    """The running jobs."""


@dataclass(frozen=True)
class Job:
    """One job: the same command on each of its instances."""

    name: str
    trees: Mapping[str, ContainerPaths]
    """The folders of each instance, by its host name."""
    command: Sequence[str]
    reason_file: str
    """The file in `/opt/ml/output` with the reason for a failure."""
    threads: int
    """Threads of each instance."""
    environment: Mapping[str, str]
    seconds: int | None
    """Seconds after which the job is stopped (MaxRuntimeInSeconds)."""

    def log(self, logs: Path, host: str) -> Path:
        """Return the log file of an instance."""
        return logs / (f"{self.name}.log" if len(self.trees) == 1 else f"{self.name}-{host}.log")


def run_processing(name: str, request: Mapping[str, Any], context: JobContext, *, threads: int) -> None:
    """Run a processing job as local processes, from the download of its inputs to the upload of its outputs.

    Args:
        name: Name of the step; it also names the logs.
        request: The `CreateProcessingJob` request; it sets the number of instances.
        context: Where jobs run.
        threads: Number of threads, shared by the instances.

    Raises:
        StepFailed: An instance failed.
    """
    count = int(request["ProcessingResources"]["ClusterConfig"]["InstanceCount"])
    outputs = [output["S3Output"] for output in request["ProcessingOutputConfig"]["Outputs"]]
    with _trees(context, name, count) as trees:
        job = _job(name, trees, request, request["AppSpecification"], "message", max(1, threads // count))
        for host, paths in trees.items():
            write_json(paths.base / "config" / "resourceconfig.json", {"current_host": host, "hosts": list(trees)})
            write_json(paths.base / "config" / "processingjobconfig.json", request)
            _make([paths.output, *(paths.local(output["LocalPath"]) for output in outputs)])
        for item in request.get("ProcessingInputs", []):
            source = item["S3Input"]
            folders = [paths.local(source["LocalPath"]) for paths in trees.values()]
            sharded = source.get("S3DataDistributionType") == Distribution.SHARDED
            _provide(context, item["InputName"], source["S3Uri"], folders, sharded=sharded)
        _run(job, context)
        # EndOfJob: a job that fails uploads nothing.
        for paths in trees.values():
            for output in outputs:
                context.storage.upload(paths.local(output["LocalPath"]), output["S3Uri"])


def model_folder(request: Mapping[str, Any]) -> str:
    """Return the S3 folder to which a training job's `model.tar.gz` is written."""
    return f"{request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{request['TrainingJobName']}/output"


def run_training(name: str, request: Mapping[str, Any], context: JobContext, *, threads: int) -> str:
    """Run a training job as a local process.

    Args:
        name: Name of the step; it also names the log.
        request: The `CreateTrainingJob` request.
        context: Where jobs run.
        threads: Number of threads.

    Returns:
        The S3 URI of the job's `model.tar.gz`.

    Raises:
        StepFailed: The job failed.
    """
    with _trees(context, name, 1) as trees:
        (paths,) = trees.values()
        specification = {"ContainerEntrypoint": ["train"], **request["AlgorithmSpecification"]}
        job = _job(name, trees, request, specification, "failure", threads)
        _write_training_config(paths, request)
        for channel in request.get("InputDataConfig", []):
            _provide_channel(context, channel, paths.channel(channel["ChannelName"]))
        _make([paths.model, paths.output / "data"])
        target = model_folder(request)
        with _checkpoints(request, paths, context):
            _run(job, context)
            context.storage.put(_pack(paths.model, paths.output / "model.tar.gz"), f"{target}/model.tar.gz")
        return f"{target}/model.tar.gz"


def unpack_model(archive: Path, folder: Path) -> None:
    """Unpack a `model.tar.gz` into `folder`; no member can be written outside it."""
    try:
        unpack(archive, folder)
    except ConfigError as error:
        raise StepFailed(str(error)) from None


def fetch_model(storage: Storage, uri: str, folder: Path) -> Path:
    """Unpack a model's archive on S3 into `folder/model` and return `folder`."""
    place, archive = S3Uri.parse(uri), folder / "model.tar.gz"
    found = [item for item in storage.list(uri) if item.key == place.key]
    if not found:
        raise StepFailed(f"the model cannot be served: there is no object {place}")
    storage.fetch(place, found[0], archive)
    unpack_model(archive, folder / "model")
    archive.unlink()
    return folder


def tail(path: Path, size: int) -> str:
    """Return the last `size` bytes at most of a text file; a carriage return starts a new line."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - size))
        return stream.read().decode("utf-8", errors="replace").replace("\r", "\n")


def last_line(path: Path) -> str:
    """Return the last line of a log that is not empty, or an empty text."""
    lines = [line.strip() for line in tail(path, 8192).splitlines() if line.strip()]
    return lines[-1][:REASON_LIMIT] if lines else ""


@contextmanager
def _trees(context: JobContext, name: str, count: int) -> Iterator[dict[str, ContainerPaths]]:
    """Yield the folders of a job's instances; removes them at the end."""
    try:
        yield {
            f"algo-{number}": ContainerPaths(context.work / name / f"algo-{number}") for number in range(1, count + 1)
        }
    finally:
        for channel in (context.work / name).glob("*/input/data/*/"):
            channel.chmod(0o755)  # a FastFile channel is read-only, and rmtree could not empty it
        shutil.rmtree(context.work / name, ignore_errors=True)


def _job(
    name: str,
    trees: Mapping[str, ContainerPaths],
    request: Mapping[str, Any],
    specification: Mapping[str, Any],
    reason_file: str,
    threads: int,
) -> Job:
    words: list[str] = [*specification["ContainerEntrypoint"], *specification.get("ContainerArguments", [])]
    # SageMaker sets this variable in every training container.
    job_name = {"TRAINING_JOB_NAME": request["TrainingJobName"]} if "TrainingJobName" in request else {}
    return Job(
        name,
        trees,
        [*ENTRYPOINTS.get(words[0], words[:1]), *words[1:]],
        reason_file,
        threads,
        job_name | request.get("Environment", {}),
        request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds"),
    )


def _write_training_config(paths: ContainerPaths, request: Mapping[str, Any]) -> None:
    facts = {"S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    channels = {
        channel["ChannelName"]: {"TrainingInputMode": _input_mode(channel).value, **facts}
        for channel in request.get("InputDataConfig", [])
    }
    hosts = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "lo"}
    write_json(paths.hyperparameters, request.get("HyperParameters", {}))
    write_json(paths.hyperparameters.with_name("resourceconfig.json"), hosts)
    write_json(paths.hyperparameters.with_name("inputdataconfig.json"), channels)


def _make(folders: Sequence[Path]) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def _provide(context: JobContext, name: str, uri: str, folders: Sequence[Path], *, sharded: bool) -> None:
    """Download an input to each instance's folder: all of it, or every N-th object if it is sharded."""
    objects = context.storage.list(uri)
    if not objects:
        raise StepFailed(f"input {name}: there is no object under {uri}")
    for index, folder in enumerate(folders):
        context.storage.download(uri, folder, objects[index :: len(folders)] if sharded else objects)


def _provide_channel(context: JobContext, channel: Mapping[str, Any], folder: Path) -> None:
    """Download a training channel; with input mode FastFile, show its objects in a read-only folder instead."""
    name, uri = channel["ChannelName"], channel["DataSource"]["S3DataSource"]["S3Uri"]
    if _input_mode(channel) is InputMode.FILE:
        _provide(context, name, uri, [folder], sharded=False)
        return
    objects = context.storage.list(uri)
    if not objects:
        raise StepFailed(f"input {name}: there is no object under {uri}")
    context.storage.mount(uri, folder, objects)
    folder.chmod(0o555)  # on AWS, FastFile mounts the channel read-only


def _input_mode(channel: Mapping[str, Any]) -> InputMode:
    return InputMode(channel.get("InputMode", InputMode.FILE))


def _run(job: Job, context: JobContext) -> None:
    """Run all instances in parallel; the first that fails stops the others and gives the reason."""
    running: dict[str, SupervisedProcess] = {}
    failures: list[str] = []

    def watch(host: str) -> None:
        """Wait for one instance; the first that fails stops the others."""
        reason = _outcome(job, host, running[host], context.logs)
        context.processes.ended(running[host])
        if reason and not failures:
            failures.append(reason)
            for other in running.values():
                other.stop()

    try:
        for host, paths in job.trees.items():
            running[host] = context.processes.start(
                job.command,
                paths.base,
                job.log(context.logs, host),
                threads=job.threads,
                environment=job.environment,
            )
    finally:
        # If one instance could not be started, those that run are still waited for.
        watchers = [threading.Thread(target=watch, args=(host,)) for host in running]
        for watcher in watchers:
            watcher.start()
        for watcher in watchers:
            watcher.join()
    if failures and context.processes.stopping.is_set():
        raise RunEnding("stopped, because the run was ending")
    if failures:
        raise StepFailed(failures[0])


def _outcome(job: Job, host: str, process: SupervisedProcess, logs: Path) -> str:
    """Wait for one instance and return why it failed, or an empty text if it succeeded."""
    try:
        code = process.wait(job.seconds)
    except subprocess.TimeoutExpired:
        process.stop()
        return f"stopped after MaxRuntimeInSeconds={job.seconds}"
    if code == 0:
        return ""
    paths = job.trees[host]
    file = paths.output / job.reason_file
    words = file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else []
    if words:
        # The paths that a container would see: the message must not depend on this machine's temporary folders.
        return " ".join(words).replace(str(paths.base), str(OPT_ML))[:REASON_LIMIT]
    if code == NO_DISK:
        return f"{os.strerror(errno.ENOSPC)}, or the disk is read-only: the job could not write its reason"
    line = last_line(job.log(logs, host))
    # As a shell does, `supervise` returns 128 + N for a command that signal N ended.
    ended = f"killed by signal {code - 128}" if code > 128 else f"exit code {code}"
    return f"{ended}; its last line: {line}" if line else f"{ended}, without output"


def _pack(folder: Path, archive: Path) -> Path:
    """Write a folder's content as `model.tar.gz`, as SageMaker does, and return the archive."""
    if not any(path.is_file() for path in folder.rglob("*")):
        raise StepFailed("the job succeeded but wrote no file to the model folder")
    pack(folder, archive)
    return archive


@contextmanager
def _checkpoints(request: Mapping[str, Any], paths: ContainerPaths, context: JobContext) -> Iterator[None]:
    """Provide a training job's checkpoint folder; it survives job, run and SIGKILL until the job succeeds."""
    config = request.get("CheckpointConfig")
    if config is None:
        yield
        return
    uri = config["S3Uri"].rstrip("/")
    with held(context.checkpoints, job_digest(request, paths)) as kept:
        if context.durable_storage and not any(kept.iterdir()):
            context.storage.download(f"{uri}/", kept)
        # A link, not a copy: if this process is killed, the checkpoints are already in the permanent folder.
        link = paths.local(config["LocalPath"]) if "LocalPath" in config else paths.checkpoints
        link.symlink_to(kept.resolve(), target_is_directory=True)
        try:
            yield
        finally:
            if context.durable_storage:
                context.storage.upload(kept, uri)
