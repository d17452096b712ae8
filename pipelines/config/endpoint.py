"""EndpointConfig: how the registered model is served, at once or through a queue (async inference), or both.

Autoscaling is not here: a pipeline has no step for it. The state machine of infra/stack.yaml registers it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from mammopipe.processing.errors import ConfigError

ASYNC_SUFFIX = "-async"
CANDIDATE_SUFFIX = "-candidate"
LONGEST_NAME = 24
"""Letters of an endpoint's name. What serves it has longer ones: a run adds 25 letters and SageMaker Pipelines a suffix
of its own, an approval up to 39; SageMaker takes 63."""
MOST_ALARMS = 10
LIMITS: Mapping[str, tuple[int, int]] = {
    "async_concurrent": (1, 1000),
    "async_max_bytes": (1, 2**30),
    "async_max_seconds": (1, 3600),
    "bake_seconds": (0, 3600),
    "capture_percent": (0, 100),
    "serverless_concurrency": (1, 200),
    "serverless_memory_mb": (1024, 6144),
}
"""Smallest and largest value of each number, as SageMaker takes them."""


class EndpointMode(StrEnum):
    """How an endpoint is asked."""

    REALTIME = "realtime"
    """InvokeEndpoint: images up to 6 MB, an answer within 60 seconds."""
    ASYNC = "async"
    """InvokeEndpointAsync: whole exams up to 1 GB, which SageMaker itself reads from S3 and hands to the container."""
    BOTH = "both"
    """Two endpoints of one model, the second one's name ending in `-async`."""
    SERVERLESS = "serverless"
    """InvokeEndpoint without instances between requests: images up to 4 MB, a slow first answer after a pause.

    SageMaker gives such a model neither network isolation nor a VPC, no data capture and no key for its volume:
    choosing this mode is consent to that."""


@dataclass(frozen=True)
class EndpointConfig:
    """The endpoint that answers with the registered model."""

    name: str = "mammopipe"
    instance_type: str = "ml.m5.large"
    instance_count: int = 1
    mode: EndpointMode = EndpointMode.REALTIME
    """At once, through a queue, or both."""
    capture_percent: int = 0
    """Share of real-time requests and answers kept on S3, encrypted with `security.kms_key`; 0: none are. They hold
    patients' images."""
    rollback_alarms: tuple[str, ...] = ()
    """CloudWatch alarms that take an update back; the stack's output RollbackAlarms names two."""
    bake_seconds: int = 600
    """How long an update is watched for these alarms before the old instances go."""
    serverless_memory_mb: int = 6144
    """Memory of a serverless container; its share of a CPU grows with it."""
    serverless_concurrency: int = 5
    """Requests that are answered at once in serverless mode."""
    async_concurrent: int = 2
    """Requests that SageMaker hands to one async instance at a time."""
    async_max_bytes: int = 2**30
    """Bytes of a request's body that an async container takes; SageMaker's own limit is 1 GB."""
    async_max_seconds: int = 840
    """Seconds that an async container works on a request; SageMaker gives up after 900 unless a request says else."""
    async_success_topic: str = ""
    """ARN of the SNS topic that hears of each result; empty: none does."""
    async_error_topic: str = ""
    """ARN of the SNS topic that hears of each failure; empty: none does."""

    def __post_init__(self) -> None:
        """Refuse what SageMaker would refuse, and limits under which no request could be answered."""
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"endpoint.{name}={value}: {low} to {high}")
        for name in ("async_success_topic", "async_error_topic"):
            value = getattr(self, name)
            if value and re.fullmatch(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w.-]+", value) is None:
                raise ConfigError(f"endpoint.{name}={value!r}: an ARN as arn:aws:sns:REGION:ACCOUNT:TOPIC, or empty")
        if self.serverless_memory_mb % 1024:
            raise ConfigError(f"endpoint.serverless_memory_mb={self.serverless_memory_mb}: a multiple of 1024")
        if self.capture_percent and self.mode in (EndpointMode.SERVERLESS, EndpointMode.ASYNC):
            raise ConfigError(f"endpoint.capture_percent={self.capture_percent}: not in mode {self.mode}")
        if len(self.rollback_alarms) > MOST_ALARMS:
            raise ConfigError(f"endpoint.rollback_alarms: {len(self.rollback_alarms)} of them; at most {MOST_ALARMS}")

    @property
    def candidate(self) -> "EndpointConfig":
        """The endpoint that a run leaves: nothing that a run does touches the one that a clinic calls."""
        return replace(self, name=f"{self.name}{CANDIDATE_SUFFIX}", rollback_alarms=())

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
        """The limits of a container that answers at once: nothing beyond its own, but for serverless bodies of 4 MB."""
        return {"MAMMOPIPE_MAX_BYTES": str(4 * 2**20)} if self.mode is EndpointMode.SERVERLESS else {}

    @property
    def async_environment(self) -> Mapping[str, str]:
        """The limits of an async container: those of a real-time one are for bodies of 6 MB and 60 seconds."""
        return {
            "MAMMOPIPE_MAX_BYTES": str(self.async_max_bytes),
            "MAMMOPIPE_MAX_SECONDS": str(self.async_max_seconds),
            "MAMMOPIPE_MAX_WAITING": str(max(8, self.async_concurrent)),
        }
