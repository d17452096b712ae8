"""Recognises deformed copies of an image: features that agree place by place, where no one transform fits them all.

An elastic deformation moves the parts of an image against each other. Near each other, its features still keep their
distances, as in grid-based motion statistics (J. Bian et al. 2017, CVPR). Two images show the same original if many
features agree with several neighbours, and if the fine detail around them correlates.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.splits.near_duplicates import Features
from mammopipe.processing.splits.pixel_confirmation import Detail

LOCALLY_ALIKE = 18
"""Least number of features that agree with their neighbours if two images show the same original.

Measured on mini-MIAS at 384 x 240 pixels: of 9,000 pairs of different images, as they are and mirrored, two have more
than 15, with correlations of at most 0.58; of 12,000 pairs of phantoms none has more than 10.
"""
LEAST_HEIGHT = 192
"""Least height, in pixels, of images that are compared place by place. A lower image has no fine detail at the height
at which images are compared: its smooth patterns, moved a few pixels and deformed, fit those of other images."""
_CELLS, _CELL = 6, 24
"""Least number of cells of this side, in pixels, that these features lie in. Different images may share one structure:
a marker, or a phantom's drawn lesion, which fills up to four cells."""
_BITS = 48
"""Greatest number of the 256 bits in which the descriptors of two matching features differ."""
_NEAR, _APART = 60.0, 4.0
"""Greatest and least distance of neighbours, in pixels; nearer features are one place at two scales."""
_CHANGE, _TOLERANCE = 0.35, 2.0
"""Greatest change of the vector to a neighbour: share of its length, and pixels besides."""
_NEIGHBOURS = 5
"""Number of neighbours that a feature must agree with."""
_HALF, _REACH = 12, 4
"""Half of a block's side and its greatest movement, in pixels."""
_COVERED = 0.95
"""Least share of a block that is tissue."""


@dataclass(frozen=True)
class LocalMatch:
    """Features of two images that agree with their neighbours."""

    first: NDArray[np.float64]
    """(n, 2), positions in the first image, of all matching features."""
    second: NDArray[np.float64]
    """(n, 2), positions in the second image."""
    near: NDArray[np.bool_]
    """(n, n), which neighbours each feature agrees with."""

    @property
    def places(self) -> NDArray[np.int64]:
        """The features that agree with enough neighbours."""
        return np.flatnonzero(self.near.sum(axis=1) >= _NEIGHBOURS)

    @property
    def agreeing(self) -> int:
        """The number of these features."""
        return len(self.places)

    @property
    def alike(self) -> bool:
        """Whether so many features agree, spread over so much of the image, that both may show the same original."""
        cells = np.unique(self.first[self.places] // _CELL, axis=0)
        return self.agreeing >= LOCALLY_ALIKE and len(cells) >= _CELLS


def local_match(first: Features, second: Features) -> LocalMatch:
    """Return the matching features of two images, and which of them agree with each other."""
    both = min(len(first.points), len(second.points)) > 0
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    pairs = matcher.match(first.descriptors, second.descriptors) if both else ()
    close = [pair for pair in pairs if pair.distance <= _BITS]
    source = np.array([first.points[pair.queryIdx] for pair in close], np.float64).reshape(-1, 2)
    target = np.array([second.points[pair.trainIdx] for pair in close], np.float64).reshape(-1, 2)
    steps = source[:, None] - source[None]
    changes = target[:, None] - target[None] - steps
    length, change = np.hypot(steps[..., 0], steps[..., 1]), np.hypot(changes[..., 0], changes[..., 1])
    return LocalMatch(source, target, (length >= _APART) & (length < _NEAR) & (change < _CHANGE * length + _TOLERANCE))


def local_correlation(first: Detail, second: Detail, found: LocalMatch) -> float | None:
    """Return the correlation of two images around the features that agree, -1..1: the median of their blocks.

    Each block is aligned by the affine transform that fits its feature and the neighbours that it agrees with. `None`
    if no block lies in the tissue of both images.
    """
    height, width = first.values.shape
    side, wide = 2 * _HALF, 2 * (_HALF + _REACH)
    values = []
    for place in found.places:
        left, top = (round(float(value)) - _HALF for value in found.first[place])
        if min(left, top) < 0 or left + side > width or top + side > height:
            continue
        block = np.s_[top : top + side, left : left + side]
        if first.inside[block].mean() < _COVERED:
            continue
        fitted = _affine(found, int(place), (left - _REACH, top - _REACH))
        moved, inside = (
            cv2.warpAffine(image, fitted, (wide, wide), flags=interpolation | cv2.WARP_INVERSE_MAP)
            for image, interpolation in ((second.values, cv2.INTER_LINEAR), (second.inside, cv2.INTER_NEAREST))
        )
        if inside.mean() >= _COVERED:
            scores = cv2.matchTemplate(moved, np.ascontiguousarray(first.values[block]), cv2.TM_CCOEFF_NORMED)
            values.append(float(scores.max()))
    return float(np.median(values)) if values else None


def _affine(found: LocalMatch, place: int, origin: tuple[int, int]) -> NDArray[np.float64]:
    """Return the 2 x 3 map of pixels counted from `origin` in the first image to pixels of the second."""
    members = np.append(np.flatnonzero(found.near[place]), place)
    from_origin = np.c_[found.first[members] - np.array(origin), np.ones(len(members))]
    solution, *_ = np.linalg.lstsq(from_origin, found.second[members], rcond=None)
    return np.ascontiguousarray(solution.T, np.float64)
