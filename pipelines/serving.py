"""The endpoint of a local run: `serve` as a process, with the registered model unpacked."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.jobs import ENTRYPOINTS, StepFailed, last_line
from pipelines.processes import RunningProcesses, SupervisedProcess, stop_kept
from processing.errors import ConfigError
from processing.files import write_json

START_SECONDS = 120.0
"""Time in which the server must answer /ping; SageMaker's own limit is 4 minutes by default."""
FILE = "endpoint.json"


@dataclass
class LocalEndpoint:
    """A running server and where it answers."""

    name: str
    url: str
    process: SupervisedProcess

    def stop(self) -> None:
        """Stop the server."""
        self.process.stop()

    def keep(self, folder: Path) -> None:
        """Let the server outlive this process and write where it is, and how it is stopped, to `folder`."""
        write_json(folder / FILE, {"name": self.name, "url": self.url, "pid": self.process.pid})
        self.process.keep()


def serve(
    name: str, folder: Path, log: Path, processes: RunningProcesses, *, threads: int, environment: Mapping[str, str]
) -> LocalEndpoint:
    """Start the server on the model in `folder/model`; returns it once it answers, or raises `StepFailed`."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    process = processes.start(
        ENTRYPOINTS["serve"],
        folder.resolve(),
        log,
        threads=threads,
        environment={"SAGEMAKER_BIND_TO_PORT": str(port)} | dict(environment),
    )
    deadline = time.monotonic() + START_SECONDS
    try:
        while not is_healthy(url):
            code = _code_within(process, 0.1)
            if code is not None:
                raise StepFailed(f"the server ended with exit code {code}; its last line: {last_line(log)}")
            if time.monotonic() > deadline:
                raise StepFailed(f"the server does not answer {url}/ping within {START_SECONDS:.0f} s; see {log}")
    except BaseException:
        process.stop()
        raise
    return LocalEndpoint(name, url, process)


def is_healthy(url: str) -> bool:
    """Return whether a server at `url` answers /ping with 200."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/ping", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def read_kept(run: Path) -> dict[str, str | int]:
    """Return what `keep` wrote to a run's folder; raises `ConfigError` when the run kept no endpoint."""
    file = run / FILE
    if not file.is_file():
        raise ConfigError(f"{run}: this run keeps no endpoint; run with --keep-endpoint, or deploy it")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def delete_kept(run: Path) -> bool:
    """Stop the endpoint that a run kept and forget it; returns False when its server was gone already."""
    stopped = stop_kept(int(read_kept(run)["pid"]))
    (run / FILE).unlink()
    return stopped


def _code_within(process: SupervisedProcess, seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
