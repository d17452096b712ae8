"""The server's settings, read from the environment: a container has no other place for them."""

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from mammopipe.processing.container.paths import BASE_VARIABLE, ContainerPaths
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.read_config import Limits, ReadConfig

PORT_VARIABLE = "SAGEMAKER_BIND_TO_PORT"
LOOPBACK = "127.0.0.1"
EVERY_INTERFACE = "0.0.0.0"
PLACES_PER_WORKER = 8
LARGEST_BODY = 2**31 - 4096
"""Bytes that one read(2) returns at most; SageMaker's async inference sends up to 1 GB."""
T = TypeVar("T")


class EngineKind(StrEnum):
    """What computes the forward pass."""

    AUTO = "auto"
    """OpenVINO where the model brings it and there is no GPU, torch otherwise."""
    OPENVINO = "openvino"
    TORCH = "torch"


@dataclass(frozen=True)
class ServerSettings:
    """Where the server listens and how much it takes on."""

    model: Path
    """The model directory."""
    model_id: str = ""
    """What answers name as the model, e.g. a model package's ARN; empty: architecture and weights digest."""
    host: str = EVERY_INTERFACE
    """Address to listen on."""
    port: int = 8080
    """TCP port to listen on; 0 takes a free one, which the `listening` line names."""
    max_bytes: int = 64 * 2**20
    """Bytes of a request's body."""
    max_pixels: int = Limits.max_pixels
    """Pixels that an image may announce."""
    max_waiting: int = 0
    """Requests that may be in the server at once, those being answered included; more are answered 503 at once.
    0: 8 for each worker; the last of them waits for seven others, some 15 seconds where all are the largest films."""
    max_seconds: float = 60.0
    """Seconds from a request's first byte to its answer; InvokeEndpoint itself gives up after 60."""
    stop_seconds: float = 28.0
    """Seconds that running requests have after SIGTERM; SageMaker kills the container after 30."""

    workers: int = 0
    """Processes that answer; 0: one for each core that this process may use, or for each `threads` of them."""
    threads: int = 1
    """Threads with which each worker computes."""
    engine: EngineKind = EngineKind.AUTO
    """What computes the forward pass."""
    max_views: int = 16
    """Images that an exam may have."""
    s3_prefix: str = ""
    """Where S3 objects that a request names may lie, `s3://BUCKET/PREFIX`; empty: no request may name one."""
    demo: bool = False
    """Whether `GET /` shows a page to try the server with; on the loopback interface only."""
    metrics: bool = False
    """Whether log lines carry CloudWatch metrics (`mammopipe.inference.server.cloudwatch`)."""
    capture: str = ""
    """Folder where requests and answers are kept (`mammopipe.inference.server.capture`), on the loopback interface
    only; empty: none are. On SageMaker the endpoint's configuration does that."""
    capture_gb: float = 5.0
    """Gigabytes (10^9 bytes) of captures that are kept; above them the oldest go."""
    capture_days: int = 90
    """Days that captures are kept."""

    def __post_init__(self) -> None:
        """Refuse settings under which no request could be answered, or that contradict each other."""
        for name in (
            "max_bytes",
            "max_pixels",
            "max_seconds",
            "stop_seconds",
            "threads",
            "max_views",
            "capture_gb",
            "capture_days",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{_spell(name)}={value} must be above 0")
        for name in ("workers", "max_waiting"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{_spell(name)}={getattr(self, name)} must be 0 or above")
        if self.max_bytes > LARGEST_BODY:
            raise ConfigError(f"{_spell('max_bytes')}={self.max_bytes} must be at most {LARGEST_BODY}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"{_spell('port')}={self.port} must be a TCP port, 0 to 65535")
        if self.s3_prefix and not self.s3_prefix.removeprefix("s3://").split("/")[0]:
            raise ConfigError(f"{_spell('s3_prefix')}={self.s3_prefix!r} must name a bucket")
        if self.s3_prefix and not self.s3_prefix.startswith("s3://"):
            raise ConfigError(f"{_spell('s3_prefix')}={self.s3_prefix!r} must begin with s3://")
        if self.demo and self.host != LOOPBACK:
            raise ConfigError(
                f"{_spell('demo')}=true needs {_spell('host')}={LOOPBACK}, not {self.host}: "
                "the page is for the machine it runs on"
            )
        if self.capture and self.host != LOOPBACK:
            raise ConfigError(
                f"{_spell('capture')}={self.capture} needs {_spell('host')}={LOOPBACK}, not {self.host}: "
                "captures hold patients' images; on SageMaker the endpoint's configuration keeps them"
            )

    @property
    def worker_count(self) -> int:
        """Return the number of worker processes."""
        return self.workers or max(1, _cores() // self.threads)

    @property
    def places(self) -> int:
        """Return the number of requests that may be in the server at once."""
        return self.max_waiting or PLACES_PER_WORKER * self.worker_count

    @property
    def reading(self) -> ReadConfig:
        """How images are read: within these limits."""
        return ReadConfig(limits=Limits(max_pixels=self.max_pixels))


def from_environment(environment: Mapping[str, str]) -> ServerSettings:
    """Return the settings that the environment names, defaults elsewhere; `ConfigError` names a bad variable.

    `SAGEMAKER_BIND_TO_PORT` is SageMaker's own. The host is every interface in a container; where `MAMMOPIPE_BASE` says
    that this is no container, it is the loopback interface, and there metrics are off. `MAMMOPIPE_HOST` and
    `MAMMOPIPE_METRICS` override both.
    """
    outside_container = bool(environment.get(BASE_VARIABLE))
    read = _Reader(environment)
    return ServerSettings(
        model=ContainerPaths(Path(environment[BASE_VARIABLE])).model if outside_container else ContainerPaths().model,
        model_id=environment.get(_spell("model_id"), ""),
        host=environment.get(_spell("host")) or (LOOPBACK if outside_container else EVERY_INTERFACE),
        port=read.integer("port", ServerSettings.port),
        max_bytes=read.integer("max_bytes", ServerSettings.max_bytes),
        max_pixels=read.integer("max_pixels", ServerSettings.max_pixels),
        max_waiting=read.integer("max_waiting", ServerSettings.max_waiting),
        max_seconds=read.number("max_seconds", ServerSettings.max_seconds),
        stop_seconds=read.number("stop_seconds", ServerSettings.stop_seconds),
        workers=read.integer("workers", ServerSettings.workers),
        threads=read.integer("threads", ServerSettings.threads),
        engine=read.engine("engine", ServerSettings.engine),
        max_views=read.integer("max_views", ServerSettings.max_views),
        s3_prefix=environment.get(_spell("s3_prefix"), ServerSettings.s3_prefix),
        demo=read.switch("demo", ServerSettings.demo),
        metrics=read.switch("metrics", not outside_container),
        capture=environment.get(_spell("capture"), ServerSettings.capture),
        capture_gb=read.number("capture_gb", ServerSettings.capture_gb),
        capture_days=read.integer("capture_days", ServerSettings.capture_days),
    )


@dataclass(frozen=True)
class _Reader:
    """Values from environment variables; an empty one counts as not set."""

    environment: Mapping[str, str]

    def integer(self, name: str, default: int) -> int:
        return self._read(name, default, int, "a whole number")

    def number(self, name: str, default: float) -> float:
        return self._read(name, default, float, "a number")

    def engine(self, name: str, default: EngineKind) -> EngineKind:
        return self._read(name, default, EngineKind, f"one of {', '.join(EngineKind)}")

    def switch(self, name: str, default: bool) -> bool:
        return self._read(name, default, lambda text: {"true": True, "false": False}[text.lower()], "true or false")

    def _read(self, name: str, default: T, kind: Callable[[str], T], rule: str) -> T:
        text = self.environment.get(_spell(name), "")
        try:
            return kind(text) if text else default
        except (ValueError, KeyError):
            raise ConfigError(f"{_spell(name)}={text!r} must be {rule}") from None


def _spell(name: str) -> str:
    """Return the environment variable of a setting."""
    return PORT_VARIABLE if name == "port" else f"MAMMOPIPE_{name.upper()}"


def _cores() -> int:
    # Which cores a process may use is known on Linux; elsewhere it is how many there are.
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
