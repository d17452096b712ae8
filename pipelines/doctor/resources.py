"""Compares the memory and disk that a run needs with those of this machine, or of the instances on AWS.

The memory needs are lower bounds: a run that is refused here could not succeed. The disk need is an estimate from the
images of each stage.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mammopipe.pipelines.config.compute import Distribution, gpus_of
from mammopipe.pipelines.config.instances import gpu_memory_gib, memory_gib, vcpus_of
from mammopipe.pipelines.config.pipeline import Keep, PipelineConfig
from mammopipe.pipelines.data.s3 import S3Object
from mammopipe.processing.container.job import cores
from mammopipe.processing.container.memory import host_memory
from mammopipe.processing.datasets.own import IMAGE_SUFFIXES
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import Cache

SPARE_BYTES = 2**30
"""Free disk that a run needs in addition to its images, for models, checkpoints and reports."""
PROCESS_BYTES = 300 * 2**20
"""Memory of a training process without images and network."""
WORKER_BYTES = 100 * 2**20
"""Memory of a worker of Prepare, Augment or Segment without its image."""
ACTIVATION_BYTES = 32
"""Minimum memory of a training step for each pixel of its batch: three channels of float32, and the first feature maps,
which the backward pass needs."""
PREPARED_ASPECT = 0.8
"""Width of a prepared image divided by its height."""
BYTES_A_PIXEL = 2
COMPRESSION = 0.5
"""Size of a mammogram as 16-bit PNG, as a share of its pixels' bytes."""
PHANTOM_BYTES = 2**20
"""Size of a phantom's file."""


@dataclass(frozen=True)
class Amount:
    """The images of a run."""

    images: int
    bytes: int
    """Size of their files."""


def amount_of(files: Iterable[Path], images: int) -> Amount:
    """Return the amount of images with these files; a file that does not exist counts as 0 bytes."""
    return Amount(images, sum(path.stat().st_size for path in files if path.is_file()))


def amount_on_s3(objects: Sequence[S3Object]) -> Amount:
    """Return the amount of images among the objects below an S3 prefix."""
    images = sum(PurePosixPath(item.key).suffix.lower() in IMAGE_SUFFIXES for item in objects)
    return Amount(images, sum(item.size for item in objects))


def check_here(config: PipelineConfig, amount: Amount, runs: Path, where: str, *, folder: Path | None = None) -> None:
    """Raise `ConfigError` if this machine's memory or free disk is too small for a run.

    Args:
        config: The configuration.
        amount: The images.
        runs: The folder of all runs, which need not exist.
        where: The source of the images, for the message.
        folder: The folder of the images, if the run reads them from there; if it is on the disk of the runs, they are
            linked, not copied.
    """
    memory = host_memory()
    _require_memory(memory, "this machine", _processing(config, amount, cores()))
    jobs = min(cores(), len(config.cnns) * max(1, len(config.fold_jobs)))
    _require_memory(memory, "this machine", _training(config, amount, processes=1, jobs=jobs))
    stages = _stages(config, amount)
    disk = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    if folder is not None and folder.is_dir() and folder.stat().st_dev == disk.stat().st_dev:
        stages["files"] = 0
    if config.compute.cache:
        stages["step cache"] = sum(size for name, size in stages.items() if name != "files")
    if Keep.IMAGES in config.keep:
        stages["kept images"] = stages["prepared"] + stages["segmented"]
    needed, free = sum(stages.values()) + SPARE_BYTES, shutil.disk_usage(disk).free
    if free < needed:
        shown = ", ".join(f"{name} {_gb(size)}" for name, size in stages.items())
        raise ConfigError(
            f"{runs}: {_gb(free)} are free; a run on {where} needs about {_gb(needed)} ({amount.images} images: "
            f"{shown})"
        )


