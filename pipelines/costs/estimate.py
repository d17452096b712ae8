"""Estimates a run's cost from measured throughputs and dated prices.

An estimate is computed step by step:

    hours          = (units x core-seconds / cores of an instance / instances + overhead of the job) / 3600
    instance hours = hours x instances
    dollars        = instance hours x price of the type

Compute time grows with the number of pixels in training, with copies in Augment and Segment, and with the size of the
DICOM files in Prepare.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from mammopipe.pipelines.config.compute import Distribution, gpus_of
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.costs.prices import Prices, Throughput, Work
from mammopipe.processing.classes import Question
from mammopipe.training.config import Final, Learns

BYTES_A_PIXEL = 2
LEARNING = ("Train-", "Tune-")
"""Prefixes of the names of the steps that train the candidates."""
BACKWARD_AND_FORWARD = 3
"""A training step takes as long as three forward passes: the backward pass takes twice as long as the forward pass."""
TRANSFORM = "Transform"
"""Name of the step that answers the images below `transform.input`."""


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
    billed_hours: float | None = None
    """The instance hours of a search, whose last jobs may use fewer instances; None: hours times instances."""

    @property
    def instance_hours(self) -> float:
        """The billed instance hours."""
        return self.hours * self.instances if self.billed_hours is None else self.billed_hours

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
    classes: int
    """Number of classes that copies balance."""
    largest_class: float
    test: float
    validation: float
    """Fraction of all images."""

    @classmethod
    def of(cls, config: PipelineConfig, throughput: Throughput, images: int | None = None) -> "Size":
        """Return the amount of work of a configuration, for its dataset or for the given number of images."""
        dataset = throughput.size(str(config.dataset))
        test, binary = config.data.test_fraction, config.training.question is Question.BINARY
        return cls(
            images or dataset.images,
            config.augmentation.copies - config.augmentation.rarer_only,
            config.augmentation.balance and config.augmentation.copies > 0,
            config.training.epochs,
            config.segmentation.height * config.segmentation.width,
            2 if binary else dataset.classes,
            max(dataset.malignant, 1 - dataset.malignant) if binary else dataset.largest_class,
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
        return max(self.learnt * self.largest_class * self.classes * (1 + self.copies), self.learnt)


def estimate(
    config: PipelineConfig,
    prices: Prices,
    throughput: Throughput,
    *,
    images: int | None = None,
    batch: int | None = None,
) -> list[Line]:
    """Return the estimated time and cost of each step of a run.

    Args:
        config: The configuration.
        prices: US dollars per instance hour.
        throughput: Measured core-seconds per unit of work.
        images: Number of images; by default that of the configuration's dataset.
        batch: Number of images below `transform.input`; by default as many, which the line then states as assumed.

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
        _training(config, prices, throughput, size, cnn, fold)
        for cnn in config.cnns
        for fold in config.fold_jobs or (None,)
    ]
    judged = size.images * (size.test + size.validation) * len(config.cnns)
    lines.append(
        _line(prices, throughput, "Evaluate", "evaluate", judged, *one, more=_forward(config, throughput, size))
    )
    if config.transform.input:
        where = (config.transform.instance_type, config.transform.instance_count)
        units = size.images if batch is None else batch
        line = _line(prices, throughput, TRANSFORM, "answer", units, *where, kind="transform")
        lines.append(replace(line, measured=line.measured and batch is not None))
    return lines


def _forward(config: PipelineConfig, throughput: Throughput, size: Size) -> float:
    """Return the core-seconds of a forward pass, mean over the candidates, beyond that of the measured input size."""
    more = max(0.0, size.pixels / throughput.training.pixels - 1) / BACKWARD_AND_FORWARD
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
    kind: str = "processing",
) -> Line:
    """Return the line of a processing or transform job; `more` are further core-seconds of each unit."""
    work = throughput.of(name)
    core_seconds = work.core_seconds + more
    cores, known = throughput.cores(instance_type, trains=False)
    hours = _hours(units * core_seconds, cores, instances, throughput)
    usd = hours * instances * prices.hour(kind, instance_type)
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
    folds, development = config.training.folds, _development(config, size)
    if not folds:
        # With `other_side`, each breast is computed together with the patient's other breast: twice the work.
        return size.trained * size.epochs * (2 if config.training.other_side else 1)
    one = development * (folds - 1) / folds * size.epochs
    if fold is not None:
        return one
    refit = development * size.epochs if config.training.final is Final.REFIT else 0.0
    return config.training.deals * folds * one + refit


