"""EndpointConfig: how the registered model is served: in real time, through a queue (async), both, or serverless.

Autoscaling is not configured here, since a pipeline has no step for it. A state machine in infra/stack.yaml registers
every endpoint that comes into service, with the stack's limits.
"""

import re
from collections.abc import Mapping
from enum import StrEnum

from pydantic import Field, model_validator

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings

ASYNC_SUFFIX = "-async"
CANDIDATE_SUFFIX = "-candidate"
LONGEST_NAME = 24
"""Longest name of an endpoint. The names of its model and configuration are longer: a run adds 25 letters and
SageMaker Pipelines its own suffix, an approval adds up to 39. SageMaker's limit is 63."""
MOST_ALARMS = 10
"""Alarms that may roll back an update (`AutoRollbackConfig.Alarms`)."""


class EndpointMode(StrEnum):
    """How clients call an endpoint."""

    REALTIME = "realtime"
    """InvokeEndpoint: images up to 25 MB, an answer within 60 seconds."""
    ASYNC = "async"
    """InvokeEndpointAsync: whole exams up to 1 GB, which SageMaker reads from S3 and passes to the container."""
    BOTH = "both"
    """Two endpoints for one model; the name of the second ends in `-async`."""
    SERVERLESS = "serverless"
    """InvokeEndpoint with no instances between requests: images up to 4 MB, a slow first answer after a pause.

    SageMaker supports neither network isolation, a VPC, data capture nor a volume key for such a model. Choosing this
    mode accepts that."""


class EndpointConfig(Settings):
    """The endpoint that serves the registered model. The ranges are SageMaker's."""

    name: str = Field(
        default="mammopipe", description="name of the endpoint that a clinic calls; a run serves at `NAME-candidate`"
    )
    instance_type: str = Field(default="ml.m5.large", description="instance type of the endpoint")
    instance_count: int = Field(default=1, ge=1, description="instances of the endpoint")
    mode: EndpointMode = Field(
        default=EndpointMode.REALTIME, description="in real time, through a queue, both, or serverless"
    )
    capture_percent: int = Field(
        default=0,
        ge=0,
        le=100,
        description="percentage of real-time requests and answers that are kept on S3, encrypted with "
        "`security.kms_key`; they contain patients' images",
    )
    rollback_alarms: tuple[str, ...] = Field(
        default=(),
        max_length=MOST_ALARMS,
        description="CloudWatch alarms that roll back an update; the stack's output RollbackAlarms names two",
    )
    bake_seconds: int = Field(
        default=600,
        ge=0,
        le=3600,
        description="seconds after an update in which these alarms are watched, before the old instances are removed",
    )
    serverless_memory_mb: int = Field(
        default=6144,
        ge=1024,
        le=6144,
        multiple_of=1024,
        description="memory of a serverless container, in MB; its share of a CPU grows with it",
    )
    serverless_concurrency: int = Field(
        default=5, ge=1, le=200, description="maximum number of concurrent requests in serverless mode"
    )
    async_concurrent: int = Field(
        default=2, ge=1, le=1000, description="maximum number of concurrent requests to one async instance"
    )
    async_max_bytes: int = Field(
        default=2**30,
        ge=1,
        le=2**30,
        description="maximum size in bytes of a request's body in an async container; SageMaker's own limit is 1 GB",
    )
    async_max_seconds: int = Field(
        default=840,
        ge=1,
        le=3600,
        description="maximum time in seconds that an async container works on a request; SageMaker gives up after 900 "
        "seconds unless the request states another limit",
    )
    async_success_topic: str = Field(
        default="", description="ARN of the SNS topic that is notified of each result; empty: none"
    )
    async_error_topic: str = Field(
        default="", description="ARN of the SNS topic that is notified of each failure; empty: none"
    )

    @model_validator(mode="after")
    def _check(self) -> "EndpointConfig":
        """Refuse settings that SageMaker would refuse, and limits under which no request could be answered."""
        for name in ("async_success_topic", "async_error_topic"):
            value = getattr(self, name)
            if value and re.fullmatch(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w.-]+", value) is None:
                raise ConfigError(
                    f"endpoint.{name}={value!r}: must be an ARN, arn:aws:sns:REGION:ACCOUNT:TOPIC, or empty"
                )
        if self.capture_percent and self.mode in (EndpointMode.SERVERLESS, EndpointMode.ASYNC):
            raise ConfigError(f"endpoint.capture_percent={self.capture_percent}: not possible in mode {self.mode}")
        return self

    @property
    def candidate(self) -> "EndpointConfig":
        """The endpoint that a run creates; a run never changes the endpoint that a clinic calls."""
        return self.replace(name=f"{self.name}{CANDIDATE_SUFFIX}", rollback_alarms=())

    @property
    def async_name(self) -> str:
        """Name of the endpoint with async inference."""
        return f"{self.name}{ASYNC_SUFFIX}" if self.mode is EndpointMode.BOTH else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the endpoints: two in the mode `both`."""
        return (self.name, self.async_name) if self.mode is EndpointMode.BOTH else (self.name,)

    @property
    def environment(self) -> Mapping[str, str]:
        """The limits of a real-time container: its own defaults, except 4 MB bodies and answers for serverless."""
        if self.mode is not EndpointMode.SERVERLESS:
            return {}
        # 4 MB is the limit of serverless endpoints for the request and for the response.
        return {name: str(4 * 2**20) for name in ("MAMMOPIPE_MAX_BYTES", "MAMMOPIPE_MAX_ANSWER_BYTES")}

    @property
    def async_environment(self) -> Mapping[str, str]:
        """The limits of an async container; the real-time limits are made for bodies of 25 MB and 60 seconds."""
        return {
            "MAMMOPIPE_MAX_BYTES": str(self.async_max_bytes),
            "MAMMOPIPE_MAX_SECONDS": str(self.async_max_seconds),
            # At least as many as SageMaker sends at once; otherwise the server refuses requests that SageMaker sent.
            "MAMMOPIPE_MAX_WAITING": str(max(8, self.async_concurrent)),
        }
