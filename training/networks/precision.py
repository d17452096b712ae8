"""Chooses the number format of the forward pass for a network on a machine by timing a few steps of each."""

import time
from contextlib import AbstractContextManager

import torch
from torch import nn

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Precision

IMAGES, ROUNDS = 8, 2
"""Images per timed step, and steps in each format. With fewer images, the weights would dominate the time."""
WORTH_IT = 1.1
"""Minimum speed-up for choosing 16 bits. A smaller one could be due to chance."""

_FASTER: dict[tuple[object, ...], Precision] = {}
"""The results of measurements in this process, by network and shape of the images."""

_TYPES = {Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass in this precision."""
    return torch.autocast(device.type, dtype=_TYPES.get(precision, torch.bfloat16), enabled=precision in _TYPES)


def choose_precision(
    wanted: Precision, network: nn.Module, *, shape: tuple[int, int], device: torch.device
) -> Precision:
    """Return `wanted`; for `auto`, return the faster format for images of this shape (H, W).

    The formats are timed once in a process for each network and shape, so that all folds of a job use the same format.
    The network stays unchanged.

    Raises:
        ConfigError: float16 is wanted without a GPU.
    """
    if wanted is Precision.FLOAT16 and device.type != "cuda":
        raise ConfigError(f"hyperparameter precision={wanted} needs a GPU; use bfloat16 or float32 on a CPU")
    if wanted is not Precision.AUTO:
        return wanted
    if device.type == "cuda":
        return Precision.BFLOAT16 if torch.cuda.is_bf16_supported() else Precision.FLOAT16
    parts = tuple((name, tuple(value.shape), value.requires_grad) for name, value in network.named_parameters())
    key = (type(network), parts, shape)
    if key not in _FASTER:
        _FASTER[key] = _faster_on_a_cpu(network, shape)
    return _FASTER[key]


def _faster_on_a_cpu(network: nn.Module, shape: tuple[int, int]) -> Precision:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    threads = torch.get_num_threads()
    # One thread, and processor time instead of wall time, so that other load on the machine does not change the choice.
    torch.set_num_threads(1)
    try:
        seconds = _measure(network.train(), torch.zeros(IMAGES, 1, *shape).to(memory_format=torch.channels_last))
    finally:
        torch.set_num_threads(threads)
        network.load_state_dict(state)
        network.zero_grad(set_to_none=True)
    faster = seconds[Precision.BFLOAT16] * WORTH_IT < seconds[Precision.FLOAT32]
    return Precision.BFLOAT16 if faster else Precision.FLOAT32


def _measure(network: nn.Module, images: torch.Tensor) -> dict[Precision, float]:
    """Return the shortest time of a step in each format, in seconds; the formats alternate, as load may change."""
    seconds = {precision: float("inf") for precision in (Precision.FLOAT32, Precision.BFLOAT16)}
    with torch.random.fork_rng(devices=[]):
        for _ in range(ROUNDS):
            for precision in seconds:
                seconds[precision] = min(seconds[precision], _step_seconds(network, images, precision))
    return seconds


def _step_seconds(network: nn.Module, images: torch.Tensor, precision: Precision) -> float:
    start = time.process_time()
    with autocast(precision, images.device):
        logits = network(images)
    logits.float().square().mean().backward()
    return time.process_time() - start
