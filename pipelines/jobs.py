"""Processing and training jobs as local processes, each in an `/opt/ml` of its own.

Source: "How Amazon SageMaker Processing Runs Your Processing Container Image" and "How Amazon SageMaker AI Provides
Training Information" (SageMaker Developer Guide).
"""

import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.config import Distribution
from pipelines.processes import RunEnding, RunningProcesses, SupervisedProcess
from pipelines.storage import S3Uri, Storage
from processing.errors import MammopipeError
from processing.files import write_json
from processing.job import REASON_LIMIT
from processing.paths import OPT_ML, ContainerPaths

ENTRYPOINTS: Mapping[str, Sequence[str]] = {
    "python": [sys.executable],
    "python3": [sys.executable],
    "train": [sys.executable, "-m", "training.train"],
    "serve": [sys.executable, "-m", "inference.server"],
}
"""What the images' commands are on this machine."""


class StepFailed(MammopipeError):
    """A step failed; the message is its reason."""


@dataclass(frozen=True)
class Workshop:
    """Where jobs run."""

    storage: Storage
    work: Path
    """Folder of the jobs' trees; each tree is removed when its job has ended well."""
    logs: Path
    checkpoints: Path
    """Folder that outlives the run: training jobs keep their checkpoints there until they succeed."""
    durable_storage: bool = False
    """Whether S3 outlives the run, so that checkpoints are worth a copy there."""
    processes: RunningProcesses = field(default_factory=RunningProcesses)
    """The jobs that run now."""


