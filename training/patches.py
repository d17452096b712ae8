"""Where lesions are: targets for the places of a film by its annotated circles, and patches cut round them.

Networks that first learn to tell patches and then, applied to whole films, to tell films: Shen et al. 2019
(https://doi.org/10.1038/s41598-019-48995-4).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from processing.preprocess import to_unit
from processing.records import ImageRecord, Label, Lesion
from training.config import TrainConfig
from training.dataset import FilmDataset, disturb
from training.sampling import Draw, generator

UNKNOWN = -1
"""Target of a place of which the annotations do not say what it shows; it does not count."""

TURN = 45.0
"""Largest rotation of a patch to either side, in degrees."""
SCALE = 1.25
"""Largest magnification of a patch, and reduction."""
SHIFT = 0.25
"""Largest distance of a circle's centre from the patch's, as a share of its side, along each axis."""
GAIN = 0.2
"""Largest change of a patch's contrast."""

_NEAR = 0.75
"""Places whose centre is less than this share of a place outside of a circle show some of it: they are unknown."""


def targets(lesions: Iterable[Lesion], label: Label, *, shape: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return the class of each place, (h, w) int64 of `grid`, of a film of `shape` (H, W); `UNKNOWN` where not known.

    A place within a circle has the circle's class, at least that nearest to its centre. A film with a finding but no
    circle says nothing of any place.
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
        found[(distances <= lesion.radius) | (distances == distances.min())] = lesion.label.rank
    return torch.from_numpy(found)


def location_loss(places: Tensor, wanted: Tensor) -> Tensor:
    """Return the cross-entropy of place logits, (N, classes, h, w), to targets, (N, h, w), as a mean over the images.

    In each image normal places and those of lesions weigh alike, however many there are.
    """
    losses = functional.cross_entropy(places.float(), wanted, reduction="none", ignore_index=UNKNOWN)
    total = losses.new_zeros(len(losses))
    for kind in (wanted == 0, wanted > 0):
        total = total + (losses * kind).sum(dim=(1, 2)) / kind.sum(dim=(1, 2)).clamp(min=1)
    return total.mean()


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """Patches of training films, turned, mirrored, scaled: even positions round a circle, odd ones on any tissue."""

    def __init__(self, films: FilmDataset, config: TrainConfig, grid: tuple[int, int]) -> None:
        """Take the films, the settings, and how many places (h, w) the network sees in a patch."""
        self.films, self.config, self.grid = films, config, grid
        self.circles = [(index, lesion) for index, record in enumerate(films.records) for lesion in record.lesions]
        self.known = [index for index, record in enumerate(films.records)
                      if record.label is Label.NORMAL or record.lesions]

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the patch, (1, side, side) in [0, 1], and the targets of its places, of seed, epoch and position."""
        random = generator(self.config.seed, draw.epoch, draw.position, 1)
        if draw.position % 2 == 0:
            film, lesion = self.circles[draw.index % len(self.circles)]
            reach = SHIFT * self.config.patch_side
            centre = (lesion.x + random.uniform(-reach, reach), lesion.y + random.uniform(-reach, reach))
        else:
            film = self.known[draw.index % len(self.known)]
            centre = _tissue(self.films.pixels[film], random)
        return self._cut(film, centre, random)

    def _cut(self, film: int, centre: tuple[float, float], random: np.random.Generator) -> tuple[Tensor, Tensor]:
        side = self.config.patch_side
        matrix = _movement(centre, side, random)
        patch = cv2.warpAffine(to_unit(self.films.pixels[film]), matrix, (side, side), flags=cv2.INTER_LINEAR)
        _expose(patch, random)
        disturb(patch, random, noise=self.config.noise, holes=0)
        lesions = [lesion for lesion in (_move(lesion, matrix) for lesion in self.films.records[film].lesions)
                   if -lesion.radius < lesion.x < side + lesion.radius and -lesion.radius < lesion.y < side + lesion.radius]
        wanted = targets(lesions, Label.NORMAL, shape=(side, side), grid=self.grid)
        return torch.from_numpy(patch[None]), wanted


def _tissue(pixels: NDArray[np.uint16], random: np.random.Generator) -> tuple[float, float]:
    """Return (x, y) of a pixel of the breast."""
    places = np.flatnonzero(pixels)
    y, x = divmod(int(places[random.integers(len(places))]), pixels.shape[1])
    return float(x), float(y)


def _movement(centre: tuple[float, float], side: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return the affine map, (2, 3), that brings `centre` to the patch's middle, turned, scaled and mirrored."""
    angle = math.radians(random.uniform(-TURN, TURN))
    scale = SCALE ** random.uniform(-1, 1)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    turned = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag(random.choice([-1.0, 1.0], size=2))
    middle = np.full(2, (side - 1) / 2)
    return np.column_stack([turned, middle - turned @ np.array(centre)])


def _move(lesion: Lesion, matrix: NDArray[np.float64]) -> Lesion:
    x, y = matrix @ (lesion.x, lesion.y, 1.0)
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    return replace(lesion, x=float(x), y=float(y), radius=lesion.radius * scale)


def _expose(patch: NDArray[np.float32], random: np.random.Generator) -> None:
    """Change the contrast of the tissue in place; what is black stays black."""
    tissue = patch > 0
    if tissue.any():
        mean = patch[tissue].mean()
        changed = mean * random.uniform(1 - GAIN, 1 + GAIN) + (patch - mean) * random.uniform(1 - GAIN, 1 + GAIN)
        np.copyto(patch, np.clip(changed, 0, 1), where=tissue)


def circles(records: Sequence[ImageRecord]) -> int:
    """Return how many annotated circles the films have together."""
    return sum(len(record.lesions) for record in records)
