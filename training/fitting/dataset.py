"""Segmented films as tensors: read once, kept as 16-bit pixels; noise and holes are added on the way out."""

import hashlib
from collections.abc import Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from mammopipe.processing.breast.preprocess import to_unit
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split, SplitProtocol
from mammopipe.processing.errors import ManifestError
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.sampling import Draw, generator

Item = tuple[Tensor, int, str]
"""Image (1, H, W) float32 in [0, 1], class index (`Label.rank`), image id."""


class FilmDataset(Dataset[Item]):
    """The films of some manifest rows, exactly as they lie on disk; `dataset[i]` is an `Item`."""

    def __init__(
        self, records: Sequence[ImageRecord], folder: Path, *, shape: tuple[int, int], description: str = "films"
    ) -> None:
        """Decode `<folder>/<image_id>.png` of every record, with a progress bar on a terminal.

        Raises `ManifestError` where a file is missing or has another shape (H, W), and
        `mammopipe.processing.errors.ImageError` where it cannot be decoded.
        """
        self.records = tuple(records)
        self.labels: NDArray[np.int64] = np.array([record.label.rank for record in self.records], np.int64)
        self.pixels: NDArray[np.uint16] = np.empty((len(self.records), *shape), np.uint16)
        self.rows: NDArray[np.int64] = np.arange(len(self.records))
        """Of each film its row in `pixels`, which parts of a dataset share (`part`)."""
        digest = hashlib.sha256()
        for index, record in enumerate(tqdm(self.records, desc=f"reading {description}", unit="film", disable=None)):
            path = folder / f"{record.image_id}.png"
            digest.update(_file_digest(path, record))
            self.pixels[index] = _decode(path, record, shape)
        self.sha256 = digest.hexdigest()
        """Of the files' own SHA-256 sums, in the order of the records."""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of every film, in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def __len__(self) -> int:
        """Return the number of films."""
        return len(self.records)

    def __getitem__(self, index: int) -> Item:
        """Return the film at `index`, the pixels divided by 65535 and nothing else."""
        image = torch.from_numpy(to_unit(self.pixels[self.rows[index]])[None])
        return image, int(self.labels[index]), self.records[index].image_id

    def part(self, places: Sequence[int]) -> "FilmDataset":
        """Return the films at these places as a dataset that shares the pixels."""
        part = copy(self)
        part.records = tuple(self.records[place] for place in places)
        part.labels, part.rows = self.labels[list(places)], self.rows[list(places)]
        return part

    def joined(self, other: "FilmDataset") -> "FilmDataset":
        """Return these films, then those of another dataset; all three share the pixels."""
        whole = copy(self)
        whole.records = self.records + other.records
        whole.labels = np.concatenate([self.labels, other.labels])
        whole.rows = np.concatenate([self.rows, other.rows + len(self.pixels)])
        whole.pixels = np.concatenate([self.pixels, other.pixels])
        self.pixels, other.pixels = np.split(whole.pixels, [len(self.pixels)])
        return whole

    def counts(self) -> dict[Label, int]:
        """Return how many films each class has."""
        return {label: int((self.labels == label.rank).sum()) for label in Label}


def _file_digest(path: Path, record: ImageRecord) -> bytes:
    try:
        return bytes.fromhex(sha256(path))
    except OSError as error:
        raise ManifestError(
            f"{path}: image_id={record.image_id} of split {record.split} cannot be read "
            f"({error.strerror}); each row of the manifest has its file"
        ) from None


def _decode(path: Path, record: ImageRecord, shape: tuple[int, int]) -> NDArray[np.uint16]:
    pixels = read_mammogram(path, record=record).pixels
    if pixels.shape != shape:
        raise ManifestError(
            f"{path}: {pixels.shape[0]} x {pixels.shape[1]} pixels; the stage says {shape[0]} x {shape[1]}"
        )
    return pixels


def learnt(records: Sequence[ImageRecord], *, cross_validated: bool, protocol: SplitProtocol) -> list[ImageRecord]:
    """Return the rows that a training job uses: copies of validation films only where they train another fold."""
    if cross_validated or protocol is SplitProtocol.PUBLISHED:
        return list(records)
    return [record for record in records if not (record.split is Split.VALIDATION and record.source_image_id)]


def require_every_class(dataset: FilmDataset, split: Split) -> None:
    """Raise `ManifestError` when the split has no image of some class: it could be neither learnt nor measured."""
    missing = [str(label) for label, count in dataset.counts().items() if count == 0]
    if missing:
        raise ManifestError(
            f"manifest: split={split} has no {' and no '.join(missing)} image "
            f"among its {len(dataset)}; each class needs at least one"
        )


class TrainingFilms(Dataset[Item]):
    """Training films with noise and holes that are drawn afresh each time one is used; `films[draw]` is an `Item`."""

    def __init__(self, films: FilmDataset, config: TrainConfig) -> None:
        """Take the films, and from the config the seed and how strong noise and holes may be."""
        self.films, self.config = films, config

    def __getitem__(self, draw: Draw) -> Item:
        """Return the film of the draw, disturbed in a way that depends on seed, epoch and position alone."""
        image, label, image_id = self.films[draw.index]
        random = generator(self.config.seed, draw.epoch, draw.position)
        disturb(image[0].numpy(), random, noise=self.config.noise, holes=self.config.holes)
        return image, label, image_id


def disturb(image: NDArray[np.float32], random: np.random.Generator, *, noise: float, holes: int) -> None:
    """Add noise to the tissue of one film, (H, W) in [0, 1], and blacken up to `holes` patches, in place.

    What is black stays black: around the breast a film has exactly 0, in training as in serving.
    """
    if noise > 0:
        deviation = np.float32(random.uniform(0, noise))
        tissue = image > 0
        drawn = random.standard_normal(int(np.count_nonzero(tissue)), np.float32)
        drawn *= deviation
        drawn += image[tissue]
        image[tissue] = np.clip(drawn, 0, 1, out=drawn)
    height, width = image.shape
    longer = max(height, width)
    for _ in range(int(random.integers(0, holes, endpoint=True))):
        rows, columns = random.integers(longer // 16, longer // 8, size=2, endpoint=True)
        top, left = random.integers(0, height - 1), random.integers(0, width - 1)
        image[top : top + rows, left : left + columns] = 0
