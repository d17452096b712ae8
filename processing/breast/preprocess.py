"""The one path from a mammogram's pixels to a network's input, in training and in serving alike."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.quality import Flag
from mammopipe.processing.breast.segmentation import BreastRegion, Side, segment_breast
from mammopipe.processing.datasets.manifest import Lesion
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.mammogram import Mammogram

_PERCENTILES = {"level_low": 5, "level_mid": 50, "level_high": 95}


FULL_SCALE = 65535


@dataclass(frozen=True)
class PreprocessConfig:
    """Everything that shapes the network's input; it travels inside the model."""

    height: int = 320
    """Rows of the network's input."""
    width: int = 192
    """Columns of the network's input; a cropped breast is about twice as high as wide."""
    max_height: int = 2048
    """Rows that a taller image is reduced to before anything else."""
    remove_pectoral: bool = True
    """Whether the pectoral muscle is blackened where one is found."""
    low_percentile: float = 0.5
    """Percentile of the tissue's values that becomes black."""
    high_percentile: float = 99.5
    """Percentile of the tissue's values that becomes white."""

    def __post_init__(self) -> None:
        for name in ("height", "width", "max_height"):
            if not 32 <= getattr(self, name) <= 8192:
                raise ConfigError(f"{name}={getattr(self, name)} must lie between 32 and 8192 pixels")
        if self.max_height < self.height:
            raise ConfigError(f"max_height={self.max_height} must be at least height={self.height}")
        if not 0 <= self.low_percentile < self.high_percentile <= 100:
            raise ConfigError(
                f"low_percentile={self.low_percentile} must be below high_percentile={self.high_percentile}, "
                f"both between 0 and 100"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PreprocessConfig":
        """Return the config that `to_json` wrote; an unknown, missing or mistyped key is a `ConfigError`."""
        types = {field.name: field.type for field in fields(cls)}
        if set(values) != set(types):
            raise ConfigError(f"preprocess: keys must be {sorted(types)}, not {sorted(values)}")
        for name, value in values.items():
            if type(value) is not types[name] and not (types[name] is float and type(value) is int):
                raise ConfigError(f"preprocess: {name}={value!r} must be of type {types[name]}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the config as JSON values."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that differ when any setting does."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Geometry:
    """How points of the original map to the network's input: scale, then mirror, then shift."""

    scale: float
    mirrored: bool
    columns: int
    """Columns of the original."""
    left: float
    top: float
    """Where the original's (possibly mirrored) corner falls, in pixels of the input."""

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """Return the input's position of a pixel position of the original."""
        x = self.columns - 1 - x if self.mirrored else x
        return (x + 0.5) * self.scale + self.left - 0.5, (y + 0.5) * self.scale + self.top - 0.5

    def to_original(self, x: float, y: float) -> tuple[float, float]:
        """Return the original's position of a pixel position of the input."""
        x, y = (x + 0.5 - self.left) / self.scale - 0.5, (y + 0.5 - self.top) / self.scale - 0.5
        return (self.columns - 1 - x if self.mirrored else x), y


@dataclass(frozen=True)
class Preprocessed:
    """A network's input and where it came from."""

    pixels: NDArray[np.uint16]
    """(height, width) of the config: tissue between 0 and 65535, everything else 0, chest wall on the left."""
    lesions: tuple[Lesion, ...]
    """The given circles in the input's pixel coordinates."""
    geometry: Geometry
    region: BreastRegion
    """The breast as found in the image after its reduction to `max_height`."""
    quality: Mapping[str, Any]
    """The region's, and the tissue's levels before they were normalised (`mammopipe.processing.tissue_levels`)."""

    @property
    def image(self) -> NDArray[np.float32]:
        """The pixels as float32 in [0, 1]: what training and serving give the network."""
        return to_unit(self.pixels)

    def to_original(self, x: float, y: float) -> tuple[float, float]:
        """Return the position in the original image, in pixels, of a position in the input."""
        return self.geometry.to_original(x, y)


def to_unit(pixels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return 16-bit pixels as float32 in [0, 1]; the one place where that division is made."""
    return pixels.astype(np.float32) / np.float32(FULL_SCALE)


def reduce_height(
    pixels: NDArray[np.uint16], max_height: int, *, full_size: tuple[int, int] | None = None
) -> NDArray[np.uint16]:
    """Return pixels of at most `max_height` rows, averaged over areas; unchanged when they are not taller.

    `full_size` is the rows and columns from which the result's size follows where the pixels are a smaller copy.
    """
    rows, columns = full_size or pixels.shape
    size = (max(1, round(columns * max_height / rows)), max_height) if rows > max_height else (columns, rows)
    if size == pixels.shape[::-1]:
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint16)


def preprocess(mammogram: Mammogram, config: PreprocessConfig, lesions: Iterable[Lesion] = ()) -> Preprocessed:
    """Return the network's input: breast found, rest blackened, oriented, cropped, scaled, padded, normalised.

    Lesions are in pixel coordinates of `mammogram` and move along. Raises `mammopipe.processing.errors.ImageError`
    where there is no breast.
    """
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
    """Return the breast; a side that was itself inferred from the picture is never said to contradict the picture."""
    region = segment_breast(pixels, laterality=mammogram.laterality, view=mammogram.view)
    against, unclear = str(Flag.CHEST_SIDE_AGAINST_LATERALITY), str(Flag.CHEST_SIDE_UNCLEAR)
    if not mammogram.facts.get("laterality_inferred") or against not in region.quality["flags"]:
        return region
    flags = [unclear if flag == against else flag for flag in region.quality["flags"]]
    return replace(region, quality={**region.quality, "flags": flags})


@dataclass(frozen=True)
class _Box:
    """The tissue's bounding box in the reduced image, and the size and row at which it lies in the input."""

    rows: slice
    columns: slice
    height: int
    width: int
    top: int


def _fit(
    tissue: NDArray[np.bool_], chest_side: Side, reduction: float, columns: int, config: PreprocessConfig
) -> tuple[Geometry, _Box]:
    ys, xs = np.flatnonzero(tissue.any(axis=1)), np.flatnonzero(tissue.any(axis=0))
    y0, y1, x0, x1 = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
    scale = min(config.height / (y1 - y0), config.width / (x1 - x0))
    height, width = max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale))
    box = _Box(slice(y0, y1), slice(x0, x1), height, width, (config.height - height) // 2)
    mirrored = chest_side is Side.RIGHT
    left = (tissue.shape[1] - x1 if mirrored else x0) * scale
    return Geometry(scale * reduction, mirrored, columns, -left, box.top - y0 * scale), box


def _place(crop: NDArray[Any], box: _Box, chest_side: Side, config: PreprocessConfig) -> NDArray[Any]:
    if chest_side is Side.RIGHT:
        crop = np.ascontiguousarray(crop[:, ::-1])
    smaller = box.height < crop.shape[0]
    scaled = cv2.resize(crop, (box.width, box.height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    placed = np.zeros((config.height, config.width), crop.dtype)
    placed[box.top : box.top + box.height, : box.width] = scaled
    return placed


def _normalise(pixels: NDArray[np.uint16], tissue: NDArray[np.bool_], config: PreprocessConfig) -> NDArray[np.uint16]:
    low, high = np.percentile(pixels[tissue], [config.low_percentile, config.high_percentile])
    unit = np.clip((pixels.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1.0)), 0.0, 1.0)
    return np.where(tissue, np.rint(unit * np.float32(FULL_SCALE)), np.float32(0)).astype(np.uint16)


def _move(lesion: Lesion, geometry: Geometry) -> Lesion:
    x, y = geometry.to_input(lesion.x, lesion.y)
    return replace(lesion, x=x, y=y, radius=lesion.radius * geometry.scale)


def tissue_levels(pixels: NDArray[np.uint16], tissue: NDArray[np.bool_]) -> dict[str, float]:
    """Return shares of the 16-bit scale: three percentiles of the tissue, and its `detail` relative to their distance.

    `pixels` and `tissue` are (height, width), with at least one pixel of tissue. `detail` is the mean absolute
    Laplacian within the tissue: grain, sharpness and the size of the detector's pixels all move it.
    """
    found: Any = np.percentile(pixels[tissue], list(_PERCENTILES.values()))
    levels = {name: float(value) / FULL_SCALE for name, value in zip(_PERCENTILES, found, strict=True)}
    inside = cv2.erode(tissue.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    edges = cv2.Laplacian(pixels, cv2.CV_32F)
    strength = float(np.abs(edges[inside]).mean()) / FULL_SCALE if inside.any() else 0.0
    contrast = max(levels["level_high"] - levels["level_low"], 1 / FULL_SCALE)
    return {name: round(value, 4) for name, value in {**levels, "detail": strength / contrast}.items()}
