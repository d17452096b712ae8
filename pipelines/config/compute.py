"""ComputeConfig and ImagesConfig: instances, limits and container images of the jobs on AWS; GPUs of instance types."""

import re
from collections.abc import Mapping
from enum import StrEnum

from pydantic import Field, model_validator

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings
from mammopipe.training.config import TrainConfig

LONGEST_KEEP_ALIVE = 21_600
"""The longest time, in seconds, that SageMaker keeps an instance warm (`KeepAlivePeriodInSeconds`)."""


GPUS: Mapping[str, Mapping[str, int]] = {
    "g4dn": {"xlarge": 1, "2xlarge": 1, "4xlarge": 1, "8xlarge": 1, "12xlarge": 4, "16xlarge": 1},
    **dict.fromkeys(
        ("g5", "g6", "g6e"),
        {
            **dict.fromkeys(("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge"), 1),
            "12xlarge": 4,
            "24xlarge": 4,
            "48xlarge": 8,
        },
    ),
    "g7e": {
        **dict.fromkeys(("2xlarge", "4xlarge", "8xlarge"), 1),
        "12xlarge": 2,
        "24xlarge": 4,
        "48xlarge": 8,
    },
    "p2": {"xlarge": 1, "8xlarge": 8, "16xlarge": 16},
    "p3": {"2xlarge": 1, "8xlarge": 4, "16xlarge": 8},
    "p3dn": {"24xlarge": 8},
    **dict.fromkeys(("p4d", "p4de"), {"24xlarge": 8}),
    "p5": {"4xlarge": 1, "48xlarge": 8},
    **dict.fromkeys(("p5e", "p5en", "p6-b200", "p6-b300"), {"48xlarge": 8}),
}
"""Number of GPUs by instance family and size; see `gpus_of` for the source."""


UNIT_SECONDS = {"Y": 365 * 86400, "M": 30 * 86400, "W": 7 * 86400, "D": 86400, "H": 3600, "m": 60, "S": 1}
"""Seconds of each unit of a duration; `m` is a minute, since ISO 8601 writes months and minutes both as M."""
_DURATION = re.compile(r"P(?P<date>(?:\d+[YMWD])*)(?:T(?P<time>(?:\d+[HMS])+))?")


class Distribution(StrEnum):
    """How SageMaker distributes an input over a job's instances (`S3DataDistributionType`)."""

    REPLICATED = "FullyReplicated"
    SHARDED = "ShardedByS3Key"


class InputMode(StrEnum):
    """How a training job gets its images (`InputMode` of a channel, CreateTrainingJob)."""

    FILE = "File"
    """All files are downloaded to the instance's disk before training starts."""
    FAST_FILE = "FastFile"
    """Files appear at once and are read from S3 when they are used; suits a few large files that are read in order."""


class ComputeConfig(Settings):
    """Instances, time limits and caching on AWS; local backends ignore the instance settings and use this machine."""

    processing_instance_type: str = Field(
        default="ml.m5.xlarge", description="instance type of Prepare, Augment, Segment and Evaluate"
    )
    processing_instance_count: int = Field(
        default=1, ge=1, description="instances of Prepare, Augment and Segment; Evaluate has one"
    )
    distribution: Distribution = Field(
        default=Distribution.REPLICATED,
        description="how images are divided among several processing instances (parameter DataDistribution)",
    )
    training_instance_type: str = Field(default="ml.g4dn.xlarge", description="instance type of the training jobs")
    training_instance_count: int = Field(default=1, ge=1, description="instances of each training job")
    input_mode: InputMode = Field(
        default=InputMode.FILE,
        description="how training jobs get their images: `File` downloads them before training, `FastFile` reads "
        "them from S3 as they are used, which suits segmentation.shard_megabytes = 100",
    )
    spot: bool = Field(
        default=False, description="whether training uses managed spot instances, resuming from its checkpoints"
    )
    processing_volume_gb: int = Field(default=50, ge=1, description="disk of a processing instance, in GB")
    training_volume_gb: int = Field(default=50, ge=1, description="disk of a training instance, in GB")
    processing_max_runtime_seconds: int = Field(
        default=6 * 3600, ge=1, le=777_600, description="seconds after which SageMaker stops a processing job"
    )
    training_max_runtime_seconds: int = Field(
        default=24 * 3600, ge=1, le=2_419_200, description="seconds after which SageMaker stops a training job"
    )
    max_wait_seconds: int = Field(
        default=36 * 3600, ge=1, description="with spot: maximum of waiting and running time together, in seconds"
    )
    keep_alive_seconds: int = Field(
        default=0,
        ge=0,
        le=LONGEST_KEEP_ALIVE,
        description="seconds that training instances stay ready for the next job; they cost as much as while they work",
    )
    fold_jobs: bool = Field(
        default=False,
        description="whether each fold of training.folds is a training job of its own, all in parallel; the ensemble "
        "of their networks is evaluated out of fold and served as one model",
    )
    training_jobs: int = Field(
        default=0,
        ge=0,
        description="maximum number of training jobs that run at the same time, for example the account's quota of "
        "instances; 0: no limit",
    )
    cache: str = Field(
        default="",
        description="ISO 8601 duration, such as `P30D`, within which an equal step is not run again; empty: always run",
    )
    cache_gigabytes: float = Field(
        default=50,
        gt=0,
        description="maximum size of the step cache in a folder of runs on this machine, in GB; the results that were "
        "unused for the longest time are removed first. SageMaker's cache has no limit",
    )

    @model_validator(mode="after")
    def _check(self) -> "ComputeConfig":
        """Refuse limits that SageMaker would refuse."""
        if self.spot and self.max_wait_seconds < self.training_max_runtime_seconds:
            raise ConfigError(
                f"compute.max_wait_seconds={self.max_wait_seconds} is below "
                f"training_max_runtime_seconds={self.training_max_runtime_seconds}"
            )
        require_divided(self.processing_instance_count, self.distribution)
        if self.spot and self.keep_alive_seconds:
            raise ConfigError(
                f"compute.keep_alive_seconds={self.keep_alive_seconds}: SageMaker keeps no spot instances warm"
            )
        if self.cache:
            seconds_of(self.cache)
        return self


