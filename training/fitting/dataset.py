"""Datasets of segmented images as tensors.

Images are kept as 16-bit pixels. Training images get random variations, noise and holes each time they are used.
"""

import hashlib
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mammopipe.processing.breast.preprocess import to_unit
from mammopipe.processing.classes import Classes, class_indices, possible_classes
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Lesion, Split, SplitProtocol, View
from mammopipe.processing.errors import ManifestError
from mammopipe.processing.variation import Variation, vary
from mammopipe.training.config import Cache, TrainConfig
from mammopipe.training.fitting.distributed import ALONE, World
from mammopipe.training.fitting.image_cache import ImageCache, ImagesInMemory, ImagesOnDisk, choose_cache
from mammopipe.training.fitting.sampling import Draw, generator

Item = tuple[Tensor, int, str]
"""Image (1, H, W) float32 in [0, 1], class index, image id."""


class ImageDataset(Dataset[Item]):
    """The images of manifest rows, unchanged; `dataset[i]` is an `Item`."""

    def __init__(
        self,
        records: Sequence[ImageRecord],
        folder: Path,
        *,
        shape: tuple[int, int],
        classes: Classes | None = None,
        description: str = "images",
        cache: Cache = Cache.MEMORY,
        world: World = ALONE,
    ) -> None:
        """Find the file `<folder>/<image_id>.png` of every record and, with `Cache.MEMORY`, decode it.

        Args:
            records: Manifest rows of the images.
            folder: Folder of the files.
            shape: Expected (H, W) of every image, in pixels.
            classes: The classes; with `None`, normal, benign and malignant, or negative and malignant if a record is
                labelled negative.
            description: Name of the images in progress bars.
            cache: Where decoded images are kept.
            world: The processes of the job.

        Raises:
            ManifestError: A file is missing or has another shape.
            processing.errors.ImageError: A file cannot be decoded. With `Cache.DISK`, some checks happen only when the
                image is used.
        """
        self.records = tuple(records)
        self.classes = classes or possible_classes(record.label for record in self.records)
        self.labels: NDArray[np.int64] = class_indices(self.records, self.classes)
        self.shape: tuple[int, int] = shape
        """(H, W) of every image, in pixels."""
        kept: ImageCache = (
            ImagesOnDisk(records, folder, shape=shape, description=description)
            if choose_cache(cache, len(self.records), shape) is Cache.DISK
            else ImagesInMemory(records, folder, shape=shape, description=description, world=world)
        )
        self.caches: tuple[ImageCache, ...] = (kept,)
        self.rows: NDArray[np.int64] = np.arange(len(self.records))
        """Index of each image, counted over all caches."""
        self.sha256 = hashlib.sha256(b"".join(kept.sums)).hexdigest()
        """SHA-256 of the files' SHA-256 sums, in the order of the records."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> Item:
        """Return the image at `index`; pixels are divided by 65535 and otherwise unchanged."""
        row = int(self.rows[index])
        for cache in self.caches:
            if row < len(cache):
                image = torch.from_numpy(to_unit(cache.read(row))[None])
                return image, int(self.labels[index]), self.records[index].image_id
            row -= len(cache)
        raise IndexError(index)

    def part(self, places: Sequence[int]) -> "ImageDataset":
        """Return a subset, given by positions, that shares the pixels."""
        part = copy(self)
        part.records = tuple(self.records[place] for place in places)
        part.labels, part.rows = self.labels[list(places)], self.rows[list(places)]
        return part

    def joined(self, other: "ImageDataset") -> "ImageDataset":
        """Return these images followed by those of another dataset; the result shares their pixels."""
        whole = copy(self)
        whole.records = self.records + other.records
        whole.labels = np.concatenate([self.labels, other.labels])
        whole.rows = np.concatenate([self.rows, other.rows + sum(map(len, self.caches))])
        whole.caches = self.caches + other.caches
        return whole

    def counts(self) -> dict[Label, int]:
        """Return the number of images of each class."""
        return {label: int((self.labels == index).sum()) for index, label in enumerate(self.classes)}


def learnt(records: Sequence[ImageRecord], *, cross_validated: bool, protocol: SplitProtocol) -> list[ImageRecord]:
    """Return the rows that a training job uses.

    Without cross-validation, augmented copies of validation images are left out; with it, they train the other folds.
    """
    if cross_validated or protocol is SplitProtocol.PUBLISHED:
        return list(records)
    return [record for record in records if not (record.split is Split.VALIDATION and record.source_image_id)]


class Counted(Protocol):
    """A dataset of images or breasts."""

    def __len__(self) -> int:
        """Return the number of cases."""

    def counts(self) -> dict[Label, int]:
        """Return the number of cases of each class."""


def require_every_class(dataset: Counted, split: Split) -> None:
    """Raise `ManifestError` if the split lacks a class, which could then be neither learnt nor evaluated."""
    missing = [str(label) for label, count in dataset.counts().items() if count == 0]
    if missing:
        case = "image" if isinstance(dataset, ImageDataset) else "breast"
        raise ManifestError(
            f"manifest: split={split} has no {' and no '.join(missing)} {case} "
            f"among its {len(dataset)}; each class needs at least one"
        )


class TrainingImages(Dataset[Item]):
    """Training images that are varied at random each time they are used; `dataset[draw]` is an `Item`."""

    def __init__(self, images: ImageDataset, config: TrainConfig) -> None:
        """Create the dataset; the config gives the seed and the strength of the variations."""
        self.images, self.config = images, config
        self.variation = Variation(
            config.augment,
            config.augment_crop,
            config.augment_flip,
            config.augment_affine,
            config.augment_elastic,
            config.augment_tone,
            config.augment_blur,
            config.augment_downscale,
        )

    def __getitem__(self, draw: Draw) -> Item:
        """Return the image of the draw; its variation depends only on seed, epoch and position."""
        return self.with_lesions(draw)[0]

    def with_lesions(self, draw: Draw) -> tuple[Item, tuple[Lesion, ...]]:
        """Return the image of the draw and its lesions; geometric variations also move the lesions."""
        image, label, image_id = self.images[draw.index]
        record = self.images.records[draw.index]
        lesions = record.lesions
        key = (self.config.seed, draw.epoch, draw.position)
        if self.config.augment:
            # A random stream of its own (1), so that noise and holes are the same with and without `augment`.
            varied, lesions = vary(
                image[0].numpy(), lesions, generator(*key, 1), self.variation, craniocaudal=record.view is View.CC
            )
            image = torch.from_numpy(varied[None])
        disturb(image[0].numpy(), generator(*key), noise=self.config.noise, holes=self.config.holes)
        return (image, label, image_id), lesions


def disturb(image: NDArray[np.float32], random: np.random.Generator, *, noise: float, holes: int) -> None:
    """Add noise to the tissue and set random patches to 0, in place.

    Pixels of 0 stay 0, because the background is exactly 0 in training and in serving.

    Args:
        image: (H, W), in [0, 1].
        random: Random number generator.
        noise: Maximum standard deviation of the noise.
        holes: Maximum number of patches.
    """
    if noise > 0:
        deviation, tissue = float(random.uniform(0, noise)), image > 0
        # torch draws normal numbers in a third of NumPy's time, and they are most of the work of preparing a batch.
        source = torch.Generator().manual_seed(int(random.integers(1 << 63)))
        drawn = torch.empty(int(np.count_nonzero(tissue))).normal_(0, deviation, generator=source).numpy()
        drawn += image[tissue]
        image[tissue] = np.clip(drawn, 0, 1, out=drawn)
    for top, left, rows, columns in draw_holes(image.shape, random, holes):
        image[top : top + rows, left : left + columns] = 0


def draw_holes(shape: tuple[int, ...], random: np.random.Generator, holes: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (top, left, rows, columns) of at most `holes` random patches of an image of `shape` (H, W)."""
    height, width = shape
    longer = max(height, width)
    for _ in range(int(random.integers(0, holes, endpoint=True))):
        rows, columns = random.integers(longer // 16, longer // 8, size=2, endpoint=True)
        top, left = random.integers(0, height - 1), random.integers(0, width - 1)
        yield int(top), int(left), int(rows), int(columns)
