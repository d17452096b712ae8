"""The server's settings, read from environment variables, the only way to configure a container.

`serve --help` prints every setting with its variable, its default and its meaning.
"""

import os
import sys
import textwrap
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from mammopipe.inference.contract.exclusions import DEFAULT_POLICY, ExclusionPolicy
from mammopipe.processing.container.paths import BASE_VARIABLE, ContainerPaths
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.read_config import ForProcessing, Limits, ReadConfig

PREFIX, PORT_VARIABLE, BATCH_VARIABLE = "MAMMOPIPE_", "SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_BATCH"
LOOPBACK = "127.0.0.1"
EVERY_INTERFACE = "0.0.0.0"
PLACES_PER_WORKER = 8
LARGEST_BODY = 2**31 - 4096
"""Most bytes that one read(2) returns; SageMaker's async inference sends up to 1 GB."""


class EngineKind(StrEnum):
    """The engine that computes the forward pass."""

    AUTO = "auto"
    """OpenVINO if the model includes it and there is no GPU, torch otherwise."""
    OPENVINO = "openvino"
    TORCH = "torch"


class ServerSettings(BaseSettings):
    """The server's settings: its address, its limits and its model."""

    model_config = SettingsConfigDict(
        frozen=True,
        arbitrary_types_allowed=True,
        extra="forbid",
        env_prefix=PREFIX,
        populate_by_name=True,
        protected_namespaces=(),  # pydantic reserves names that begin with `model_`, such as `model_id`
        allow_inf_nan=False,
    )

    model: Path = Field(
        description="model directory: model.json, the weights and the other files that model.json names"
    )
    model_id: str = Field(
        default="",
        max_length=1024,
        description="id of the model in answers, such as a model package's ARN; empty: architecture and weights digest",
    )
    host: str = Field(
        default=EVERY_INTERFACE,
        description=f"address to listen on; outside a container (MAMMOPIPE_BASE is set) the default is {LOOPBACK}",
    )
    port: int = Field(
        default=8080,
        ge=0,
        le=65535,
        validation_alias=PORT_VARIABLE,
        description="TCP port to listen on; 0 selects a free one; the log line `listening` states it",
    )
    batch: bool = Field(
        default=False,
        validation_alias=BATCH_VARIABLE,
        description="whether the container serves a batch transform; SageMaker sets this variable. A body may then be "
        "application/octet-stream, and the error of a refused image has status 200, so that the job ends with an "
        "answer for every image",
    )
    max_bytes: int = Field(
        default=64 * 2**20, gt=0, le=LARGEST_BODY, description="most bytes of a request's body, and of one image"
    )
    max_answer_bytes: int = Field(
        default=0,
        ge=0,
        description="most bytes of an answer; a larger one is refused (413); 0: no limit; serverless: at most 4 MB",
    )
    max_pixels: int = Field(default=Limits().max_pixels, gt=0, description="most pixels that an image may announce")
    max_waiting: int = Field(
        default=0,
        ge=0,
        description="most requests in the server at once, including those being answered; further requests are "
        f"refused at once (503); 0: {PLACES_PER_WORKER} per worker",
    )
    max_connections: int = Field(
        default=512,
        gt=0,
        description="most open connections; a further one replaces the one without a header "
        "for longest, or is refused (503) if all have a request; the limit on open files may allow fewer",
    )
    header_seconds: float = Field(
        default=10.0,
        gt=0,
        description="seconds from a connection's start, or a request's first byte, to the end of its header; then 408",
    )
    body_seconds: float = Field(
        default=10.0,
        gt=0,
        description="seconds that a body may lag behind 4096 bytes a second; then 408; in a full server a body that "
        "lags by a tenth of this gives its place to another request (503)",
    )
    max_seconds: float = Field(
        default=60.0,
        gt=0,
        description="seconds from the end of a request's header to its answer; InvokeEndpoint itself gives up after 60",
    )
    stop_seconds: float = Field(
        default=28.0,
        gt=0,
        description="seconds in which running requests may end after SIGTERM; SageMaker kills the container after 30",
    )
    workers: int = Field(default=0, ge=0, description="worker processes; 0: the number of cores divided by `threads`")
    threads: int = Field(default=1, gt=0, description="threads of each worker's computation")
    engine: EngineKind = Field(
        default=EngineKind.AUTO,
        description="engine of the forward pass: auto, openvino or torch; auto: OpenVINO if the model includes it and "
        "there is no GPU, torch otherwise",
    )
    max_views: int = Field(default=16, gt=0, description="most images of an exam")
    s3_prefix: str = Field(
        default="",
        description="s3://BUCKET/PREFIX below which requests may name S3 objects; empty: requests may name none",
    )
    for_processing: ForProcessing | None = Field(
        default=None,
        description="how raw images (for processing) are treated; empty: as in the model's training; refuse: always "
        "refused; convert: converted; the server then starts only with a model that was trained on converted images",
    )
    exclusions: Annotated[ExclusionPolicy, NoDecode] = Field(
        default=DEFAULT_POLICY,
        description="stricter actions than the default table's for images that the model is not intended for: "
        "FLAG=refuse|leave-out|refer|warn,..., such as implant=refuse,lossy=refer",
    )
    prevalence: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of the women examined here who have cancer; probabilities are computed for this prevalence; "
        "empty: for the prevalence of the model's validation data",
    )
    demo: bool = Field(
        default=False, description="whether GET / serves a page for trying the server; on the loopback interface only"
    )
    metrics: bool = Field(
        default=True,
        description="whether log lines include CloudWatch metrics; outside a container the default is false",
    )
    capture: str = Field(
        default="",
        description="folder in which requests and answers are stored, on the loopback interface only; empty: they are "
        "not stored; on SageMaker the endpoint's configuration does this",
    )
    capture_gb: float = Field(
        default=5.0,
        gt=0,
        description="most gigabytes (10^9 bytes) of stored captures; above this size the oldest are removed",
    )
    capture_days: int = Field(default=90, gt=0, description="days after which captures are removed")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read values from the constructor alone, because `from_environment` reads the environment itself."""
        return (init_settings,)

    @field_validator("s3_prefix")
    @classmethod
    def _names_a_bucket(cls, value: str) -> str:
        if value and not (value.startswith("s3://") and value.removeprefix("s3://").split("/")[0]):
            raise ValueError("must be s3://BUCKET or s3://BUCKET/PREFIX")
        return value

    @field_validator("exclusions", mode="before")
    @classmethod
    def _reads_exclusions(cls, value: Any) -> Any:
        try:
            return ExclusionPolicy.parse(value) if isinstance(value, str) else value
        except ConfigError as error:
            raise ValueError(f"FLAG=ACTION, stricter than the default table: {error}") from None

    @model_validator(mode="after")
    def _stays_on_this_machine(self) -> Self:
        for name, reason in (
            ("demo", "the page is for the machine it runs on"),
            ("capture", "captures hold patients' images; on SageMaker the endpoint's configuration keeps them"),
        ):
            if getattr(self, name) and self.host != LOOPBACK:
                raise ValueError(
                    f"{variable(name)}={str(getattr(self, name)).lower() if name == 'demo' else self.capture} needs "
                    f"{variable('host')}={LOOPBACK}, not {self.host}: {reason}"
                )
        return self

    @property
    def worker_count(self) -> int:
        """Return the number of worker processes."""
        # Linux reports the cores that the process may use; other systems only the number of cores.
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return self.workers or max(1, cores // self.threads)

    @property
    def places(self) -> int:
        """Return the maximum number of requests in the server at once."""
        return self.max_waiting or PLACES_PER_WORKER * self.worker_count

    def reading(self, trained: ForProcessing) -> ReadConfig:
        """Return the image reader's settings, with the limits of these settings.

        Args:
            trained: How training treated raw images. If training refused them, these settings cannot convert them.

        Raises:
            ConfigError: The settings ask to convert raw images, and the model's training refused them.
        """
        if self.for_processing is ForProcessing.CONVERT and trained is ForProcessing.REFUSE:
            raise ConfigError(
                f"{variable('for_processing')}={self.for_processing}: the model was trained with "
                f"preprocess.for_processing={trained}, without converted raw images; leave the variable empty"
            )
        return ReadConfig(limits=Limits(max_pixels=self.max_pixels), for_processing=self.for_processing or trained)


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return {"port": PORT_VARIABLE, "batch": BATCH_VARIABLE}.get(name, f"{PREFIX}{name.upper()}")


def from_environment(environment: Mapping[str, str]) -> ServerSettings:
    """Return the settings from environment variables; an empty variable counts as not set.

    By default a server in a container listens on every interface. `MAMMOPIPE_BASE` marks a server outside a container:
    by default it listens on the loopback interface, its model is below that folder, and metrics are off.

    Raises:
        ConfigError: A value breaks its rule; the message names the variable.
    """
    base = environment.get(BASE_VARIABLE)
    defaults: dict[str, Any] = {"model": (ContainerPaths(Path(base)) if base else ContainerPaths()).model}
    if base:
        defaults |= {"host": LOOPBACK, "metrics": False}
    source = EnvSettingsSource(ServerSettings, env_ignore_empty=True)
    # The source reads the process's environment; replacing it makes this function depend on its argument alone.
    source.env_vars = {name.lower(): value for name, value in environment.items() if value}
    try:
        return ServerSettings(**(defaults | source()))
    except ValidationError as error:
        raise ConfigError("; ".join(_problem(each, environment) for each in error.errors(include_url=False))) from None


def describe() -> str:
    """Return the text of `serve --help`: every setting with its variable, default and meaning."""
    lines = []
    for name, field in ServerSettings.model_fields.items():
        default = "" if field.is_required() else str(field.default)
        lines.append(f"  {variable(name)}{f' (default {default})' if default else ''}")
        lines += textwrap.wrap(str(field.description), 76, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def table() -> str:
    """Return the settings as the Markdown table of docs/reference/endpoint.md."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in ServerSettings.model_fields.items():
        default = "" if field.is_required() or field.default in (None, "") else str(field.default)
        cells = (f"`{variable(name)}`", f"`{default}`" if default else "", str(field.description).replace("|", "\\|"))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _problem(error: ErrorDetails, environment: Mapping[str, str]) -> str:
    """Return the error message for one setting, which names its variable."""
    rule = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not error["loc"]:
        return rule
    place = str(error["loc"][0])
    named = place if place in (PORT_VARIABLE, BATCH_VARIABLE) else variable(place)
    return f"{named}={environment.get(named, error['input'])!r} must be {rule.removeprefix('must be ')}"
