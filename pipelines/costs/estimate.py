"""Estimates a run's cost from measured throughputs and dated prices; computes its actual cost from billed times.

An estimate is computed step by step:

    hours          = (units x core-seconds / cores of an instance / instances + overhead of the job) / 3600
    instance hours = hours x instances
    dollars        = instance hours x price of the type

Compute time grows with the number of pixels in training, with copies in Augment and Segment, and with the size of the
DICOM files in Prepare.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from mammopipe.pipelines.config.compute import Distribution, gpus_of
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.costs.prices import Prices, Throughput
from mammopipe.training.config import Cache

HOURS_A_MONTH = 730
BYTES_A_PIXEL = 2
MEMORY_GB = {
    "ml.m5.xlarge": 16,
    "ml.m5.2xlarge": 32,
    "ml.m5.4xlarge": 64,
    "ml.c5.2xlarge": 16,
    "ml.c5.4xlarge": 32,
    "ml.c5.9xlarge": 72,
    "ml.g4dn.xlarge": 16,
    "ml.g4dn.2xlarge": 32,
    "ml.g4dn.12xlarge": 192,
    "ml.g5.xlarge": 16,
    "ml.g5.2xlarge": 32,
    "ml.g5.12xlarge": 192,
    "ml.g5.48xlarge": 768,
}
"""Memory in GiB of the instance types in `prices.toml` that train."""
CLASSES = 3
_DESCRIBE = {
    "Processing": ("describe_processing_job", "ProcessingJobName"),
    "Training": ("describe_training_job", "TrainingJobName"),
}


@dataclass(frozen=True)
class Line:
    """The time and cost of one step."""

    step: str
    units: float
    unit: str
    core_seconds: float
    """Core-seconds per unit; 0 if the seconds were billed instead of estimated."""
    instance_type: str
    instances: int
    cores: float
    hours: float
    """Hours from start to end."""
    usd: float
    measured: bool
    """Whether the figure uses only measurements and prices, no assumption."""
    row: str
    """The source of the figure."""

    @property
    def instance_hours(self) -> float:
        """The billed instance hours."""
        return self.hours * self.instances

    def as_dict(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        return {
            "step": self.step,
            "units": round(self.units),
            "unit": self.unit,
            "core_seconds": self.core_seconds,
            "instance_type": self.instance_type,
            "instances": self.instances,
            "cores": self.cores,
            "hours": round(self.hours, 4),
            "instance_hours": round(self.instance_hours, 4),
            "usd": round(self.usd, 4),
            "measured": self.measured,
            "row": self.row,
        }


@dataclass(frozen=True)
class Size:
    """The amount of work of a run."""

    images: int
    copies: int
    """Copies of each image of the most frequent class."""
    balance: bool
    """Whether copies bring the rarer classes to the size of the most frequent one."""
    epochs: int
    pixels: int
    """Size of the network's input."""
    largest_class: float
    test: float
    validation: float
    """Fraction of all images."""

    @classmethod
    def of(cls, config: PipelineConfig, throughput: Throughput, images: int | None = None) -> "Size":
        """Return the amount of work of a configuration, for its dataset or for the given number of images."""
        dataset = throughput.dataset[str(config.dataset)]
        test = config.data.test_fraction
        return cls(
            images or dataset.images,
            config.augmentation.copies,
            config.augmentation.balance,
            config.training.epochs,
            config.segmentation.height * config.segmentation.width,
            dataset.largest_class,
            test,
            (1 - test) / config.data.folds,
        )

    @property
    def learnt(self) -> float:
        """Originals in the training split."""
        return self.images * (1 - self.test - self.validation)

    @property
    def trained(self) -> float:
        """Images in one epoch: originals and their copies."""
        if not self.balance:
            return self.learnt * (1 + self.copies)
        return max(self.learnt * self.largest_class * CLASSES * (1 + self.copies), self.learnt)


