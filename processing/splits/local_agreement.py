"""Recognises deformed copies of an image: features that agree place by place, where no one transform fits them all.

An elastic deformation moves the parts of an image against each other, but neighbouring features keep their distances,
as in grid-based motion statistics (J. Bian et al. 2017, CVPR). Two images show the same original if many features,
spread over the breast, agree with several neighbours, and if the fine detail between the features lies where the
features place it. Detail at the features proves nothing, because features match only where images are alike. If
different images share one structure, such as a star of spicules, their features agree in it, but the detail around it
does not.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.splits.near_duplicates import Features
from mammopipe.processing.splits.pixel_confirmation import Confirmation, Detail, Range

LOCALLY_ALIKE = 18
"""Least number of features that agree with their neighbours if two images show the same original.

Measured on mini-MIAS at 384 x 240 pixels: of 9,000 pairs of different images, as they are and mirrored, two have more
than 15, with correlations of at most 0.58; of 12,000 pairs of phantoms none has more than 10.
"""
LEAST_HEIGHT = 192
"""Least height, in pixels, of images that are compared place by place. A lower image has no fine detail at the height
at which images are compared: its smooth patterns, moved a few pixels and deformed, fit those of other images."""
_SPREAD = 2000.0
"""Least area, in square pixels, of the hull of these features. Measured: 1,100 for one structure that different images
shared (a phantom's star of spicules), and at least 2,700 for films deformed elastically by 4 %."""
_BITS = 48
"""Greatest number of the 256 bits in which the descriptors of two matching features differ."""
_NEAR, _APART = 60.0, 4.0
"""Greatest and least distance of neighbours, in pixels; nearer features are one place at two scales."""
_CHANGE, _TOLERANCE = 0.35, 2.0
"""Greatest change of the vector to a neighbour: a share of its length, plus a number of pixels."""
_NEIGHBOURS = 5
"""Number of neighbours that a feature must agree with."""
_AROUND, _BESIDE = 40.0, 10.0
"""Greatest and least distance, in pixels, of a compared place from the features that place it."""
_MEMBERS = 6
"""Number of features that place it."""
_STEP, _HALF = 12, 12
"""Distance of compared places from each other, and half of the side of the block around each, in pixels."""
_REACH, _ELSEWHERE = 6, 18
"""Greatest movement of a block, and distance of the eight other positions where it is sought, in pixels."""
_RIGID = 2000.0
"""Weight of a shift without turn or stretch beside the features, in square pixels."""
_COVERED = 0.95
"""Least share of a block that is tissue."""
_LEAST_PLACES = 8
"""Least number of compared places; fewer give no share."""
_DIFFERENT_FEATURES, _DIFFERENT_PAIRS = 6, 200
"""Pairs that are not alike but have at least this number of agreeing features give the distribution of different
images; and the greatest number of such pairs that are measured."""
FITTING = Range(least=0.5, most=0.6, mean=0.25, deviation=0.12)
"""Share of places that fit: limits for images of the same original, and the distribution of different images.

Measured: 0.55 to 0.75 between mini-MIAS films and copies deformed by 4 %; mean 0.24 and deviation 0.12 between
different films or phantoms with 6 to 21 agreeing features. By chance it is one in nine.
"""


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
        if self.agreeing < LOCALLY_ALIKE:
            return False
        hull = cv2.convexHull(np.asarray(self.first[self.places], np.float32))
        return float(cv2.contourArea(hull)) >= _SPREAD


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


def deformed_pairs(
    pairs: Sequence[tuple[str, str]],
    seen: Mapping[str, Features],
    shown: Callable[[str], Detail],
    pool: ThreadPoolExecutor,
) -> tuple[dict[int, str], Confirmation]:
    """Return which pairs show one original deformed, with the reason by the pair's index, and how that was decided.

    Args:
        pairs: Names of images.
        seen: The features by name.
        shown: Returns the fine detail of an image by its name.
        pool: Threads for the comparison.
    """
    matches = list(pool.map(lambda pair: local_match(seen[pair[0]], seen[pair[1]]), pairs))
    alike = [place for place, found in enumerate(matches) if found.alike]
    other = [place for place, found in enumerate(matches) if _DIFFERENT_FEATURES <= found.agreeing and not found.alike]
    other = other[:: -(-len(other) // _DIFFERENT_PAIRS) or 1]

    def fitting(place: int) -> float | None:
        first, second = pairs[place]
        return fitting_places(shown(first), shown(second), matches[place])

    shares = list(pool.map(fitting, [*alike, *other]))
    different = [share for share in shares[len(alike) :] if share is not None]
    confirmation = Confirmation.of(different, len(alike), FITTING)
    return {
        place: f"{matches[place].agreeing} features agree place by place, different images have fewer than "
        f"{LOCALLY_ALIKE}, and {share:.0%} of the places between them fit"
        for place, share in zip(alike, shares, strict=False)
        if share is not None and share >= confirmation.limit
    }, confirmation


def fitting_places(first: Detail, second: Detail, found: LocalMatch) -> float | None:
    """Return the share (0..1) of the places between the features whose detail fits best where the features place it.

    A block around each place is sought in the second image: where the shift and the deformation of the nearest features
    place it, and at eight positions around. `None` if too few places lie between features and in the tissue of both.
    """
    height, width = first.values.shape
    source, target = found.first[found.places], found.second[found.places]
    fits = []
    for y in range(_HALF, height - _HALF, _STEP):
        for x in range(_HALF, width - _HALF, _STEP):
            block = np.s_[y - _HALF : y + _HALF, x - _HALF : x + _HALF]
            away = np.hypot(source[:, 0] - x, source[:, 1] - y)
            near = np.argsort(away, kind="stable")[:_MEMBERS]
            if (
                len(near) < _NEIGHBOURS
                or away[near[0]] <= _BESIDE
                or away[near[_NEIGHBOURS - 1]] >= _AROUND
                or first.inside[block].mean() < _COVERED
            ):
                continue
            near = near[away[near] < _AROUND]
            scores = _scores(first.values[block], second, _placed(source[near] - (x, y), target[near]))
            if scores is not None:
                fits.append(int(scores.argmax()) == scores.size // 2)
    return float(np.mean(fits)) if len(fits) >= _LEAST_PLACES else None


def _scores(block: NDArray[np.float32], image: Detail, placed: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return how well a block fits at nine positions, (3, 3), in the middle where it is placed.

    The result is `None` if the block is not placed on tissue.
    """
    middle = _HALF + _REACH + _ELSEWHERE
    placed = np.c_[placed[:, :2], placed[:, 2] - placed[:, :2] @ (middle, middle)]
    moved, inside = (
        cv2.warpAffine(each, placed, (2 * middle, 2 * middle), flags=interpolation | cv2.WARP_INVERSE_MAP)
        for each, interpolation in ((image.values, cv2.INTER_LINEAR), (image.inside, cv2.INTER_NEAREST))
    )
    if inside[_ELSEWHERE:-_ELSEWHERE, _ELSEWHERE:-_ELSEWHERE].mean() < _COVERED:
        return None
    fit = cv2.matchTemplate(moved, np.ascontiguousarray(block), cv2.TM_CCOEFF_NORMED)
    shifts, side = (0, _ELSEWHERE, 2 * _ELSEWHERE), 2 * _REACH + 1
    return np.array([[fit[down : down + side, right : right + side].max() for right in shifts] for down in shifts])


def _placed(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 2 x 3 map from `source`, (n, 2), to `target`, (n, 2), by least squares.

    A pure shift is added with the weight `_RIGID`, so that a few features hardly turn or stretch the map.
    """
    rigid = np.sqrt(_RIGID) * np.eye(3)[:2]
    known = np.r_[np.c_[source, np.ones(len(source))], rigid]
    solution, *_ = np.linalg.lstsq(known, np.r_[target, rigid[:, :2]], rcond=None)
    return np.asarray(solution.T, np.float64)
