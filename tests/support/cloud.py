"""LocalStack and moto as processes, for the tests that run the command line against them."""

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra import localstack
from tests.support import fork_server

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-east-1"
CONFIG = """
cnns = ["modified_cnn"]
[data]
max_height = 256
[training]
epochs = 1
head_epochs = 0
warmup_epochs = 0
[segmentation]
height = 64
width = 64
[evaluation]
bootstrap = 100
"""
"""The smallest pipeline that has every step."""


@dataclass(frozen=True)
class Cloud:
    """The two services while they run, and a folder to work in."""

    folder: Path
    environment: Mapping[str, str]

    def client(self, service: str) -> Any:
        key = f"AWS_ENDPOINT_URL_{service.upper()}"
        keys = {"aws_access_key_id": "offline", "aws_secret_access_key": "offline"}
        return boto3.client(service, endpoint_url=self.environment[key], region_name=REGION, **keys)

    def mammopipe(self, *words: str) -> subprocess.CompletedProcess[str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        environment = inherited | dict(self.environment) | {"PYTHONPATH": str(ROOT)}
        command = [*fork_server.shared(), "-m", "mammopipe.pipelines.cli", *words]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)


@contextmanager
def running_cloud(folder: Path) -> Iterator[Cloud]:
    """Yield the services on free ports; the test is skipped where LocalStack is not installed."""
    if not (localstack.FOLDER / "venv" / ".installed").is_file():
        pytest.skip("LocalStack is not installed; python infra/localstack.py install, or make test")
    wanted = localstack.services(folder, *free_ports(2), installed=localstack.FOLDER)
    running = localstack.start(folder, wanted)
    try:
        (folder / "quick.toml").write_text(CONFIG)
        yield Cloud(folder, localstack.variables(*wanted))
    finally:
        for process in running.values():
            process.stop()


def free_ports(count: int) -> list[int]:
    """Return free ports of the loopback interface."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
