"""Makes augmented copies of images that still look like mammograms, with albumentations.

Stored copies vary in geometry and slightly in exposure. Noise and dropout would disturb the segmentation of the breast,
so they are left to training, which varies the segmented images anew at each use.
"""

import hashlib
import math
import os
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.preprocess import FULL_SCALE, to_unit
from mammopipe.processing.classes import class_of, possible_classes
from mammopipe.processing.datasets.manifest import ImageRecord, Lesion, Split, View
from mammopipe.processing.errors import ConfigError

# On import, albumentations asks the package index for a newer version and imports torch, which takes two seconds and is
# not used here. Both are prevented.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
sys.modules.setdefault("albumentations.pytorch", None)  # type: ignore[arg-type]
if TYPE_CHECKING:
    import albumentations as A
else:
    A = import_module("albumentations")


@dataclass(frozen=True)
class AugmentationConfig:
    """How much a copy may differ from its original."""

    rotation_degrees: float = 12.0
    """Largest rotation in either direction, in degrees."""
    shift: float = 0.04
    """Largest shift, as a share of the image's size."""
    scale: float = 0.1
    """Largest change of size; 0.1 means 90 % to 110 %."""
    elastic_displacement: float = 0.0025
    """Standard deviation of the elastic displacement, as a share of the image's height."""
    elastic_smoothness: float = 0.02
    """Standard deviation of the displacement field's Gaussian smoothing, as a share of the image's height."""
    elastic_probability: float = 0.5
    """Share of copies with elastic deformation."""
    brightness: float = 0.05
    """Largest change of brightness, as a share of the full scale."""
    contrast: float = 0.15
    """Largest change of contrast; 0.15 means 85 % to 115 %."""
    flip_probability: float = 0.5
    """Share of copies that are mirrored left to right, with the laterality of the record."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 0:
                raise ConfigError(f"{name}={value} must not be negative")
        for name in ("flip_probability", "elastic_probability", "shift", "scale", "brightness", "contrast"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at most 1")


def copy_id(image_id: str, index: int) -> str:
    """Return the image id of copy number `index` of an original."""
    return f"{image_id}-a{index:02d}"


def plan_copies(
    records: Sequence[ImageRecord],
    copies: int,
    of: Collection[Split | None] = (Split.TRAIN,),
    *,
    balance: bool = True,
    classes: Sequence[str] | None = None,
) -> dict[str, int]:
    """Return the number of copies for each original, by image id.

    Args:
        records: The originals.
        copies: Copies per image of the most frequent class; with 0, only the rarer classes get copies.
        of: The splits whose images are copied; `None` stands for images that are not divided yet. Other images are not
            in the result.
        balance: Whether rarer classes get more copies, so that all classes have the same total. The numbers of copies
            within a class then differ by at most one. Otherwise every image gets `copies`.
        classes: The classes to balance; `None` takes the three, or the two where a record is negative.
    """
    if copies < 0:
        raise ConfigError(f"copies={copies} must not be negative")
    training = [record for record in records if record.split in of and not record.source_image_id]
    classes = classes or possible_classes(record.label for record in training)
    of_image = {record.image_id: class_of(record.label, classes) for record in training}
    counts = Counter(of_image.values())
    total = max(counts.values(), default=0) * (copies + 1)
    plan: dict[str, int] = {}
    for label, count in counts.items():
        ids = sorted(
            (image_id for image_id, own in of_image.items() if own is label),
            key=lambda image_id: hashlib.sha256(image_id.encode()).hexdigest(),
        )
        each, more = divmod(total - count, count) if balance else (copies, 0)
        plan |= {image_id: each + (place < more) for place, image_id in enumerate(ids)}
    return plan


class Augmenter:
    """Makes copies of images; the same config, seed, image and index give the same pixels."""

    def __init__(self, config: AugmentationConfig | None = None, *, seed: int = 0) -> None:
        self.config = config or AugmentationConfig()
        self.seed = seed
        self._geometries: dict[tuple[int, bool], A.Compose] = {}
        self._exposure = A.Compose(
            [
                A.RandomBrightnessContrast(
                    brightness_limit=self.config.brightness, contrast_limit=self.config.contrast, p=1.0
                )
            ]
        )

    def copy(
        self, pixels: NDArray[np.uint16], record: ImageRecord, index: int
    ) -> tuple[NDArray[np.uint16], ImageRecord]:
        """Return copy number `index` of an image, and the record of the copy.

        Args:
            pixels: uint16, (rows, columns), on the full 16-bit scale.
            record: The record of the original.
            index: The number of the copy.

        Returns:
            The pixels of the copy, of the same shape, and its record. The record has the patient, label and split of
            the original, and the original's id as `source_image_id`. Lesions and laterality follow the pixels; a
            lesion whose centre moves out of the image is dropped.
        """
        kind = (pixels.shape[0], record.view is View.CC)
        geometry = self._geometries.setdefault(kind, _geometry(self.config, *kind))
        digest = hashlib.sha256(f"{self.seed}/{record.image_id}/{index}".encode()).digest()
        for policy in (geometry, self._exposure):
            policy.set_random_seed(int.from_bytes(digest[:4], "big"))
        points = np.array([(item.x, item.y, 1.0) for item in record.lesions], np.float32).reshape(-1, 3)
        result = geometry(image=to_unit(pixels), keypoints=points, order=np.arange(len(points)))
        exposed = self._exposure(image=result["image"])["image"]
        copied = np.rint(np.clip(exposed, 0, 1) * FULL_SCALE).astype(np.uint16)
        # A change of brightness or contrast would also change the black surroundings, which must stay air.
        copied[result["image"] <= 0] = 0
        mirrored = any(applied == "HorizontalFlip" for applied, _ in result["applied_transforms"])
        side = record.laterality.other if record.laterality and mirrored else record.laterality
        return copied, record.with_moved(
            _moved(record.lesions, result),
            image_id=copy_id(record.image_id, index),
            source_image_id=record.image_id,
            laterality=side,
            path="",
            sha256="",
        )


def _geometry(config: AugmentationConfig, height: int, craniocaudal: bool) -> A.Compose:
    """Return the geometric transforms for images of `height` rows.

    Only a craniocaudal view may be flipped upside down, which swaps medial and lateral. In other views the flip would
    give an anatomy that does not exist.
    """
    sigma = max(1.0, config.elastic_smoothness * height)
    # A Gaussian reduces the deviation of white noise to 1 / (2 sqrt(pi) sigma) of its value, which is 1 / sqrt(3) for
    # uniform noise in [-1, 1]. Uniform noise takes a quarter less time than normal noise; smoothed, both are alike.
    alpha = config.elastic_displacement * height * 2 * math.sqrt(3 * math.pi) * sigma
    shift = (-config.shift, config.shift)
    steps: list[Any] = [
        # Elastic deformation comes first, because it moves only points that are inside the image.
        A.ElasticTransform(
            alpha=alpha, sigma=sigma, fill=0, noise_distribution="uniform", p=config.elastic_probability
        ),
        A.HorizontalFlip(p=config.flip_probability),
        A.VerticalFlip(p=config.flip_probability if craniocaudal else 0.0),
        A.Affine(
            rotate=(-config.rotation_degrees, config.rotation_degrees),
            translate_percent={"x": shift, "y": shift},
            scale=(1 - config.scale, 1 + config.scale),
            interpolation=cv2.INTER_LINEAR,
            fill=0,
            p=1.0,
        ),
    ]
    return A.Compose(
        steps,
        keypoint_params=A.KeypointParams("xys", label_fields=["order"], remove_invisible=False),
        save_applied_params=True,
    )


def _moved(lesions: Sequence[Lesion], result: dict[str, Any]) -> tuple[Lesion, ...]:
    return tuple(
        replace(lesions[int(place)], x=float(x), y=float(y), radius=lesions[int(place)].radius * float(scale))
        for place, (x, y, scale) in zip(result["order"], result["keypoints"], strict=True)
    )
