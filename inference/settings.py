"""The server's settings, read from the environment: a container has no other place for them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from processing.errors import ConfigError
from processing.image_rules import Limits, ReadConfig
from processing.paths import BASE_VARIABLE, ContainerPaths

LOOPBACK = "127.0.0.1"
EVERY_INTERFACE = "0.0.0.0"


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
    max_waiting: int = 8
    """Requests that may be in the server at once, the one being answered included; more are answered 503."""
    max_seconds: float = 60.0
    """Seconds from a request's first byte to its answer; InvokeEndpoint itself gives up after 60."""
    stop_seconds: float = 28.0
    """Seconds that running requests have after SIGTERM; SageMaker kills the container after 30."""

    def __post_init__(self) -> None:
        """Refuse settings under which no request could be answered."""
        for name in ("max_bytes", "max_pixels", "max_waiting", "max_seconds", "stop_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"ServerSettings.{name}={value} must be above 0")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"ServerSettings.port={self.port} must be a TCP port, 0 to 65535")

    @property
    def reading(self) -> ReadConfig:
        """How images are read: within these limits."""
        return ReadConfig(limits=Limits(max_pixels=self.max_pixels))


def from_environment(environment: Mapping[str, str]) -> ServerSettings:
    """Return the settings that the environment names, defaults elsewhere; `ConfigError` names a bad variable.

    `SAGEMAKER_BIND_TO_PORT` is SageMaker's own. The host is every interface in a container; where `MAMMOPIPE_BASE` says
    that this is no container, it is the loopback interface. `MAMMOPIPE_HOST` overrides both.
    """
    outside_container = bool(environment.get(BASE_VARIABLE))
    return ServerSettings(
        model=ContainerPaths(Path(environment[BASE_VARIABLE])).model if outside_container else ContainerPaths().model,
        model_id=environment.get("MAMMOPIPE_MODEL_ID", ""),
        host=environment.get("MAMMOPIPE_HOST") or (LOOPBACK if outside_container else EVERY_INTERFACE),
        port=int(_number(environment, "SAGEMAKER_BIND_TO_PORT", ServerSettings.port)),
        max_bytes=int(_number(environment, "MAMMOPIPE_MAX_BYTES", ServerSettings.max_bytes)),
        max_pixels=int(_number(environment, "MAMMOPIPE_MAX_PIXELS", ServerSettings.max_pixels)),
        max_waiting=int(_number(environment, "MAMMOPIPE_MAX_WAITING", ServerSettings.max_waiting)),
        max_seconds=_number(environment, "MAMMOPIPE_MAX_SECONDS", ServerSettings.max_seconds),
        stop_seconds=_number(environment, "MAMMOPIPE_STOP_SECONDS", ServerSettings.stop_seconds),
    )


def _number(environment: Mapping[str, str], name: str, default: int | float) -> int | float:
    text = environment.get(name, "")
    try:
        return type(default)(text) if text else default
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ConfigError(f"{name}={text!r} must be {kind}") from None
