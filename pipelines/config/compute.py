"""ComputeConfig: the instances of the jobs on AWS, their limits, and what is special about some instance types."""

import re
from enum import StrEnum

from pydantic import Field, model_validator

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings

LONGEST_KEEP_ALIVE = 21_600
"""Seconds that SageMaker keeps an instance warm at most (`KeepAlivePeriodInSeconds`)."""


class Distribution(StrEnum):
    """How SageMaker spreads an input over a job's instances (`S3DataDistributionType`)."""

    REPLICATED = "FullyReplicated"
    SHARDED = "ShardedByS3Key"


class ComputeConfig(Settings):
    """Instances, time limits and caching on AWS; the local backends use this machine whatever stands here."""

    processing_instance_type: str = Field(
        default="ml.m5.xlarge", description="instance type of Prepare, Augment, Segment and Evaluate"
    )
    processing_instance_count: int = Field(
        default=1, ge=1, description="instances of Prepare, Augment and Segment; Evaluate has one"
    )
    distribution: Distribution = Field(
        default=Distribution.REPLICATED,
        description="how images spread over several processing instances (parameter DataDistribution)",
    )
    training_instance_type: str = Field(default="ml.g4dn.xlarge", description="instance type of the training jobs")
    training_instance_count: int = Field(default=1, ge=1, description="instances of each training job")
    spot: bool = Field(
        default=False, description="whether training uses managed spot instances, resuming from its checkpoints"
    )
    volume_gb: int = Field(default=50, ge=1, description="disk of an instance, in GB")
    max_runtime_seconds: int = Field(default=6 * 3600, ge=1, description="seconds after which SageMaker stops a job")
    max_wait_seconds: int = Field(
        default=12 * 3600, ge=1, description="with spot: seconds that waiting and running may take together"
    )
    keep_alive_seconds: int = Field(
        default=0,
        ge=0,
        le=LONGEST_KEEP_ALIVE,
        description="seconds that training instances are kept warm for the next job; they cost as much as when working",
    )
    cache: str = Field(
        default="",
        description="ISO 8601 duration within which an equal step is not run again, as `P30D`; empty: always run",
    )

    @model_validator(mode="after")
    def _check(self) -> "ComputeConfig":
        """Refuse limits that SageMaker would refuse."""
        if self.spot and self.max_wait_seconds < self.max_runtime_seconds:
            raise ConfigError(
                f"compute.max_wait_seconds={self.max_wait_seconds} is below "
                f"max_runtime_seconds={self.max_runtime_seconds}"
            )
        if self.spot and self.keep_alive_seconds:
            raise ConfigError(
                f"compute.keep_alive_seconds={self.keep_alive_seconds}: SageMaker keeps no spot instances warm"
            )
        if self.cache and re.fullmatch(r"P(?=.)(\d+[YMWD])*(T(?=.)(\d+[HMS])+)?", self.cache) is None:
            raise ConfigError(f"compute.cache={self.cache!r}: an ISO 8601 duration such as P30D, or empty")
        return self


def has_local_disks(instance_type: str) -> bool:
    """Return whether the instances of a type, as `ml.g4dn.xlarge`, bring disks of their own.

    Their hardware encrypts those disks; SageMaker refuses a job that names a key for them (CreateTrainingJob,
    ResourceConfig.VolumeKmsKeyId).
    """
    family = instance_type.removeprefix("ml.").partition(".")[0]
    return re.fullmatch(r"[cmr]\d+[a-z]*d[a-z]*|g(4dn|5|6e?)|p(3dn|4de?|5e?n?)|trn\d.*", family) is not None