class ImagesConfig(Settings):
    """The container images with the code."""

    processing: str = Field(default="mammopipe/processing:latest", description="image of Prepare, Augment and Segment")
    training: str = Field(default="mammopipe/training:latest", description="image of training and Evaluate")
    serving: str = Field(default="mammopipe/serving:latest", description="image of the endpoint")


def seconds_of(duration: str) -> int:
    """Return the seconds of `compute.cache`, an ISO 8601 duration such as P30D; a month has 30 days and a year 365."""
    match = _DURATION.fullmatch(duration)
    if match is None or not (match["date"] or match["time"]):
        raise ConfigError(f"compute.cache={duration!r}: must be an ISO 8601 duration such as P30D, or empty")
    clock = (match["time"] or "").replace("M", "m")
    found = re.findall(r"(\d+)([A-Za-z])", match["date"] + clock)
    return sum(int(number) * UNIT_SECONDS[unit] for number, unit in found)


def require_divided(instances: int, distribution: str) -> None:
    """Refuse several processing instances that each get all images: they would overwrite each other's results."""
    if instances > 1 and distribution != Distribution.SHARDED:
        raise ConfigError(
            f"compute.processing_instance_count={instances} needs compute.distribution={Distribution.SHARDED}, not "
            f"{distribution}: each instance would prepare every image",
        )


def gpus_of(instance_type: str) -> int:
    """Return the number of GPUs of an instance type, such as `ml.g5.12xlarge`; 0 if it has none.

    Source: "Amazon EC2 accelerated computing instances" (EC2 User Guide).
    """
    family, _, size = instance_type.removeprefix("ml.").partition(".")
    return GPUS.get(family, {}).get(size, 0)


def require_known_processors(instance_type: str) -> None:
    """Refuse an instance type for training whose accelerators cannot be used or counted.

    The number of GPUs decides how many processes share a batch. The training image contains no software for
    accelerators of AWS or Intel, so a job would train on the CPUs of an expensive machine.
    """
    family = instance_type.removeprefix("ml.").partition(".")[0]
    if re.match(r"(trn|inf|dl)\d", family):
        raise ConfigError(
            f"compute.training_instance_type={instance_type}: its accelerators run no CUDA; use g or p types"
        )
    if re.match(r"[gp]\d", family) and not gpus_of(instance_type):
        raise ConfigError(
            f"compute.training_instance_type={instance_type}: mammopipe does not know how many GPUs it has; the known "
            f"families are {', '.join(GPUS)}"
        )


def require_even_batch(training: TrainConfig, instance_type: str, instances: int) -> None:
    """Refuse a batch that cannot be divided evenly among a training job's processes (one per GPU or host)."""
    require_known_processors(instance_type)
    processes = max(1, gpus_of(instance_type)) * instances
    # mixup blends pairs of images of one process, so each process needs an even number.
    more = f", times accumulate={training.accumulate}" if training.accumulate > 1 else ""
    more += ", times 2 for the pairs of mixup" if training.mixup else ""
    if training.batch_size % (processes * training.accumulate * training.images_together):
        raise ConfigError(
            f"training.batch_size={training.batch_size} is not a multiple of the {processes} processes of "
            f"{instances} x {instance_type}, one for each GPU{more}",
        )


def has_local_disks(instance_type: str) -> bool:
    """Return whether an instance type, such as `ml.g4dn.xlarge`, has local disks.

    The hardware encrypts local disks. SageMaker refuses a job that names a key for them (CreateTrainingJob,
    ResourceConfig.VolumeKmsKeyId).
    """
    family = instance_type.removeprefix("ml.").partition(".")[0]
    return re.fullmatch(r"[cmr]\d+[a-z]*d[a-z]*|g(4dn|5|6e?|7e?)|p(3dn|4de?|5e?n?|6.*)|trn\d.*|dl1", family) is not None
