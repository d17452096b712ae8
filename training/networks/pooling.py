"""Pooling of the logits of places, and of feature maps."""

import math

import torch
from torch import Tensor, nn

from mammopipe.training.model.architecture import Pooling
from mammopipe.training.model.class_activation import GEM_LEAST, GEM_POWER


def place_logits(head: nn.Module, maps: Tensor) -> Tensor:
    """Return the classifier's logits of each place, (N, classes, h, w), from feature maps, (N, channels, h, w)."""
    logits: Tensor = head(maps.permute(0, 2, 3, 1))
    return logits.permute(0, 3, 1, 2)


def mean(places: Tensor) -> Tensor:
    """Return image logits, (N, classes): the mean of the logits of places, (N, classes, h, w)."""
    return places.mean(dim=(2, 3))


def peaks(places: Tensor) -> Tensor:
    """Return image logits, (N, classes), from the logits of places, (N, classes, h, w), by `Pooling.PEAKS`.

    The first class is the one without a lesion. Source: Pinheiro and Collobert 2015 (https://arxiv.org/abs/1411.6228).
    """
    count = places.shape[2] * places.shape[3]
    strongest = torch.logsumexp(places[:, 1:].flatten(2), dim=2) - math.log(count)
    return torch.cat([places[:, :1].mean(dim=(2, 3)), strongest], dim=1)


def top(places: Tensor, count: int) -> Tensor:
    """Return image logits, (N, classes), from the logits of places, (N, classes, h, w), by `Pooling.TOP`.

    The first class is the one without a lesion. If an image has fewer than `count` places, all of them count.
    """
    flat = places.flatten(2)
    strongest = flat[:, 1:].topk(min(count, flat.shape[2]), dim=2).values.mean(dim=2)
    return torch.cat([flat[:, :1].mean(dim=2), strongest], dim=1)


def pool_maps(maps: Tensor, pooling: Pooling) -> Tensor:
    """Return features, (N, channels), from feature maps, (N, channels, h, w), by `Pooling.MAX` or `Pooling.GEM`."""
    if pooling is Pooling.MAX:
        return maps.amax(dim=(2, 3))
    # In float32, because the third power easily exceeds the range of a 16-bit number.
    powers = maps.float().clamp(min=GEM_LEAST).pow(GEM_POWER)
    return powers.mean(dim=(2, 3)).pow(1 / GEM_POWER).to(maps.dtype)
