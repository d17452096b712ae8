"""Builds the configured network, and tests it on black images before the job reads its data."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mammopipe.processing.classes import Classes
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import Learns, TrainConfig
from mammopipe.training.fitting.distributed import World
from mammopipe.training.model.architecture import Level, Precision
from mammopipe.training.networks.network import ImageNetwork
from mammopipe.training.networks.precision import autocast, choose_precision
from mammopipe.training.networks.pretrained import StagedWeights
from mammopipe.training.networks.registry import build_model

FEWEST = 2
"""Minimum number of images of a pass, because batch normalisation cannot compute a variance from a single value."""


def build_network(config: TrainConfig, classes: Classes, weights: StagedWeights | None) -> ImageNetwork:
    """Return the untrained network, with pretrained weights if there are any."""
    return build_model(
        config.cnn,
        classes=classes,
        weights=weights.path if weights else None,
        dropout=config.dropout,
        drop_path=config.drop_path,
        seed=config.seed,
        pooling=config.pooling,
        top_places=config.top_places,
        stride=config.stride,
        level=config.level,
        other_side=config.other_side,
    )


def try_out(network: ImageNetwork, config: TrainConfig, *, shape: tuple[int, int], world: World) -> None:
    """Compute one forward and backward pass, without a step, so that a job that cannot train fails within seconds.

    On a GPU, the pass has as many images as a process computes at once, to test whether the memory is enough. On a CPU
    it has two, because the system kills a process that needs too much memory, so no message could be written.

    Args:
        network: The network; its gradients and statistics change.
        config: The settings of the job.
        shape: (H, W) of the images, in pixels.
        world: The process.

    Raises:
        ConfigError: The network does not accept these images, or the GPU has too little memory.
    """
    device = world.device
    count = images_at_once(config, world) if device.type == "cuda" else FEWEST
    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    precision = config.precision
    if precision is not Precision.AUTO or device.type == "cuda":
        precision = choose_precision(precision, network, shape=shape, device=device)
    trains_all = config.learns is Learns.ALL
    try:
        with memory_stated(config, shape=shape, world=world), torch.random.fork_rng(devices=[]):
            images = torch.zeros(count, 1, *shape, device=device).to(memory_format=torch.channels_last)
            with autocast(precision, device), torch.set_grad_enabled(trains_all):
                logits = network(images)
            if trains_all:
                logits.float().square().mean().backward()
    except (RuntimeError, ValueError, AssertionError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"cnn={config.cnn} cannot be trained on {count} images of {shape[0]} x {shape[1]} pixels: {first}"
        ) from None


def images_at_once(config: TrainConfig, world: World) -> int:
    """Return the number of images that a process computes at once, in a training step."""
    views = config.most_views * (2 if config.other_side else 1) if config.level is Level.BREAST else 1
    cases = config.batch_size if config.learns is Learns.HEAD else config.batch_size // config.accumulate // world.size
    return max(cases * views, FEWEST)


@contextmanager
def memory_stated(config: TrainConfig, *, shape: tuple[int, int], world: World) -> Iterator[None]:
    """Turn an error of the GPU's memory into a `ConfigError` that names network, size and number of images."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"{world.device} has too little memory for cnn={config.cnn} and {images_at_once(config, world)} images of "
            f"{shape[0]} x {shape[1]} pixels at once (batch_size={config.batch_size}, "
            f"accumulate={config.accumulate}, {world.size} processes, precision={config.precision}); raise accumulate, "
            f"or lower batch_size or the images' size: {str(error).splitlines()[0]}"
        ) from None
