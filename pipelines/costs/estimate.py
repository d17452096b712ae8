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
from mammopipe.training.config import Final, Learns

HOURS_A_MONTH = 730
BYTES_A_PIXEL = 2
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
    """Whether copies bring the rarer classes to the size of the most frequent one; without copies, they do not."""
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
            config.augmentation.copies - config.augmentation.rarer_only,
            config.augmentation.balance and config.augmentation.copies > 0,
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
        _training(config, prices, throughput, size, cnn.replace("_", "-").replace(".", "-"), fold)
        for cnn in config.cnns
        for fold in config.fold_jobs or (None,)
    ]
    judged = size.images * (size.test + size.validation) * len(config.cnns)
    lines.append(
        _line(prices, throughput, "Evaluate", "evaluate", judged, *one, more=_forward(config, throughput, size))
    )
    return lines


def _forward(config: PipelineConfig, throughput: Throughput, size: Size) -> float:
    """Return the core-seconds of a forward pass, mean over the candidates, beyond that of the measured input size.

    A forward pass is a third of a training step: the backward pass takes twice as long.
    """
    more = max(0.0, size.pixels / throughput.training.pixels - 1) / 3
    works = [throughput.of(f"train-{cnn.replace('_', '-').replace('.', '-')}") for cnn in config.cnns]
    members = max(1, len(config.fold_jobs))
    return more * members * sum(work.core_seconds for work in works) / len(works)


def _line(
    prices: Prices,
    throughput: Throughput,
    step: str,
    name: str,
    units: float,
    instance_type: str,
    instances: int,
    more: float = 0.0,
) -> Line:
    """Return the line of a processing job; `more` are further core-seconds of each unit."""
    work = throughput.of(name)
    core_seconds = work.core_seconds + more
    cores, known = throughput.cores(instance_type, trains=False)
    hours = _hours(units * core_seconds, cores, instances, throughput)
    usd = hours * instances * prices.hour("processing", instance_type)
    return Line(
        step,
        units,
        work.unit,
        round(core_seconds, 5),
        instance_type,
        instances,
        cores,
        hours,
        usd,
        work.measured and known,
        work.row,
    )


def passes(config: PipelineConfig, size: Size, *, fold: int | None = None) -> float:
    """Return how many images a training job computes over all epochs, those of all its folds together.

    Args:
        config: The configuration.
        size: The amount of work.
        fold: The fold, where each fold is a job of its own.
    """
    folds, development = config.training.folds, size.trained * config.data.folds / (config.data.folds - 1)
    if config.training.learns is Learns.HEAD:
        # The feature maps are computed once. The epochs of the classifier alone take hardly any time.
        return development if folds else size.trained
    if not folds:
        return size.trained * size.epochs
    one = development * (folds - 1) / folds * size.epochs
    if fold is not None:
        return one
    return folds * one + (development * size.epochs if config.training.final is Final.REFIT else 0.0)


def _training(
    config: PipelineConfig, prices: Prices, throughput: Throughput, size: Size, cnn: str, fold: int | None
) -> Line:
    work, compute = throughput.of(f"train-{cnn}"), config.compute
    core_seconds = work.core_seconds * size.pixels / throughput.training.pixels
    cores, known = throughput.cores(compute.training_instance_type, trains=True)
    units = passes(config, size, fold=fold)
    instances = compute.training_instance_count
    hours = _hours(units * core_seconds, cores, instances, throughput)
    usd = hours * instances * prices.hour("training", compute.training_instance_type)
    return Line(
        f"Train-{cnn}" if fold is None else f"Train-{cnn}-fold-{fold}",
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


def within(lines: list[Line], *, training_jobs: int = 0) -> float:
    """Return the hours from start to end: steps run in sequence, but training jobs run side by side.

    Args:
        lines: The steps.
        training_jobs: Training jobs that run at the same time; 0 means all.
    """
    ends: list[float] = []
    for line in lines:
        if line.step.startswith("Train-"):
            waits = ends[-training_jobs] if training_jobs and len(ends) >= training_jobs else 0.0
            ends.append(waits + line.hours)
    return sum(line.hours for line in lines if not line.step.startswith("Train-")) + max(ends, default=0.0)


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
