"""Datasets of breasts, each with all its views, built from a dataset of images."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mammopipe.processing.classes import class_indices
from mammopipe.processing.datasets.manifest import Label
from mammopipe.processing.variation import may_be_mirrored
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.dataset import ImageDataset, TrainingImages
from mammopipe.training.fitting.sampling import Draw, generator
from mammopipe.training.model.views.attention import ViewMask
from mammopipe.training.model.views.breasts import breasts_of
from mammopipe.training.networks.pooling import Views

BreastItem = tuple[Views, int, str]
"""The views of one breast, its class index, and the image id of the manifest row that represents it."""
_PLACES = 64
"""Random positions reserved for each breast; more than an exam has views, so no two views share random numbers."""
_STREAM = 2
"""Number of the random stream that draws views. Mixup has the same number; it cannot be combined with breasts."""


class Breasts(Dataset[BreastItem]):
    """The breasts that images show, each with its unchanged originals; `breasts[i]` is a `BreastItem`."""

    def __init__(self, images: ImageDataset, *, other_side: bool, flips: bool) -> None:
        """Group images by breast.

        Args:
            images: The images; an augmented copy belongs to the view of its original.
            other_side: Whether the views of the patient's other breast are included.
            flips: Whether craniocaudal views are judged together with their mirror images (`test_flips`).
        """
        self.images, self.flips = images, flips
        self.breasts = breasts_of(images.records, images.classes, other_side=other_side)
        self.records = tuple(breast.record for breast in self.breasts)
        self.classes, self.shape, self.sha256 = images.classes, images.shape, images.sha256
        self.labels: NDArray[np.int64] = class_indices(self.records, images.classes)

    def __len__(self) -> int:
        """Return the number of breasts."""
        return len(self.breasts)

    def __getitem__(self, index: int) -> BreastItem:
        """Return the breast at `index`."""
        views = [(view[0], side) for view, side in self.breasts[index].views]
        images = [self.images[place][0] for place, _ in views]
        mirrored = [self.flips and may_be_mirrored(self.images.records[place].view) for place, _ in views]
        return self.item(index, images, [side for _, side in views], mirrored)

    def item(
        self, index: int, images: Sequence[Tensor], sides: Sequence[ViewMask], mirrored: Sequence[bool]
    ) -> BreastItem:
        """Return a breast with the given images of its views, each (1, H, W)."""
        views = Views(torch.stack(list(images))[None], torch.tensor([sides]), torch.tensor([mirrored]))
        return views, int(self.labels[index]), self.records[index].image_id

    def counts(self) -> dict[Label, int]:
        """Return the number of breasts of each class."""
        return {label: int((self.labels == index).sum()) for index, label in enumerate(self.classes)}


class TrainingBreasts(Dataset[BreastItem]):
    """Breasts whose views are varied at random each time they are used; `breasts[draw]` is a `BreastItem`."""

    def __init__(self, breasts: Breasts, config: TrainConfig) -> None:
        """Create the dataset; the config gives the seed, the variations, and `most_views`."""
        self.breasts, self.config = breasts, config
        self.images = TrainingImages(breasts.images, config)

    def __getitem__(self, draw: Draw) -> BreastItem:
        """Return the breast of the draw.

        For each view, the original or one of its stored copies is drawn at random. If a breast has more than
        `most_views` views, that many views are drawn. The choice depends only on seed, epoch and position.
        """
        random = generator(self.config.seed, draw.epoch, draw.position, _STREAM)
        breast = self.breasts.breasts[draw.index]
        images: list[Tensor] = []
        sides: list[ViewMask] = []
        for side, views in ((ViewMask.OWN, breast.own), (ViewMask.OTHER, breast.other)):
            for view in sorted(random.permutation(len(views))[: self.config.most_views].tolist()):
                place = views[view][int(random.integers(len(views[view])))]
                position = draw.position * _PLACES + len(images)
                images.append(self.images[Draw(place, draw.epoch, position)][0])
                sides.append(side)
        return self.breasts.item(draw.index, images, sides, [False] * len(images))


def collate(items: Sequence[BreastItem]) -> tuple[Views, Tensor, list[str]]:
    """Return a batch of breasts, padded to the same number of views."""
    views, labels, names = zip(*items, strict=True)
    return Views.stack(views), torch.tensor(labels), list(names)