def estimate(
    config: PipelineConfig, prices: Prices, throughput: Throughput, *, images: int | None = None
) -> list[Line]:
    """Return the estimated time and cost of each step of a run.

    Args:
        config: The configuration.
        prices: US dollars per instance hour.
        throughput: Measured core-seconds per unit of work.
        images: Number of images; by default that of the configuration's dataset.

    Raises:
        ConfigError: An instance type has no price or no number of cores.
    """
    size = Size.of(config, throughput, images)
    processing = (config.compute.processing_instance_type, config.compute.processing_instance_count)
    one = (config.compute.processing_instance_type, 1)
    copies = size.trained - size.learnt
    work = [
        ("Prepare", f"prepare-{config.dataset}", size.images, processing),
        ("Augment", "augment", copies, processing),
        ("Segment", "segment", size.images + copies, processing),
    ]
    lines = [_line(prices, throughput, step, name, units, *where) for step, name, units, where in work]
    lines += [
        _training(config, prices, throughput, size, cnn.replace("_", "-").replace(".", "-")) for cnn in config.cnns
    ]
    judged = size.images * (size.test + size.validation) * len(config.cnns)
    lines.append(_line(prices, throughput, "Evaluate", "evaluate", judged, *one))
    return lines


def _line(
    prices: Prices, throughput: Throughput, step: str, name: str, units: float, instance_type: str, instances: int
) -> Line:
    work = throughput.of(name)
    cores, known = throughput.cores(instance_type, trains=False)
    hours = _hours(units * work.core_seconds, cores, instances, throughput)
    usd = hours * instances * prices.hour("processing", instance_type)
    return Line(
        step,
        units,
        work.unit,
        work.core_seconds,
        instance_type,
        instances,
        cores,
        hours,
        usd,
        work.measured and known,
        work.row,
    )


def _training(config: PipelineConfig, prices: Prices, throughput: Throughput, size: Size, cnn: str) -> Line:
    work, compute = throughput.of(f"train-{cnn}"), config.compute
    core_seconds = work.core_seconds * size.pixels / throughput.training.pixels
    cores, known = throughput.cores(compute.training_instance_type, trains=True)
    units = size.trained * size.epochs
    instances = compute.training_instance_count
    hours = _hours(units * core_seconds, cores, instances, throughput)
    usd = hours * instances * prices.hour("training", compute.training_instance_type)
    return Line(
        f"Train-{cnn}",
        units,
        "film and epoch",
        round(core_seconds, 5),
        compute.training_instance_type,
        instances,
        cores,
        hours,
        usd,
        work.measured and known,
        work.row,
    )


def _hours(core_seconds: float, cores: float, instances: int, throughput: Throughput) -> float:
    return (core_seconds / cores / instances + throughput.job.overhead_seconds) / 3600


def serving(config: PipelineConfig, prices: Prices, throughput: Throughput, images: int) -> list[tuple[str, float]]:
    """Return the costs beside the steps: the idle endpoint, all images sent through it, their storage for a month."""
    endpoint, answer = config.endpoint, throughput.of("answer")
    price = prices.hour("hosting", endpoint.instance_type)
    cores, _ = throughput.cores(endpoint.instance_type, trains=False)
    hours = images * answer.core_seconds / cores / 3600
    dataset = throughput.dataset[str(config.dataset)]
    gigabytes = images / dataset.images * dataset.gigabytes
    return [
        (
            f"endpoint at rest, {endpoint.instance_count} x {endpoint.instance_type}, a month",
            price * HOURS_A_MONTH * endpoint.instance_count,
        ),
        (f"all images through it once, {hours:.1f} instance hours", price * hours),
        (f"{gigabytes:,.0f} GB of raw files on S3, a month", gigabytes * prices.storage.s3_gb_month),
    ]