def check_instances(config: PipelineConfig, amount: Amount, where: str) -> None:
    """Raise `ConfigError` if the memory or the volumes of the configured instances are too small for a run on AWS.

    Instance types of unknown memory are not checked.
    """
    compute = config.compute
    kind = compute.processing_instance_type
    _require_memory(_bytes(memory_gib(kind)), kind, _processing(config, amount, vcpus_of(kind)))
    kind = compute.training_instance_type
    # A GPU's memory holds the batch; the instance's memory holds everything else.
    gpus = gpus_of(kind)
    processes = max(1, gpus) * compute.training_instance_count
    needs = dict(_training(config, amount, processes=processes, jobs=1))
    if gpus:
        step = {name: size for name, size in needs.items() if name.startswith("training.batch_size")}
        _require_memory(_bytes(gpu_memory_gib(kind)), f"a GPU of {kind}", step.items())
        needs = {name: size for name, size in needs.items() if name not in step}
    _require_memory(_bytes(memory_gib(kind)), kind, needs.items())
    hosts = compute.processing_instance_count if compute.distribution is Distribution.SHARDED else 1
    stages = _stages(config, amount)
    for step_name, read, written in (
        ("Prepare", "files", "prepared"), ("Augment", "prepared", "copies"), ("Segment", "copies", "segmented")
    ):  # fmt: skip
        held = (stages[read] + stages[written]) / hosts
        _require_volume(step_name, held, compute.processing_volume_gb, "compute.processing_volume_gb", where)
    _require_volume("Training", stages["segmented"], compute.training_volume_gb, "compute.training_volume_gb", where)


def _stages(config: PipelineConfig, amount: Amount) -> dict[str, int]:
    """Return the bytes of the source's files and of what each stage writes."""
    rows = config.data.max_height
    # Prepare never enlarges an image, but its PNG may be larger than the source's file.
    whole = rows * rows * PREPARED_ASPECT * BYTES_A_PIXEL * COMPRESSION
    prepared = min(whole, 2 * amount.bytes / max(1, amount.images))
    copies = _learnt(config, amount) * _copies(config)
    pixels = config.segmentation.height * config.segmentation.width
    segmented = (amount.images + copies) * pixels * BYTES_A_PIXEL * COMPRESSION
    sizes = {"files": amount.bytes, "prepared": amount.images * prepared, "copies": copies * prepared}
    return {name: int(size) for name, size in (sizes | {"segmented": segmented}).items()}


def _learnt(config: PipelineConfig, amount: Amount) -> int:
    """Return the number of originals in the training split."""
    return int(amount.images * (1 - config.data.test_fraction) * (1 - 1 / config.data.folds))


def _copies(config: PipelineConfig) -> int:
    """Return the copies of an image of the most frequent class; rarer classes have more."""
    return config.augmentation.copies - config.augmentation.rarer_only


def _processing(config: PipelineConfig, amount: Amount, workers: int) -> Iterator[tuple[str, int]]:
    image = config.segmentation.height * config.segmentation.width * BYTES_A_PIXEL
    used = min(workers, amount.images)
    yield f"{used} workers of Prepare, Augment and Segment, one for each core", used * (WORKER_BYTES + image)


def _training(config: PipelineConfig, amount: Amount, *, processes: int, jobs: int) -> Iterator[tuple[str, int]]:
    """Yield the parts of the memory of training: of each host on AWS, or of all jobs side by side on this machine."""
    training, pixels = config.training, config.segmentation.height * config.segmentation.width
    batch = max(config.training_of(cnn).batch_size for cnn in config.cnns)
    at_once = max(1, batch // (training.accumulate * processes))
    yield (
        f"training.batch_size={batch} at segmentation.height={config.segmentation.height}, "
        f"width={config.segmentation.width}",
        at_once * pixels * ACTIVATION_BYTES * jobs,
    )
    yield (
        f"{jobs} training jobs with training.workers={training.workers}",
        jobs * (PROCESS_BYTES * (1 + training.workers)),
    )
    if training.cache is Cache.MEMORY:
        images = _learnt(config, amount) * (1 + _copies(config))
        yield "training.cache=memory (auto or disk hold less)", jobs * images * pixels * BYTES_A_PIXEL


def _require_memory(memory: int, whose: str, needs: Iterable[tuple[str, int]]) -> None:
    found = list(needs)
    needed = sum(size for _, size in found)
    if memory and needed > memory:
        name, size = max(found, key=lambda item: item[1])
        raise ConfigError(
            f"{name}: needs at least {_gb(size)} of memory, all together {_gb(needed)}, and {whose} has {_gb(memory)}"
        )


def _require_volume(step: str, held: float, volume_gb: int, key: str, where: str) -> None:
    if held > volume_gb * 1e9:
        raise ConfigError(f"{key} = {volume_gb}: {step} of {where} needs about {_gb(held)} on each instance")


def _bytes(gib: float) -> int:
    return int(gib * 2**30)


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
