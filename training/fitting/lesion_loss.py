"""Lesion supervision: derives targets for the places of an image from annotated circles, and computes their loss.

A place is a position of the network's last feature maps; it covers a square of pixels of the image.
"""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from mammopipe.processing.classes import THREE, class_index
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Lesion
from mammopipe.processing.errors import ConfigError
from mammopipe.training.fitting.dataset import TrainingImages
from mammopipe.training.fitting.head_only import ImagesOrBreasts, Learner
from mammopipe.training.fitting.sampling import Draw
from mammopipe.training.networks.network import ImageNetwork

UNKNOWN = -1
"""Target of a place whose content the annotations do not determine; the loss ignores it."""

LocatedItem = tuple[Tensor, int, str, Tensor]
"""An `Item` and the targets of its places, (h, w) int64."""

_NEAR = 0.75
"""Width of the margin around a circle, in units of one place. A place whose centre is in the margin shows a part of the
lesion, so its target is unknown."""


def targets(
    lesions: Iterable[Lesion],
    label: Label,
    *,
    shape: tuple[int, int],
    grid: tuple[int, int],
    classes: Sequence[str] = THREE,
) -> Tensor:
    """Return the target class of each place of an image.

    A place with its centre in a circle has the circle's class. So has the place nearest to the circle's centre if that
    centre is in the image: a small circle may contain no place's centre. All other places are of the first class
    (normal or negative), but in an image of a later class without circles, all places are `UNKNOWN`. Circles of the
    first class, such as benign ones with the classes negative and malignant, are ignored.

    Args:
        lesions: Annotated circles, in pixels.
        label: Class of the image.
        shape: (H, W) of the image, in pixels.
        grid: (h, w), number of places.
        classes: The classes.

    Returns:
        (h, w) int64 class indices; `UNKNOWN` where the class is not known.
    """
    shown = [(lesion, class_index(lesion.label, classes)) for lesion in lesions]
    shown = [(lesion, index) for lesion, index in shown if index]
    if class_index(label, classes) and not shown:
        return torch.full(grid, UNKNOWN)
    found = np.zeros(grid, np.int64)
    # The centres of the places, in pixels; the centre of the first pixel is 0.
    rows, columns = ((np.arange(count) + 0.5) * side / count - 0.5 for count, side in zip(grid, shape, strict=True))
    place = max(side / count for count, side in zip(grid, shape, strict=True))
    # The most severe lesion comes last, so that its class wins where circles overlap.
    for lesion, index in sorted(shown, key=itemgetter(1)):
        distances = np.hypot(rows[:, None] - lesion.y, columns[None, :] - lesion.x)
        found[(distances <= lesion.radius + _NEAR * place) & (found == 0)] = UNKNOWN
        inside = 0 <= lesion.y < shape[0] and 0 <= lesion.x < shape[1]
        found[(distances <= lesion.radius) | (inside & (distances == distances.min()))] = index
    return torch.from_numpy(found)


def require_circles(images: ImagesOrBreasts, option: str) -> None:
    """Raise `ConfigError`, naming the hyperparameter, if no image has a circle of a class other than the first."""
    marked = (lesion for record in images.records for lesion in record.lesions)
    if not any(class_index(lesion.label, images.classes) for lesion in marked):
        raise ConfigError(
            f"hyperparameter {option} needs images with circles around {' or '.join(images.classes[1:])} lesions; "
            f"none of the {len(images)} has any"
        )


def location_losses(places: Tensor, wanted: Tensor) -> Tensor:
    """Return the cross-entropy of the places of each image, (N,).

    In each image, places of the first class and lesion places have the same total weight, because lesions are small.

    Args:
        places: Logits of the places, (N, classes, h, w).
        wanted: Targets of the places, (N, h, w).
    """
    losses = functional.cross_entropy(places.float(), wanted, reduction="none", ignore_index=UNKNOWN)
    total = losses.new_zeros(len(losses))
    for kind in (wanted == 0, wanted > 0):
        total = total + (losses * kind).sum(dim=(1, 2)) / kind.sum(dim=(1, 2)).clamp(min=1)
    return total


class LocatedImages(Dataset[LocatedItem]):
    """Training images with the targets of their places; `dataset[draw]` is a `LocatedItem`."""

    def __init__(
        self,
        images: Dataset[Any],
        records: Sequence[ImageRecord],
        *,
        shape: tuple[int, int],
        grid: tuple[int, int],
        classes: Sequence[str] = THREE,
    ) -> None:
        """Create the dataset.

        Args:
            images: The images, or their feature maps.
            records: Manifest rows of the images.
            shape: (H, W) of the images, in pixels.
            grid: (h, w), number of places of the network's feature maps.
            classes: The classes.
        """
        self.classes = classes
        self.images, self.records, self.shape, self.grid = images, records, shape, grid

    def __getitem__(self, draw: Draw) -> LocatedItem:
        """Return the item of the draw with its targets; the lesions move with the image's variation."""
        record = self.records[draw.index]
        if isinstance(self.images, TrainingImages):
            (image, label, image_id), lesions = self.images.with_lesions(draw)
        else:
            (image, label, image_id), lesions = self.images[draw], record.lesions
        return (
            image,
            label,
            image_id,
            targets(lesions, record.label, shape=self.shape, grid=self.grid, classes=self.classes),
        )


class WithPlaces(nn.Module):
    """Wraps a network to return its logits, (N, classes), and the logits of the places, (N, classes, h, w)."""

    def __init__(self, network: Learner) -> None:
        """Wrap the network; its parameters are shared."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return both for images (N, 1, H, W), or for feature maps where only the classifier learns."""
        return self.network.classify_with_places(self.network.maps(images))


def grid_of(network: ImageNetwork, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the number of places (h, w) of the network's feature maps for an image of `shape` (H, W)."""
    # In evaluation mode, so that the empty image does not enter the running statistics of batch normalisation.
    trains = network.training
    network.eval()
    with torch.inference_mode():
        height, width = network.places(torch.zeros(1, 1, *shape, device=network.normalise.mean.device)).shape[2:]
    network.train(trains)
    return height, width
