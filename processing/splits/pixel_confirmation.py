"""A second test of two images that share features: their pixels, laid over each other, must correlate.

It is independent of the features. Fine detail of one image is compared block by block with that of the other, which
the features' transform has brought to the same place; a block may move a little, for copies may be deformed. Measured
on mini-MIAS and phantoms at 96 x 64 and 320 x 192 pixels: 0.86 and more between an image and its altered copies, 0.71
at most between different images that the features took to each other.
"""

from dataclasses import dataclass
from statistics import NormalDist, fmean, pstdev

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.splits.near_duplicates import HEIGHT

LEAST_LIMIT, MOST_LIMIT = 0.75, 0.85
"""Correlation from which on two images are the same, whatever the number of pairs says."""
ALLOWED_FALSE_ALARMS = 0.01
"""Expected number of false alarms, over all pairs of a set, that the limit is derived from."""
_USUAL_MEAN, _USUAL_DEVIATION = 0.30, 0.15
"""Of different images, measured; they stand in where a set has too few pairs to measure its own."""
_FEW_PAIRS = 30
_BLOCK, _REACH = 32, 6
"""Pixels of a block's side, and by which it may move, at `HEIGHT` rows."""
_FINE, _COARSE, _LOCAL = 2.0, 8.0, 16.0
"""Standard deviations, in pixels, of the Gaussians that bound the detail and even out its contrast."""
_RIM = 9


@dataclass(frozen=True)
class Detail:
    """The fine detail of an image, contrast evened out, and where it is tissue; float32 and uint8 (`HEIGHT`, width)."""

    values: NDArray[np.float32]
    inside: NDArray[np.uint8]


@dataclass(frozen=True)
class Confirmation:
    """What the pixels of some pairs are held against."""

    limit: float
    """Correlation from which on two images are the same."""
    pairs: int
    """Pairs whose features agree, which the pixels decide."""
    expected_false_alarms: float
    """Expected number of pairs of different images among them above the limit."""

    @classmethod
    def of(cls, different: list[float], pairs: int) -> "Confirmation":
        """Return the limit for a number of pairs, from the correlations of pairs that are different images."""
        measured = len(different) >= _FEW_PAIRS
        mean = fmean(different) if measured else _USUAL_MEAN
        deviation = max(pstdev(different) if measured else _USUAL_DEVIATION, 1e-3)
        share = min(0.5, ALLOWED_FALSE_ALARMS / max(pairs, 1))
        limit = min(MOST_LIMIT, max(LEAST_LIMIT, mean + deviation * NormalDist().inv_cdf(1 - share)))
        return cls(limit, pairs, pairs * NormalDist(mean, deviation).cdf(2 * mean - limit))


def detail(pixels: NDArray[np.uint16]) -> Detail:
    """Return the detail of a segmented image, uint16 (H, W), 0 outside the tissue."""
    size = (max(1, round(pixels.shape[1] * HEIGHT / pixels.shape[0])), HEIGHT)
    interpolation = cv2.INTER_AREA if pixels.shape[0] > HEIGHT else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(pixels, size, interpolation=interpolation), np.float32) / np.float32(65535)
    inside = cv2.erode((image > 0).astype(np.uint8), np.ones((_RIM, _RIM), np.uint8), borderValue=(0,))
    weight = inside.astype(np.float32)

    def mean(values: NDArray[np.float32], deviation: float) -> NDArray[np.float32]:
        # Over the tissue alone: air would draw an outline, and outlines resemble each other.
        total = cv2.GaussianBlur(values * weight, (0, 0), deviation)
        return np.asarray(total / np.maximum(cv2.GaussianBlur(weight, (0, 0), deviation), 1e-3), np.float32)

    band = np.subtract(mean(image, _FINE), mean(image, _COARSE), dtype=np.float32)
    even = band / (np.sqrt(mean(band * band, _LOCAL)) + np.float32(1e-4)) * weight
    return Detail(np.asarray(even, np.float32), np.asarray(inside, np.uint8))


def correlation(first: Detail, second: Detail, transform: NDArray[np.float64]) -> float | None:
    """Return how two images correlate, in -1..1, laid over each other by `transform` (2 x 3, first to second).

    It is the median over the blocks that both have; `None` where they have none.
    """
    height, width = first.values.shape
    values, inside = (
        cv2.warpAffine(image, transform, (width, height), flags=interpolation | cv2.WARP_INVERSE_MAP)
        for image, interpolation in ((second.values, cv2.INTER_LINEAR), (second.inside, cv2.INTER_NEAREST))
    )
    found = []
    for top in range(_REACH, height - _BLOCK - _REACH + 1, _BLOCK):
        for left in range(_REACH, width - _BLOCK - _REACH + 1, _BLOCK):
            block = np.s_[top : top + _BLOCK, left : left + _BLOCK]
            around = np.s_[top - _REACH : top + _BLOCK + _REACH, left - _REACH : left + _BLOCK + _REACH]
            if first.inside[block].mean() < 0.95 or inside[around].mean() < 0.95:
                continue
            moved = np.ascontiguousarray(values[around])
            scores = cv2.matchTemplate(moved, np.ascontiguousarray(first.values[block]), cv2.TM_CCOEFF_NORMED)
            found.append(float(scores.max()))
    return float(np.median(found)) if found else None