def run_processing(name: str, request: Mapping[str, Any], shop: Workshop, *, threads: int) -> None:
    """Run a `CreateProcessingJob` request on as many local "instances" as it asks for, from its inputs to its outputs."""
    hosts = _hosts(request["ProcessingResources"]["ClusterConfig"]["InstanceCount"])
    trees = {host: ContainerPaths(shop.work / name / host) for host in hosts}
    specification, outputs = request["AppSpecification"], request["ProcessingOutputConfig"]["Outputs"]
    command = _command(specification["ContainerEntrypoint"], specification.get("ContainerArguments", []))
    for host, paths in trees.items():
        write_json(paths.base / "config" / "resourceconfig.json", {"current_host": host, "hosts": hosts})
        write_json(paths.base / "config" / "processingjobconfig.json", request)
        for folder in [paths.output, *(paths.local(output["S3Output"]["LocalPath"]) for output in outputs)]:
            folder.mkdir(parents=True, exist_ok=True)
    for item in request.get("ProcessingInputs", []):
        source = item["S3Input"]
        _provide(
            shop,
            item["InputName"],
            source["S3Uri"],
            source.get("S3DataDistributionType", Distribution.REPLICATED),
            [paths.local(source["LocalPath"]) for paths in trees.values()],
        )
    _run_all(
        name,
        trees,
        command,
        shop,
        threads=max(1, threads // len(hosts)),
        reason_file="message",
        environment=request.get("Environment", {}),
        seconds=request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds"),
    )
    for paths in trees.values():
        for output in outputs:
            shop.storage.upload(paths.local(output["S3Output"]["LocalPath"]), output["S3Output"]["S3Uri"])
    shutil.rmtree(shop.work / name)


def run_training(name: str, request: Mapping[str, Any], shop: Workshop, *, threads: int) -> str:
    """Run a `CreateTrainingJob` request and return the S3 URI of its `model.tar.gz`."""
    paths, specification = ContainerPaths(shop.work / name / "algo-1"), request["AlgorithmSpecification"]
    channels = request.get("InputDataConfig", [])
    write_json(paths.hyperparameters, request.get("HyperParameters", {}))
    write_json(
        paths.hyperparameters.with_name("resourceconfig.json"),
        {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "lo"},
    )
    write_json(
        paths.hyperparameters.with_name("inputdataconfig.json"),
        {
            channel["ChannelName"]: {
                "TrainingInputMode": "File",
                "S3DistributionType": "FullyReplicated",
                "RecordWrapperType": "None",
            }
            for channel in channels
        },
    )
    for channel in channels:
        source = channel["DataSource"]["S3DataSource"]
        _provide(
            shop,
            channel["ChannelName"],
            source["S3Uri"],
            Distribution.REPLICATED,
            [paths.channel(channel["ChannelName"])],
        )
    for folder in (paths.model, paths.output / "data"):
        folder.mkdir(parents=True, exist_ok=True)
    command = _command(specification.get("ContainerEntrypoint", ["train"]), specification.get("ContainerArguments", []))
    with _Checkpoints(request.get("CheckpointConfig"), paths, shop):
        _run_all(
            name,
            {"algo-1": paths},
            command,
            shop,
            threads=threads,
            reason_file="failure",
            environment={"TRAINING_JOB_NAME": request["TrainingJobName"]} | request.get("Environment", {}),
            seconds=request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds"),
        )
        uri = "/".join(
            (request["OutputDataConfig"]["S3OutputPath"].rstrip("/"), request["TrainingJobName"], "output/model.tar.gz")
        )
        shop.storage.put(_pack(paths.model, paths.output / "model.tar.gz"), uri)
    shutil.rmtree(shop.work / name)
    return uri


def unpack_model(archive: Path, folder: Path) -> None:
    """Unpack a `model.tar.gz` into `folder`, which nothing in it may leave."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise StepFailed(f"model.tar.gz cannot be unpacked: {error}") from None


def _provide(shop: Workshop, name: str, uri: str, distribution: str, folders: Sequence[Path]) -> None:
    """Download an input to each instance's folder: all of it, or every N-th object when it is sharded."""
    objects = shop.storage.list(uri)
    if not objects:
        raise StepFailed(f"input {name}: there is no object under {uri}")
    for index, folder in enumerate(folders):
        sharded = distribution == Distribution.SHARDED
        shop.storage.download(uri, folder, objects[index :: len(folders)] if sharded else objects)


def _run_all(
    name: str,
    trees: Mapping[str, ContainerPaths],
    command: Sequence[str],
    shop: Workshop,
    *,
    threads: int,
    reason_file: str,
    environment: Mapping[str, str],
    seconds: int | None,
) -> None:
    """Run `command` on every instance side by side; the first that fails stops the others and gives the reason."""
    logs = {host: shop.logs / (f"{name}.log" if len(trees) == 1 else f"{name}-{host}.log") for host in trees}
    running: dict[str, SupervisedProcess] = {}
    failures: list[str] = []

    def watch(host: str) -> None:
        try:
            code = running[host].wait(seconds)
            reason = _reason(code, trees[host].output / reason_file, logs[host]) if code else ""
        except subprocess.TimeoutExpired:
            running[host].stop()
            reason = f"stopped after MaxRuntimeInSeconds={seconds}"
        shop.processes.ended(running[host])
        if reason and not failures:
            failures.append(reason)
            for other in running.values():
                other.stop()

    try:
        for host, paths in trees.items():
            running[host] = shop.processes.start(
                command, paths.base, logs[host], threads=threads, environment=environment
            )
    finally:
        watchers = [threading.Thread(target=watch, args=(host,)) for host in running]
        for watcher in watchers:
            watcher.start()
        for watcher in watchers:
            watcher.join()
    if shop.processes.stopping.is_set() and failures:
        raise RunEnding("stopped, because the run was ending")
    if failures:
        raise StepFailed(failures[0])


def _reason(code: int, file: Path, log: Path) -> str:
    """Return why a job failed: what it says in its failure file, else its exit code and the last line that it printed."""
    if file.is_file():
        text = file.read_text(encoding="utf-8", errors="replace").strip()
        if text:
            return " ".join(text.split())[:REASON_LIMIT]
    lines = [line for line in tail(log, 8192).splitlines() if line.strip()]
    ended = f"killed by signal {code - 128}" if code > 128 else f"exit code {code}"
    return f"{ended}; its last line: {lines[-1].strip()[:REASON_LIMIT]}" if lines else f"{ended}, without a word"


def tail(path: Path, size: int) -> str:
    """Return the end of a text file, at most `size` bytes of it; a carriage return starts a new line."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - size))
        return stream.read().decode("utf-8", errors="replace").replace("\r", "\n")


def _command(entrypoint: Sequence[str], arguments: Sequence[str]) -> list[str]:
    return [*ENTRYPOINTS.get(entrypoint[0], entrypoint[:1]), *entrypoint[1:], *arguments]


def _hosts(count: int) -> list[str]:
    return [f"algo-{number}" for number in range(1, int(count) + 1)]


def _pack(folder: Path, archive: Path) -> Path:
    """Write a folder's content as `model.tar.gz`, as SageMaker does, and return the archive."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise StepFailed(f"the job ended well but left nothing in {OPT_ML}/model")
    # Level 0: weights are noise to gzip, which would take seconds to save a few per cent.
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for path in files:
            tar.add(path, path.relative_to(folder).as_posix(), filter=_anonymous)
    return archive


def _anonymous(item: tarfile.TarInfo) -> tarfile.TarInfo:
    item.mtime, item.uid, item.gid, item.uname, item.gname = 0, 0, 0, "", ""
    return item


@dataclass
class _Checkpoints:
    """A training job's checkpoint folder, which survives the job, the run and SIGKILL, until the job succeeds."""

    config: Mapping[str, str] | None
    paths: ContainerPaths
    shop: Workshop

    def __enter__(self) -> None:
        if self.config is None:
            return
        self._kept = self.shop.checkpoints / S3Uri.parse(self.config["S3Uri"]).key.rstrip("/").rpartition("/")[2]
        self._kept.mkdir(parents=True, exist_ok=True)
        if self.shop.durable_storage and not any(self._kept.iterdir()):
            self.shop.storage.download(self.config["S3Uri"].rstrip("/") + "/", self._kept)
        # A link, not a copy: what the job has written when we are killed is already where it must be.
        link = self.paths.local(self.config.get("LocalPath", f"{OPT_ML}/checkpoints"))
        link.symlink_to(self._kept.resolve(), target_is_directory=True)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self.config is None:
            return
        if self.shop.durable_storage:
            self.shop.storage.upload(self._kept, self.config["S3Uri"])
        if kind is None:
            shutil.rmtree(self._kept)
