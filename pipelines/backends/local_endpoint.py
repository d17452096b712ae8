"""The endpoint of a local run: `serve` as a process, on the unpacked registered model.

An endpoint with async inference is two processes: the server, and SageMaker's async API in front of it.
"""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammopipe.pipelines.backends.jobs import ENTRYPOINTS, StepFailed, last_line
from mammopipe.pipelines.backends.processes import RunningProcesses, SupervisedProcess, stop_kept
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_json

START_SECONDS = 120.0
"""Seconds within which the server must answer /ping; SageMaker's default limit is 4 minutes."""
FILE, ASYNC_FILE = "endpoint.json", "endpoint-async.json"


@dataclass
class LocalEndpoint:
    """A running server and its URL."""

    name: str
    url: str
    process: SupervisedProcess
    front: SupervisedProcess | None = None
    """The process of the async API in front of the server; if it is set, `url` is the API's URL, not the server's."""
    uploads: str = ""
    """S3 folder for the bodies of async requests."""

    @property
    def asynchronous(self) -> bool:
        """Whether requests go through S3."""
        return self.front is not None

    def stop(self) -> None:
        """Stop the processes, first the one that accepts requests."""
        for process in self._processes():
            process.stop()

    def keep(self, folder: Path) -> None:
        """Keep the processes running after this one ends; writes their URL and process ids to `folder`."""
        facts = {"name": self.name, "url": self.url, "pid": self.process.pid}
        if self.front is not None:
            facts |= {"front_pid": self.front.pid, "uploads": self.uploads}
        write_json(folder / (ASYNC_FILE if self.asynchronous else FILE), facts)
        for process in self._processes():
            process.keep()

    def _processes(self) -> list[SupervisedProcess]:
        return [*([self.front] if self.front is not None else []), self.process]


def serve(
    name: str,
    folder: Path,
    log: Path,
    processes: RunningProcesses,
    *,
    threads: int,
    environment: Mapping[str, str],
    command: Callable[[int], Sequence[str]] | None = None,
) -> LocalEndpoint:
    """Start the server on the model in `folder/model` and return it once it answers.

    Args:
        name: Name of the endpoint.
        folder: Folder that contains `model`, the unpacked model.
        log: File for the server's output.
        processes: The run's processes; the server is added to them.
        threads: Number of threads of the server.
        environment: Further environment variables of the server.
        command: Takes a port and returns the server's command; by default a process of this machine's Python.

    Returns:
        The running server.

    Raises:
        StepFailed: The server ended, or did not answer /ping within `START_SECONDS`.
    """
    port = _free_port()
    words = ENTRYPOINTS["serve"] if command is None else command(port)
    variables = {"SAGEMAKER_BIND_TO_PORT": str(port), **environment}
    process = processes.start(words, folder.resolve(), log, threads=threads, environment=variables)
    return LocalEndpoint(name, _answering(f"http://127.0.0.1:{port}", process, log), process)


def add_async(
    endpoint: LocalEndpoint,
    config: Mapping[str, Any],
    folder: Path,
    log: Path,
    processes: RunningProcesses,
    environment: Mapping[str, str],
) -> LocalEndpoint:
    """Start the async API in front of a server and return both as one endpoint.

    Args:
        endpoint: The running server.
        config: The endpoint configuration's `AsyncInferenceConfig`.
        folder: Working folder of the API's process.
        log: File for the API's output.
        processes: The run's processes; the API is added to them.
        environment: Environment variables that give access to S3.

    Returns:
        The endpoint; its URL is that of the API.

    Raises:
        StepFailed: The API did not start. The server is stopped, too.
    """
    port, output = _free_port(), config["OutputConfig"]
    words = {
        "--name": endpoint.name,
        "--container": endpoint.url,
        "--output": output["S3OutputPath"],
        "--failure": output.get("S3FailurePath", f"{output['S3OutputPath'].rstrip('/')}-failures"),
        "--concurrent": str(config.get("ClientConfig", {}).get("MaxConcurrentInvocationsPerInstance", 1)),
        "--port": str(port),
    }
    command = [
        sys.executable,
        "-m",
        "mammopipe.pipelines.backends.async_runtime",
        *(word for pair in words.items() for word in pair),
    ]
    try:
        front = processes.start(command, folder.resolve(), log, threads=1, environment=environment)
        url = _answering(f"http://127.0.0.1:{port}", front, log)
    except BaseException:
        endpoint.stop()
        raise
    uploads = f"{output['S3OutputPath'].rstrip('/').rpartition('/')[0]}/input"
    return LocalEndpoint(endpoint.name, url, endpoint.process, front, uploads)


def _answering(url: str, process: SupervisedProcess, log: Path) -> str:
    """Return the URL once a process answers there; stops the process if it does not."""
    deadline = time.monotonic() + START_SECONDS
    try:
        while not is_healthy(url):
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(0.1)
                raise StepFailed(f"the server ended with exit code {code}; its last line: {last_line(log)}")
            if time.monotonic() > deadline:
                raise StepFailed(f"the server does not answer {url}/ping within {START_SECONDS:.0f} s; see {log}")
    except BaseException:
        process.stop()
        raise
    return url


def is_healthy(url: str) -> bool:
    """Return whether a server at `url` answers /ping with 200."""
    try:
        # Without the proxies of the environment, which cannot reach this machine's loopback.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/ping", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def read_kept(run: Path) -> dict[str, str | int]:
    """Return what `keep` wrote to a run's folder; raises `ConfigError` if the run kept no endpoint.

    If the run kept two endpoints, the real-time one is returned.
    """
    kept = [file for file in (run / FILE, run / ASYNC_FILE) if file.is_file()]
    if not kept:
        raise ConfigError(f"{run}: this run kept no endpoint; run with --keep-endpoint, or use mammopipe deploy")
    return _read(kept[0])


def read_kept_async(run: Path) -> dict[str, str | int] | None:
    """Return what `keep` wrote about an endpoint with async inference, or None."""
    return _read(run / ASYNC_FILE) if (run / ASYNC_FILE).is_file() else None


def delete_kept(run: Path) -> bool:
    """Stop the endpoints that a run kept and forget them; returns False if no server was still running."""
    read_kept(run)
    stopped = []
    for file in (run / FILE, run / ASYNC_FILE):
        if file.is_file():
            facts = _read(file)
            stopped += [stop_kept(int(facts[key])) for key in ("front_pid", "pid") if key in facts]
            file.unlink()
    return any(stopped)


def _read(file: Path) -> dict[str, str | int]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _free_port() -> int:
    # Chosen before the server starts: its command line names the port, and a container's must be published.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