def images_read(config: PipelineConfig, size: Size) -> float:
    """Return how many images a training job reads over all epochs; where only the classifier learns, each once."""
    if config.training.learns is Learns.HEAD:
        return _development(config, size) if config.training.folds else size.trained
    return passes(config, size)


def _development(config: PipelineConfig, size: Size) -> float:
    """Return the images of all folds of a cross-validation, with their copies."""
    return size.trained * config.data.folds / (config.data.folds - 1)


def _training(
    config: PipelineConfig, prices: Prices, throughput: Throughput, size: Size, cnn: str, fold: int | None
) -> Line:
    """Return the line of a network's training job, of one fold of it, or of the search in its place."""
    compute, tuning, name = config.compute, config.tuning, cnn.replace("_", "-").replace(".", "-")
    searched = tuning.tunes(cnn)
    trials, together = (tuning.trials, tuning.parallel) if searched else (1, 1)
    size = replace(size, epochs=_most_epochs(config)) if searched else size
    work, count = throughput.of(f"train-{name}"), compute.training_instance_count
    core_seconds, units = work.core_seconds * size.pixels / throughput.training.pixels, passes(config, size, fold=fold)
    if config.training.learns is Learns.HEAD:
        head = _head(config, throughput, cnn, size)
        core_seconds = head.core_seconds + core_seconds / BACKWARD_AND_FORWARD * images_read(config, size) / units
        work = work.replace(measured=work.measured and head.measured, row=f"{work.row}; {head.row}")
    cores, known = throughput.cores(compute.training_instance_type, trains=True)
    one = _hours(units * core_seconds, cores, count, throughput)
    return Line(
        (f"Tune-{name}" if searched else f"Train-{name}") + ("" if fold is None else f"-fold-{fold}"),
        units * trials,
        "image and epoch",
        round(core_seconds, 5),
        compute.training_instance_type,
        count * together,
        cores,
        one * math.ceil(trials / together),
        one * trials * count * prices.hour("training", compute.training_instance_type),
        work.measured and known,
        work.row,
        billed_hours=one * trials * count,
    )


def _head(config: PipelineConfig, throughput: Throughput, cnn: str, size: Size) -> Work:
    """Return the work of an image in an epoch of the classifier alone, which grows with the places of the image."""
    work = throughput.of("train-head")
    places = size.pixels / config.training_of(cnn).stride ** 2
    return work.replace(core_seconds=work.core_seconds * places / 1000)


def _most_epochs(config: PipelineConfig) -> int:
    """Return the most epochs of a trial: the end of the range, if the search has one for epochs."""
    for space in config.tuning.spaces:
        if space.key == "epochs":
            return int(max(float(value) for value in space.bounds))
    return config.training.epochs


def _hours(core_seconds: float, cores: float, instances: int, throughput: Throughput) -> float:
    return (core_seconds / cores / instances + throughput.job.overhead_seconds) / 3600


def within(lines: list[Line], *, training_jobs: int = 0) -> float:
    """Return the hours from start to end: steps run in sequence, but training jobs and searches run side by side.

    Args:
        lines: The steps.
        training_jobs: Training jobs that run at the same time; 0 means all.
    """
    ends: list[float] = []
    for line in lines:
        if line.step.startswith(LEARNING):
            waits = ends[-training_jobs] if training_jobs and len(ends) >= training_jobs else 0.0
            ends.append(waits + line.hours)
    return sum(line.hours for line in lines if not line.step.startswith(LEARNING)) + max(ends, default=0.0)


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
