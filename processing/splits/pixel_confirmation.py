"""Confirms that two images with matching features show the same original: their aligned pixels must correlate.

The test is independent of the features. The features' transform aligns one image with the other, and fine detail is
compared block by block. Each block may move a little, because copies may be deformed. Measured on mini-MIAS and
phantoms at 96 x 64 and 320 x 192 pixels: the correlation is at least 0.86 between an image and its altered copies, and
at most 0.71 between different images whose features match.
"""

from dataclasses import dataclass
from statistics import NormalDist, fmean, pstdev

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.images.fine_detail import DetailScales
from mammopipe.processing.splits.near_duplicates import HEIGHT

ALLOWED_FALSE_ALARMS = 0.01
"""Permitted expected number of false alarms over all pairs of a dataset; it determines the limit."""
_FEW_PAIRS = 30
"""Least number of measured pairs of different images whose own distribution is used."""


@dataclass(frozen=True)
class Range:
    """What is known of a measure of two images before a dataset's own pairs are measured."""

    least: float
    """Least limit of the measure, whatever limit follows from the number of pairs."""
    most: float
    """Greatest limit."""
    mean: float
    """Mean of the measure for different images, for datasets with too few pairs to measure their own."""
    deviation: float
    """Its standard deviation."""


CORRELATION = Range(least=0.75, most=0.85, mean=0.30, deviation=0.15)
"""The correlation of images that are aligned by one transform."""
_BLOCK, _REACH = 32, 6
"""Side of a block and its greatest movement, in pixels at `HEIGHT` rows."""
_SCALES = DetailScales(fine=2.0, coarse=8.0, contrast=16.0, floor=1e-4, tissue_only=True)
_RIM = 9
"""Width of the rim along the breast's outline that is left out, in pixels, because outlines resemble each other."""


@dataclass(frozen=True)
class Detail:
    """Fine detail of an image with equalised contrast (float32) and the tissue's mask (uint8); (`HEIGHT`, width)."""

    values: NDArray[np.float32]
    inside: NDArray[np.uint8]


@dataclass(frozen=True)
class Confirmation:
    """The limit that confirms a pair, and the extent of the comparison."""

    limit: float
    """Least measure of two images of the same original."""
    pairs: int
    """Number of pairs whose features agree and whose pixels are compared."""
    expected_false_alarms: float
    """Expected number of these pairs that exceed the limit although their images are different."""

    @classmethod
    def of(cls, different: list[float], pairs: int, known: Range = CORRELATION) -> "Confirmation":
        """Return the limit for a number of pairs, given the measures of pairs of different images.

        With the limit, `ALLOWED_FALSE_ALARMS` false alarms are expected among all pairs, if the measures of different
        images are normally distributed.
        """
        measured = len(different) >= _FEW_PAIRS
        mean = fmean(different) if measured else known.mean
        deviation = max(pstdev(different) if measured else known.deviation, 1e-3)
        share = min(0.5, ALLOWED_FALSE_ALARMS / max(pairs, 1))
        limit = min(known.most, max(known.least, mean + deviation * NormalDist().inv_cdf(1 - share)))
        return cls(limit, pairs, pairs * NormalDist(mean, deviation).cdf(2 * mean - limit))


def detail(pixels: NDArray[np.uint16]) -> Detail:
    """Return the detail of a segmented image, uint16 (H, W), 0 outside the tissue."""
    size = (max(1, round(pixels.shape[1] * HEIGHT / pixels.shape[0])), HEIGHT)
    interpolation = cv2.INTER_AREA if pixels.shape[0] > HEIGHT else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(pixels, size, interpolation=interpolation), np.float32) / np.float32(65535)
    inside = cv2.erode((image > 0).astype(np.uint8), np.ones((_RIM, _RIM), np.uint8), borderValue=(0,))
    return Detail(_SCALES.of(image, inside > 0), np.asarray(inside, np.uint8))


def correlation(first: Detail, second: Detail, transform: NDArray[np.float64]) -> float | None:
    """Return the correlation of two aligned images, -1..1: the median over the blocks that both images have.

    Args:
        first: The detail of the first image.
        second: The detail of the second image.
        transform: Maps points of the first image to the second, 2 x 3.

    Returns:
        The correlation, `None` if the images have no common block.
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
