"""ComputeConfig: the instances of the jobs on AWS, their limits, and what is special about some instance types."""

import re
from dataclasses import dataclass
from enum import StrEnum

from mammopipe.pipelines.config.toml import require

LONGEST_KEEP_ALIVE = 21_600
"""Seconds that SageMaker keeps an instance warm at most (`KeepAlivePeriodInSeconds`)."""


class Distribution(StrEnum):
    """How SageMaker spreads an input over a job's instances (`S3DataDistributionType`)."""

    REPLICATED = "FullyReplicated"
    SHARDED = "ShardedByS3Key"


@dataclass(frozen=True)
class ComputeConfig:
    """Instances, time limits and caching on AWS; the local backends use this machine whatever stands here."""

    processing_instance_type: str = "ml.m5.xlarge"
    processing_instance_count: int = 1
    distribution: Distribution = Distribution.REPLICATED
    """How images spread over several processing instances (pipeline parameter DataDistribution)."""
    training_instance_type: str = "ml.g4dn.xlarge"
    training_instance_count: int = 1
    spot: bool = False
    """Whether training uses managed spot instances, resuming from its checkpoints."""
    volume_gb: int = 50
    max_runtime_seconds: int = 6 * 3600
    """The time after which SageMaker stops a job."""
    max_wait_seconds: int = 12 * 3600
    """With spot: the time that waiting and running may take together."""
    keep_alive_seconds: int = 0
    """How long training instances are kept warm for the next job; 0: not at all. They cost as much as when working."""
    cache: str = ""
    """ISO 8601 duration within which an equal step is not run again, as `P30D`; empty: always run."""

    def __post_init__(self) -> None:
        """Refuse limits that SageMaker would refuse."""
        require(
            not self.spot or self.max_wait_seconds >= self.max_runtime_seconds,
            f"compute.max_wait_seconds={self.max_wait_seconds} is below max_runtime_seconds={self.max_runtime_seconds}",
        )
        require(
            0 <= self.keep_alive_seconds <= LONGEST_KEEP_ALIVE,
            f"compute.keep_alive_seconds={self.keep_alive_seconds}: 0 to {LONGEST_KEEP_ALIVE}",
        )
        require(
            not (self.spot and self.keep_alive_seconds),
            f"compute.keep_alive_seconds={self.keep_alive_seconds}: SageMaker keeps no spot instances warm",
        )
        require(
            not self.cache or re.fullmatch(r"P(?=.)(\d+[YMWD])*(T(?=.)(\d+[HMS])+)?", self.cache) is not None,
            f"compute.cache={self.cache!r}: an ISO 8601 duration such as P30D, or empty",
        )


def has_local_disks(instance_type: str) -> bool:
    """Return whether the instances of a type, as `ml.g4dn.xlarge`, bring disks of their own.

    Their hardware encrypts those disks; SageMaker refuses a job that names a key for them (CreateTrainingJob,
    ResourceConfig.VolumeKmsKeyId).
    """
    family = instance_type.removeprefix("ml.").partition(".")[0]
    return re.fullmatch(r"[cmr]\d+[a-z]*d[a-z]*|g(4dn|5|6e?)|p(3dn|4de?|5e?n?)|trn\d.*", family) is not None
