"""What would make the estimated run fail, or wait: time limits, disks, memory, and the download before a job starts."""

import math
from collections.abc import Iterator

from mammopipe.pipelines.config.compute import Distribution, InputMode, gpus_of
from mammopipe.pipelines.config.instances import memory_gib
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.costs.estimate import BYTES_A_PIXEL, LEARNING, TRANSFORM, Line, Size, images_read
from mammopipe.pipelines.costs.prices import Throughput
from mammopipe.training.config import Cache

PROCESS_GB = 0.9
"""Memory of a training process or of one of its workers, in GB, without images."""
PREPARED_ASPECT = 0.8
"""Columns of a prepared image for each of its rows."""


def obstacles(config: PipelineConfig, lines: list[Line], size: Size, throughput: Throughput) -> list[str]:
    """Return what would make the estimated run fail: time limits, and images that exceed disks or memory."""
    return [
        *_times(config, lines),
        *_disks(config, size, throughput),
        *_memory(config, size),
        *_reading(config, lines, size, throughput),
    ]


def _times(config: PipelineConfig, lines: list[Line]) -> Iterator[str]:
    for line in lines:
        if line.step == TRANSFORM:  # a transform job has no limit on its time
            continue
        key = f"{'training' if line.step.startswith(LEARNING) else 'processing'}_max_runtime_seconds"
        limit = getattr(config.compute, key) / 3600
        # The limit is that of one training job of a search.
        search = line.step.startswith("Tune-")
        hours = line.hours / math.ceil(config.tuning.trials / config.tuning.parallel) if search else line.hours
        if hours > limit:
            yield (
                f"{'a trial of ' if search else ''}{line.step} takes {hours:,.0f} hours and is stopped after "
                f"{limit:g}: raise compute.{key}, or use more instances"
            )


def _disks(config: PipelineConfig, size: Size, throughput: Throughput) -> Iterator[str]:
    compute = config.compute
    epoch = size.trained * size.pixels * BYTES_A_PIXEL / 1e9
    if compute.input_mode is InputMode.FILE and epoch > compute.training_volume_gb:
        yield (
            f"the images of an epoch are {epoch:,.0f} GB without compression, and compute.training_volume_gb is "
            f"{compute.training_volume_gb}"
        )
    share = size.images / (compute.processing_instance_count if _is_sharded(config) else 1)
    dataset = throughput.size(str(config.dataset))
    source = share / dataset.images * dataset.gigabytes
    rows = min(config.data.max_height, dataset.rows)
    prepared = share * rows * rows * PREPARED_ASPECT * BYTES_A_PIXEL / 1e9
    if source + prepared > compute.processing_volume_gb:
        yield (
            f"Prepare holds {source:,.0f} GB of files and writes up to {prepared:,.0f} GB of images on each instance, "
            f"and compute.processing_volume_gb is {compute.processing_volume_gb}"
        )


def _memory(config: PipelineConfig, size: Size) -> Iterator[str]:
    kind = config.compute.training_instance_type
    memory = memory_gib(kind)
    if not memory:
        return
    processes = max(1, gpus_of(kind))
    programs = processes * (1 + config.training.workers) * PROCESS_GB
    images = size.trained * size.pixels * BYTES_A_PIXEL / 1e9 if config.training.cache is Cache.MEMORY else 0.0
    if images > memory:
        yield (
            f"training.cache=memory holds {images:,.0f} GB of images in memory, and {kind} has {memory}: use auto or "
            "disk"
        )
    elif images + programs > memory:
        yield (
            f"{processes} training processes with {config.training.workers} workers each take about {programs:,.0f} GB "
            f"of memory beside {images:,.0f} GB of images, and {kind} has {memory}: lower training.workers"
        )


def downloads(config: PipelineConfig, size: Size, throughput: Throughput) -> list[tuple[str, float]]:
    """Return the inputs that are downloaded before a job starts (input mode `File`), with the hours that it takes."""
    rate = throughput.job.download_gigabytes_a_second * 3600
    dataset = throughput.size(str(config.dataset))
    share = 1 / (config.compute.processing_instance_count if _is_sharded(config) else 1)
    source = size.images / dataset.images * dataset.gigabytes * share
    images = size.trained * size.pixels * BYTES_A_PIXEL / 1e9
    found = [(f"Prepare: {source:,.{0 if source >= 10 else 1}f} GB of files", source / rate)]
    if config.compute.input_mode is InputMode.FILE:
        found.append((f"training: up to {images:,.1f} GB of images", images / rate))
    return found


def reads(config: PipelineConfig, size: Size, throughput: Throughput) -> list[tuple[str, float]]:
    """Return what training reads from S3 while it runs (input mode `FastFile`), with the hours that S3 takes for it.

    Images that are not kept in memory are read again on each use. Reading and computing overlap, so a training job
    takes as long as the slower of the two.
    """
    if config.compute.input_mode is InputMode.FILE:
        return []
    once = config.training.cache is Cache.MEMORY
    images = (size.trained if once else images_read(config, size)) * size.pixels * BYTES_A_PIXEL / 1e9
    what = f"training: up to {images:,.0f} GB of images, {'once' if once else 'each on each use'}"
    return [(what, images / (throughput.job.download_gigabytes_a_second * 3600))]


def _reading(config: PipelineConfig, lines: list[Line], size: Size, throughput: Throughput) -> Iterator[str]:
    """Yield the training jobs that would wait for S3."""
    for _, hours in reads(config, size, throughput):
        for line in lines:
            if line.step.startswith("Train-") and hours > line.hours:
                yield (
                    f"{line.step} computes for {line.hours:,.1f} hours, and reading its images with FastFile takes "
                    f"{hours:,.1f}: with compute.input_mode=File, they are downloaded once"
                )


def _is_sharded(config: PipelineConfig) -> bool:
    return config.compute.distribution is Distribution.SHARDED
