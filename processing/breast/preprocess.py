"""Turns a mammogram's pixels into a network's input; training and serving use the same code."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mammopipe.processing.breast.harmonisation import Harmonisation, harmonise
from mammopipe.processing.breast.quality import Flag
from mammopipe.processing.breast.segmentation import BreastRegion, Side, segment_breast
from mammopipe.processing.datasets.manifest import Lesion
from mammopipe.processing.errors import ConfigError, UnsupportedImageError
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.read_config import ForProcessing
from mammopipe.processing.settings import Settings

_PERCENTILES = {"level_low": 5, "level_mid": 50, "level_high": 95}


FULL_SCALE = 65535
_LEFT_OUT = {"harmonisation", "for_processing"}
"""Settings that `to_json` leaves out while they have their default."""


class PreprocessConfig(Settings):
    """All settings that shape the network's input; they are stored in the model."""

    height: int = Field(default=320, ge=32, le=8192, description="rows of the network's input")
    width: int = Field(
        default=192,
        ge=32,
        le=8192,
        description="columns of the network's input; a cropped breast is about twice as high as it is wide",
    )
    max_height: int = Field(
        default=2048, ge=32, le=8192, description="taller images are first reduced to this number of rows"
    )
    remove_pectoral: bool = Field(default=True, description="whether a pectoral muscle that was found is blackened")
    low_percentile: float = Field(
        default=0.5, ge=0, lt=100, description="percentile of the tissue's values that becomes black"
    )
    high_percentile: float = Field(
        default=99.5, gt=0, le=100, description="percentile of the tissue's values that becomes white"
    )
    harmonisation: Harmonisation = Field(
        default=Harmonisation.NONE,
        description="how the tissue's grey levels are brought to those of a reference: `none`, `exponent`, `quantiles`",
    )
    for_processing: ForProcessing = Field(
        default=ForProcessing.REFUSE,
        description="what was done with raw images (for processing) in training, and therefore is done wherever the "
        "model is applied: `refuse` or `convert`",
    )

    @model_validator(mode="after")
    def _check(self) -> "PreprocessConfig":
        if self.max_height < self.height:
            raise ConfigError(f"max_height={self.max_height} must be at least height={self.height}")
        if self.low_percentile >= self.high_percentile:
            raise ConfigError(
                f"low_percentile={self.low_percentile} must be below high_percentile={self.high_percentile}"
            )
        return self

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PreprocessConfig":
        """Return the config that `to_json` wrote; raises `ConfigError` for an unknown, missing or mistyped key."""
        missing = sorted(set(cls.model_fields) - _LEFT_OUT - set(values))
        if missing:
            raise ConfigError(f"preprocess: {', '.join(missing)} is missing")
        try:
            return cls.from_values(values)
        except ConfigError as error:
            raise ConfigError(f"preprocess: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """Return the config as JSON values.

        `harmonisation` and `for_processing` are left out while they have their default. So models that are older than
        these settings keep their digest.
        """
        unused = {name for name in _LEFT_OUT if getattr(self, name) is type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=unused)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change when any setting changes."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Geometry:
    """Maps points between the original image and the network's input."""

    scale: float
    mirrored: bool
    columns: int
    """Columns of the original."""
    left: float
    top: float
    """Position of the upper left corner of the original, after mirroring, in pixels of the input."""

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """Return the position in the input, in pixels, of a position in the original."""
        x = self.columns - 1 - x if self.mirrored else x
        return (x + 0.5) * self.scale + self.left - 0.5, (y + 0.5) * self.scale + self.top - 0.5

    def to_original(self, x: float, y: float) -> tuple[float, float]:
        """Return the position in the original, in pixels, of a position in the input."""
        x, y = (x + 0.5 - self.left) / self.scale - 0.5, (y + 0.5 - self.top) / self.scale - 0.5
        return (self.columns - 1 - x if self.mirrored else x), y


@dataclass(frozen=True)
class Preprocessed:
    """A network's input and its relation to the original image."""

    pixels: NDArray[np.uint16]
    """uint16, (height, width) of the config: tissue from 0 to 65535, everything else 0, chest wall on the left."""
    lesions: tuple[Lesion, ...]
    """The lesions in pixel coordinates of the input."""
    geometry: Geometry
    region: BreastRegion
    """The breast in the image that was reduced to `max_height`."""
    quality: Mapping[str, Any]
    """The quality of the region, and the levels of the tissue before normalisation (`tissue_levels`)."""

    @property
    def image(self) -> NDArray[np.float32]:
        """The pixels as float32 in [0, 1], as training and serving pass them to the network."""
        return to_unit(self.pixels)

    def to_original(self, x: float, y: float) -> tuple[float, float]:
        """Return the position in the original, in pixels, of a position in the input."""
        return self.geometry.to_original(x, y)


def to_unit(pixels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return 16-bit pixels as float32 in [0, 1]; all code uses this function for the conversion."""
    return pixels.astype(np.float32) / np.float32(FULL_SCALE)


def reduce_height(
    pixels: NDArray[np.uint16], max_height: int, *, full_size: tuple[int, int] | None = None
) -> NDArray[np.uint16]:
    """Return the pixels reduced to at most `max_height` rows by area averaging; lower images stay as they are.

    Args:
        pixels: uint16, (rows, columns).
        max_height: Greatest number of rows of the result.
        full_size: Rows and columns of the full image, if `pixels` is a smaller copy of it; they determine the size of
            the result.
    """
    rows, columns = full_size or pixels.shape
    size = (max(1, round(columns * max_height / rows)), max_height) if rows > max_height else (columns, rows)
    if size == pixels.shape[::-1]:
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint16)


def preprocess(mammogram: Mammogram, config: PreprocessConfig, lesions: Iterable[Lesion] = ()) -> Preprocessed:
    """Return the network's input made from a mammogram.

    The breast is segmented and everything else blackened. The image is then oriented, cropped, scaled, padded and
    normalised.

    Args:
        mammogram: The image.
        config: The settings of the input.
        lesions: Circles in pixel coordinates of `mammogram`; they are transformed with the pixels.

    Raises:
        mammopipe.processing.errors.ImageError: The image shows no breast, or it was converted from a raw image and the
            config refuses those.
    """
    if ImageFlag.FOR_PROCESSING_CONVERTED in mammogram.flags and config.for_processing is ForProcessing.REFUSE:
        raise UnsupportedImageError(
            f"the image was converted from raw data ({ImageFlag.FOR_PROCESSING_CONVERTED}); preprocess.for_processing="
            f"{config.for_processing}: the model was not trained on converted images"
        )
    pixels = reduce_height(mammogram.pixels, config.max_height)
    region = _region(pixels, mammogram)
    tissue = region.mask & ~region.pectoral if config.remove_pectoral else region.mask
    geometry, box = _fit(
        tissue, region.chest_side, pixels.shape[0] / mammogram.pixels.shape[0], mammogram.pixels.shape[1], config
    )
    kept = tissue[box.rows, box.columns]
    inside = _place(np.where(kept, pixels[box.rows, box.columns], np.uint16(0)), box, region.chest_side, config)
    weight = _place(kept.astype(np.uint8) * np.uint8(255), box, region.chest_side, config)
    return Preprocessed(
        pixels=_normalise(inside, weight >= 128, config),
        lesions=tuple(_move(lesion, geometry) for lesion in lesions),
        geometry=geometry,
        region=region,
        quality={**region.quality, **tissue_levels(inside, weight >= 128)},
    )


def _region(pixels: NDArray[np.uint16], mammogram: Mammogram) -> BreastRegion:
    """Return the breast; a laterality that was inferred from the image is not flagged as contradicting the image."""
    region = segment_breast(pixels, laterality=mammogram.laterality, view=mammogram.view)
    against, unclear = str(Flag.CHEST_SIDE_AGAINST_LATERALITY), str(Flag.CHEST_SIDE_UNCLEAR)
    if not mammogram.facts.get("laterality_inferred") or against not in region.quality["flags"]:
        return region
    flags = [unclear if flag == against else flag for flag in region.quality["flags"]]
    return replace(region, quality={**region.quality, "flags": flags})


@dataclass(frozen=True)
class _Box:
    """The tissue's bounding box in the reduced image, and its size and first row in the input."""

    rows: slice
    columns: slice
    height: int
    width: int
    top: int


def _fit(
    tissue: NDArray[np.bool_], chest_side: Side, reduction: float, columns: int, config: PreprocessConfig
) -> tuple[Geometry, _Box]:
    """Return how the tissue's bounding box fills the input: as large as possible, at the left, centred vertically.

    Args:
        tissue: bool, (rows, columns) of the reduced image.
        chest_side: The chest wall's side, which is at the left in the input.
        reduction: Rows of the reduced image per row of the original.
        columns: Columns of the original.
        config: The size of the input.
    """
    ys, xs = np.flatnonzero(tissue.any(axis=1)), np.flatnonzero(tissue.any(axis=0))
    y0, y1, x0, x1 = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
    scale = min(config.height / (y1 - y0), config.width / (x1 - x0))
    height, width = max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale))
    box = _Box(slice(y0, y1), slice(x0, x1), height, width, (config.height - height) // 2)
    mirrored = chest_side is Side.RIGHT
    left = (tissue.shape[1] - x1 if mirrored else x0) * scale
    return Geometry(scale * reduction, mirrored, columns, -left, box.top - y0 * scale), box


def _place(crop: NDArray[Any], box: _Box, chest_side: Side, config: PreprocessConfig) -> NDArray[Any]:
    """Return the crop in the input: mirrored if the chest wall is at the right, scaled to the box, on black."""
    if chest_side is Side.RIGHT:
        crop = np.ascontiguousarray(crop[:, ::-1])
    smaller = box.height < crop.shape[0]
    scaled = cv2.resize(crop, (box.width, box.height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    placed = np.zeros((config.height, config.width), crop.dtype)
    placed[box.top : box.top + box.height, : box.width] = scaled
    return placed


def _normalise(pixels: NDArray[np.uint16], tissue: NDArray[np.bool_], config: PreprocessConfig) -> NDArray[np.uint16]:
    """Return the pixels with the tissue's percentiles at black and white, harmonised, and 0 outside the tissue."""
    low, high = np.percentile(pixels[tissue], [config.low_percentile, config.high_percentile])
    # The divisor is at least 1, because the percentiles of flat tissue are equal.
    unit = np.clip((pixels.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1.0)), 0.0, 1.0)
    unit = harmonise(unit, tissue, config.harmonisation)
    return np.where(tissue, np.rint(unit * np.float32(FULL_SCALE)), np.float32(0)).astype(np.uint16)


def _move(lesion: Lesion, geometry: Geometry) -> Lesion:
    x, y = geometry.to_input(lesion.x, lesion.y)
    return replace(lesion, x=x, y=y, radius=lesion.radius * geometry.scale)


def tissue_levels(pixels: NDArray[np.uint16], tissue: NDArray[np.bool_]) -> dict[str, float]:
    """Return three percentiles of the tissue's values and the `detail` of the tissue.

    Args:
        pixels: uint16, (height, width).
        tissue: bool, (height, width), true for at least one pixel.

    Returns:
        `level_low`, `level_mid` and `level_high`: the 5th, 50th and 95th percentile as shares of the 16-bit scale.
        `detail`: the mean absolute Laplacian inside the tissue, divided by the difference of the outer percentiles; it
        depends on grain, sharpness and the size of the detector's pixels.
    """
    found: Any = np.percentile(pixels[tissue], list(_PERCENTILES.values()))
    levels = {name: float(value) / FULL_SCALE for name, value in zip(_PERCENTILES, found, strict=True)}
    inside = cv2.erode(tissue.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    edges = cv2.Laplacian(pixels, cv2.CV_32F)
    strength = float(np.abs(edges[inside]).mean()) / FULL_SCALE if inside.any() else 0.0
    contrast = max(levels["level_high"] - levels["level_low"], 1 / FULL_SCALE)
    return {name: round(value, 4) for name, value in {**levels, "detail": strength / contrast}.items()}