def obstacles(config: PipelineConfig, lines: list[Line], size: Size) -> list[str]:
    """Return what would make the estimated run fail: time limits, and images that exceed the volume or memory."""
    found = []
    for line in lines:
        kind = "training" if line.step.startswith("Train-") else "processing"
        key = f"{kind}_max_runtime_seconds"
        limit = getattr(config.compute, key) / 3600
        if line.hours > limit:
            found.append(
                f"{line.step} takes {line.hours:,.0f} hours and is stopped after {limit:g}: raise compute.{key}, or "
                "use more instances"
            )
    gigabytes = size.trained * size.pixels * BYTES_A_PIXEL / 1e9
    if gigabytes > config.compute.training_volume_gb:
        found.append(
            f"the images of an epoch are {gigabytes:,.0f} GB without compression, and compute.training_volume_gb is "
            f"{config.compute.training_volume_gb}"
        )
    memory = MEMORY_GB.get(config.compute.training_instance_type)
    if memory is not None and config.training.cache is Cache.MEMORY and gigabytes > memory:
        found.append(
            f"training.cache=memory holds {gigabytes:,.0f} GB of images in memory, and "
            f"{config.compute.training_instance_type} has {memory}: use auto or disk"
        )
    return found


def within(lines: list[Line]) -> float:
    """Return the hours from start to end: steps run in sequence, but the candidates train in parallel."""
    trained = [line.hours for line in lines if line.step.startswith("Train-")]
    return sum(line.hours for line in lines if not line.step.startswith("Train-")) + max(trained, default=0.0)


def measured(execution: Mapping[str, Any], prices: Prices) -> list[Line]:
    """Return the figures of each step of a run: AWS's billed times for runs on AWS, else this machine's own hours."""
    lines = []
    for step in execution["steps"]:
        if step["type"] not in _DESCRIBE or step["seconds"] is None:
            continue
        job = step.get("job")
        seconds = float(job["billed_seconds"] if job else step["seconds"])
        hours, kind = seconds / 3600, str(step["type"]).lower()
        usd = hours * job["instances"] * prices.hour(kind, job["instance_type"]) if job else 0.0
        lines.append(
            Line(
                step["name"],
                0,
                "",
                0.0,
                job["instance_type"] if job else "this machine",
                job["instances"] if job else 1,
                0.0,
                hours,
                usd,
                True,
                "billed" if job else "measured here",
            )
        )
    return lines


def billed(sagemaker: Any, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the steps; each AWS job's step gets `job`: its instances and billed seconds.

    A training job states its billable seconds; a processing job is billed from its start to its end.
    """
    return [{**step, **_job(sagemaker, step)} for step in steps]


def _job(sagemaker: Any, step: Mapping[str, Any]) -> dict[str, Any]:
    name = step.get("job_name")
    if not name or step["type"] not in _DESCRIBE:
        return {}
    call, key = _DESCRIBE[step["type"]]
    try:
        facts = getattr(sagemaker, call)(**{key: name})
    except ClientError as error:
        if error.response["Error"]["Code"] in ("ValidationException", "ResourceNotFound"):
            return {}
        raise
    return {"job": dict(_bill(facts, step["type"]))}


def _bill(facts: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    resources = facts["ResourceConfig"] if kind == "Training" else facts["ProcessingResources"]["ClusterConfig"]
    yield "instance_type", resources["InstanceType"]
    yield "instances", resources["InstanceCount"]
    start = facts.get("TrainingStartTime") or facts.get("ProcessingStartTime") or facts["CreationTime"]
    end = facts.get("TrainingEndTime") or facts.get("ProcessingEndTime") or datetime.now(start.tzinfo)
    yield "billed_seconds", facts.get("BillableTimeInSeconds", round((end - start).total_seconds()))
    yield "spot", bool(facts.get("EnableManagedSpotTraining"))


def scaled(config: PipelineConfig, *, processing: int | None = None, training: int | None = None) -> PipelineConfig:
    """Return the configuration with other numbers of instances."""
    compute = config.compute
    shared = Distribution.SHARDED if processing and processing > 1 else compute.distribution
    # A batch that this number of processes can share evenly; it does not affect the estimate.
    processes = (training or 1) * max(1, gpus_of(compute.training_instance_type))
    batch = -(-config.training.batch_size // processes) * processes
    return config.replace(
        training=config.training.replace(batch_size=batch),
        compute=compute.replace(
            distribution=shared,
            processing_instance_count=processing or compute.processing_instance_count,
            training_instance_count=training or compute.training_instance_count,
        ),
    )
