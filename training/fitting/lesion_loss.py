"""Where lesions are: what the annotated circles say of the places of a film, and a loss on what the network says."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Lesion
from mammopipe.processing.errors import ConfigError
from mammopipe.training.fitting.dataset import TrainingFilms
from mammopipe.training.fitting.head_only import Films, Learner
from mammopipe.training.fitting.sampling import Draw
from mammopipe.training.networks.network import FilmNetwork

UNKNOWN = -1
"""Target of a place of which the annotations do not say what it shows; it does not count."""

LocatedItem = tuple[Tensor, int, str, Tensor]
"""An `Item` and the targets of its places, (h, w) int64."""

_NEAR = 0.75
"""Places whose centre is less than this share of a place outside of a circle show some of it: they are unknown."""


def targets(lesions: Iterable[Lesion], label: Label, *, shape: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return the class of each place, (h, w) int64 of `grid`, of a film of `shape` (H, W); `UNKNOWN` where not known.

    A place within a circle has the circle's class, at least that nearest to its centre when this lies in the film. A
    film with a finding but no circle says nothing of any place.
    """
    lesions = list(lesions)
    if label is not Label.NORMAL and not lesions:
        return torch.full(grid, UNKNOWN)
    found = np.zeros(grid, np.int64)
    rows, columns = ((np.arange(count) + 0.5) * side / count - 0.5 for count, side in zip(grid, shape, strict=True))
    place = max(side / count for count, side in zip(grid, shape, strict=True))
    # The worst last: where circles overlap, it decides.
    for lesion in sorted(lesions, key=lambda lesion: lesion.label.rank):
        distances = np.hypot(rows[:, None] - lesion.y, columns[None, :] - lesion.x)
        found[(distances <= lesion.radius + _NEAR * place) & (found == 0)] = UNKNOWN
        inside = 0 <= lesion.y < shape[0] and 0 <= lesion.x < shape[1]
        found[(distances <= lesion.radius) | (inside & (distances == distances.min()))] = lesion.label.rank
    return torch.from_numpy(found)


def require_circles(films: Films, option: str) -> None:
    """Raise `ConfigError`, naming the hyperparameter, where no film has an annotated circle: it would teach nothing."""
    if not any(record.lesions for record in films.records):
        raise ConfigError(
            f"hyperparameter {option} needs films with annotated circles; none of the {len(films)} has any"
        )


def location_loss(places: Tensor, wanted: Tensor) -> Tensor:
    """Return the cross-entropy of place logits, (N, classes, h, w), to targets, (N, h, w), as a mean over the images.

    In each image normal places and those of lesions weigh alike, however many there are.
    """
    losses = functional.cross_entropy(places.float(), wanted, reduction="none", ignore_index=UNKNOWN)
    total = losses.new_zeros(len(losses))
    for kind in (wanted == 0, wanted > 0):
        total = total + (losses * kind).sum(dim=(1, 2)) / kind.sum(dim=(1, 2)).clamp(min=1)
    return total.mean()


class LocatedFilms(Dataset[LocatedItem]):
    """Training films with the targets of their places; `films[draw]` is a `LocatedItem`."""

    def __init__(
        self, films: Dataset[Any], records: Sequence[ImageRecord], *, shape: tuple[int, int], grid: tuple[int, int]
    ) -> None:
        """Take the films or their maps, of (H, W) pixels, and how many places (h, w) the network sees in one."""
        self.films, self.records, self.shape, self.grid = films, records, shape, grid

    def __getitem__(self, draw: Draw) -> LocatedItem:
        """Return the image of the draw as `films` has it; lesions move where it is varied."""
        record = self.records[draw.index]
        if isinstance(self.films, TrainingFilms):
            (image, label, image_id), lesions = self.films.with_lesions(draw)
        else:
            (image, label, image_id), lesions = self.films[draw], record.lesions
        return image, label, image_id, targets(lesions, record.label, shape=self.shape, grid=self.grid)


class WithPlaces(nn.Module):
    """A network that returns, beside its logits, (N, classes), those of the places, (N, classes, h, w)."""

    def __init__(self, network: Learner) -> None:
        """Take the network, whose parameters these are."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return both for images (N, 1, H, W), or for maps where the classifier learns alone."""
        return self.network.classify_with_places(self.network.maps(images))


def grid_of(network: FilmNetwork, shape: tuple[int, int]) -> tuple[int, int]:
    """Return how many places (h, w) the network sees in an image of `shape` (H, W)."""
    trains = network.training
    network.eval()
    with torch.inference_mode():
        height, width = network.places(torch.zeros(1, 1, *shape, device=network.normalise.mean.device)).shape[2:]
    network.train(trains)
    return height, width
