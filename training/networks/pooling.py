"""Pooling of the logits of places, of feature maps, and of the views of breasts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from mammopipe.training.model.architecture import Pooling
from mammopipe.training.model.class_activation import GEM_LEAST, GEM_POWER
from mammopipe.training.model.views.attention import HIDDEN, ViewMask


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

    The first class is the one without a lesion. If an image has fewer than `count` places, all of them are used.
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


@dataclass(frozen=True)
class Views:
    """The views of a batch of breasts, padded to the same number of places; padding is marked `ViewMask.ABSENT`."""

    images: Tensor
    """(breasts, places, 1, H, W) float32 in [0, 1]; the pixels of absent places are not used."""
    sides: Tensor
    """(breasts, places) int64, the mask: values of `ViewMask`."""
    mirrored: Tensor
    """(breasts, places) bool: views that are judged together with their mirror image (`test_flips`)."""

    def __len__(self) -> int:
        """Return the number of breasts."""
        return len(self.sides)

    @classmethod
    def stack(cls, breasts: Sequence["Views"]) -> Self:
        """Return several batches as one, padded with absent places to the same number of places."""
        places = max(part.sides.shape[1] for part in breasts)

        def padded(tensor: Tensor) -> Tensor:
            """Return a tensor with `places` places, the new ones 0."""
            missing = tensor.new_zeros((tensor.shape[0], places - tensor.shape[1], *tensor.shape[2:]))
            return torch.cat([tensor, missing], dim=1)

        names = ("images", "sides", "mirrored")
        return cls(*(torch.cat([padded(getattr(part, name)) for part in breasts]) for name in names))

    def chunk(self, chunks: int) -> list["Views"]:
        """Return the batch in parts of the sizes that `torch.chunk` gives."""
        parts = zip(*(tensor.chunk(chunks) for tensor in (self.images, self.sides, self.mirrored)), strict=True)
        return [Views(*part) for part in parts]

    def to(self, device: torch.device, *, non_blocking: bool = False, **_: Any) -> "Views":
        """Return the batch on a device; a memory format is accepted, as by a tensor of images, but has no effect."""
        moved = (tensor.to(device, non_blocking=non_blocking) for tensor in (self.images, self.sides, self.mirrored))
        return Views(*moved)

    def pin_memory(self) -> "Views":
        """Return the batch in pinned memory, from which a GPU copies faster."""
        return Views(self.images.pin_memory(), self.sides.pin_memory(), self.mirrored.pin_memory())


class ViewPooling(nn.Module):
    """Attention over the views of a breast. Before training, it is the plain mean of the breast's own views."""

    def __init__(self, channels: int, classes: int, *, other_side: bool) -> None:
        """Create the layer.

        Args:
            channels: Number of features of a view.
            classes: Number of classes.
            other_side: Whether the views of the other breast are used.
        """
        super().__init__()
        self.content, self.gate = nn.Linear(channels, HIDDEN), nn.Linear(channels, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1, bias=False)
        self.other = nn.Linear(classes, classes, bias=False) if other_side else None
        # Zeros: equal weights of all views at first, and nothing from the other breast.
        nn.init.zeros_(self.score.weight)
        if self.other is not None:
            nn.init.zeros_(self.other.weight)

    def forward(self, logits: Tensor, features: Tensor, sides: Tensor) -> Tensor:
        """Return the logits of breasts, (breasts, classes).

        Args:
            logits: Logits of each view, (breasts, places, classes).
            features: Features of each view, (breasts, places, channels).
            sides: The mask, (breasts, places).
        """
        energies = self.score(torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features)))[..., 0]
        found = _weighted_mean(logits, energies, sides == ViewMask.OWN)
        if self.other is not None:
            found = found + self.other(_weighted_mean(logits, energies, sides == ViewMask.OTHER))
        return found


def _weighted_mean(logits: Tensor, energies: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen views' logits, weighted by the softmax of their energies; 0 if none is chosen."""
    weights = torch.softmax(energies.masked_fill(~chosen, -torch.inf), dim=1)
    # Without a chosen view all energies are -inf, and their softmax is NaN.
    weights = torch.where(chosen, weights, torch.zeros_like(weights))
    return (weights[..., None] * logits).sum(dim=1)
