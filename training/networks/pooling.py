"""From many places to one answer: pooling of the logits of places, and of feature maps."""

import math

import torch
from torch import Tensor, nn

from mammopipe.training.model.architecture import Pooling

GEM_POWER = 3.0
"""The power of the generalised mean (Radenovic et al. 2019, https://arxiv.org/abs/1711.02512)."""
_LEAST = 1e-6


def place_logits(head: nn.Module, maps: Tensor) -> Tensor:
    """Return what a classifier says of every place of maps, (N, channels, h, w), as (N, classes, h, w)."""
    logits: Tensor = head(maps.permute(0, 2, 3, 1))
    return logits.permute(0, 3, 1, 2)


def mean(places: Tensor) -> Tensor:
    """Return the mean of the logits of places, (N, classes, h, w), as (N, classes)."""
    return places.mean(dim=(2, 3))


def peaks(places: Tensor) -> Tensor:
    """Return image logits, (N, classes), of the logits of places, (N, classes, h, w), as `Pooling.PEAKS` says.

    Source: Pinheiro and Collobert 2015 (https://arxiv.org/abs/1411.6228). The first class is that without a lesion.
    """
    count = places.shape[2] * places.shape[3]
    strongest = torch.logsumexp(places[:, 1:].flatten(2), dim=2) - math.log(count)
    return torch.cat([places[:, :1].mean(dim=(2, 3)), strongest], dim=1)


def top(places: Tensor, count: int) -> Tensor:
    """Return image logits, (N, classes), of the logits of places, (N, classes, h, w), as `Pooling.TOP` says.

    Of an image of fewer than `count` places all count. The first class is that without a lesion.
    """
    flat = places.flatten(2)
    strongest = flat[:, 1:].topk(min(count, flat.shape[2]), dim=2).values.mean(dim=2)
    return torch.cat([flat[:, :1].mean(dim=2), strongest], dim=1)


def pool_maps(maps: Tensor, pooling: Pooling) -> Tensor:
    """Return the features, (N, channels), of maps, (N, channels, h, w), by a pooling of maps."""
    if pooling is Pooling.MAX:
        return maps.amax(dim=(2, 3))
    # In float32: the third power of a 16-bit number soon leaves its range.
    powers = maps.float().clamp(min=_LEAST).pow(GEM_POWER)
    return powers.mean(dim=(2, 3)).pow(1 / GEM_POWER).to(maps.dtype)
