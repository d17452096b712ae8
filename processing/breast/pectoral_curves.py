"""A family of curves that resemble a pectoral muscle's edge, and the search for the best ones in an image."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.working_copy import Grey, Mask

Floats = NDArray[np.float32]

GRID = (96, 64)
"""Rows and columns of the grid on which curves are compared; it covers the breast's bounding box."""
WIDTHS = np.linspace(0.12, 1.50, 29)
"""Distance from the chest wall at which a curve leaves the upper edge, in widths of the box."""
HEIGHTS = np.concatenate([np.linspace(0.16, 1.0, 22), [1.1, 1.25, 1.5, 2.0]])
"""Distance from the upper edge at which a curve reaches the chest wall, in heights of the box."""
POWERS = (0.85, 1.0, 1.25)
"""Exponents of a curve, `x = width (1 - y / height) ** power`: below 1 it bulges into the breast."""
LENGTH = 64
"""Points of a curve when it is followed."""
SAMPLES = 24
"""Points of a curve when curves are compared."""
STEEPEST = 0.03
"""Grey (0..1) per grid cell to which steps are limited, so that no single vessel or scratch decides for a curve."""
CANDIDATES = 12
"""Number of curves of the whole breast that are followed."""
CORNER = 0.45
"""Share of the box's height and width that is searched again, on a grid of its own, for narrow and small muscles."""
CORNER_CANDIDATES = 5
"""Number of curves of this corner that are followed."""
LARGEST_SHARE = 0.48
"""Largest share of the box on a curve's inner side; a larger corner holds other tissue, too."""


@dataclass(frozen=True)
class Curves:
    """Curves in pixels of the box, from the upper edge to the chest wall, with their normals into the breast."""

    x: Floats
    """(curves, points)"""
    y: Floats
    normal_x: Floats
    normal_y: Floats

    def joined(self, other: "Curves") -> "Curves":
        """Return these curves, followed by those of another search."""
        pairs = (
            (self.x, other.x),
            (self.y, other.y),
            (self.normal_x, other.normal_x),
            (self.normal_y, other.normal_y),
        )
        return Curves(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class _Family:
    """All curves, each with the same number of points, in cells of the grid."""

    at: NDArray[np.intp]
    """(curves, points): flat index of each point's grid cell."""
    normal_x: Floats
    normal_y: Floats
    weight: Floats
    """Length of the piece of curve that each point represents."""
    parameters: Floats
    """(curves, 3): width, height, power."""
    drawn: Floats
    """(2, curves, LENGTH): x and y of the points along which a curve is followed, as shares of the box's size."""


def candidate_curves(grey: Grey, mask: Mask) -> Curves:
    """Return the curves with the strongest steady step from bright (upper left) to dark.

    Args:
        grey: The breast's bounding box, chest wall at the left, float32, (rows, columns), 0..1.
        mask: The breast, of the same shape.
    """
    corner = np.s_[: max(1, round(CORNER * grey.shape[0])), : max(1, round(CORNER * grey.shape[1]))]
    family = _family()
    whole = _best_curves(grey, mask, CANDIDATES, np.ones(len(family.parameters), np.bool_))
    # A curve that leaves the corner at its lower edge is one of the whole breast.
    return whole.joined(_best_curves(grey[corner], mask[corner], CORNER_CANDIDATES, family.parameters[:, 1] <= 1))


def _best_curves(grey: Grey, mask: Mask, count: int, allowed: Mask) -> Curves:
    """Return at most `count` of the allowed curves of the family, best first."""
    family = _family()
    small = cv2.resize(grey, GRID[::-1], interpolation=cv2.INTER_AREA)
    inside = np.asarray(cv2.resize(mask.astype(np.uint8), GRID[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    smooth = cv2.GaussianBlur(small, (0, 0), 1.5)
    right, down = (-cv2.Sobel(smooth, cv2.CV_32F, *way, scale=0.125).ravel() for way in ((1, 0), (0, 1)))
    valid = _interior(inside, 5).ravel()[family.at] * family.weight
    step = right[family.at] * family.normal_x + down[family.at] * family.normal_y
    length_inside = valid.sum(axis=1)
    total = (np.clip(step, -STEEPEST, STEEPEST) * valid).sum(axis=1)
    score = np.where(allowed & (length_inside > 0.15 * GRID[0]), total / np.sqrt(np.maximum(length_inside, 1.0)), -1.0)
    score = score * _prior(family.parameters)
    return _drawn(family.drawn[:, _distinct(score, family.parameters, count)], mask.shape)


@cache
def _family() -> _Family:
    """Return the family of curves, which is the same for every image."""
    parameters = np.array(
        [(w, h, p) for w in WIDTHS for h in HEIGHTS for p in POWERS if _share(w, h, p) < LARGEST_SHARE]
    )
    x, y = _points(parameters, SAMPLES)
    x, y = x * GRID[1], y * GRID[0]
    normal_x, normal_y = _normals(x, y)
    weight = np.hypot(np.gradient(x, axis=1), np.gradient(y, axis=1))
    on = (x < GRID[1]) & (y < GRID[0])
    at = np.minimum(y.astype(np.intp), GRID[0] - 1) * GRID[1] + np.minimum(x.astype(np.intp), GRID[1] - 1)
    drawn = np.stack(_points(parameters, LENGTH))
    return _Family(at, *(part.astype(np.float32) for part in (normal_x, normal_y, weight * on, parameters, drawn)))


def _share(width: float, height: float, power: float) -> float:
    """Return the share of the box on a curve's inner side."""
    y = np.linspace(0, 1, 41)
    return float(np.minimum(width * np.maximum(1 - y / height, 0) ** power, 1).mean())


def _points(parameters: NDArray[np.floating], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y (curves, count) of points at about equal distances, as shares of the box's size."""
    width, height, power = (parameters[:, index, None].astype(np.float64) for index in range(3))
    fine = np.linspace(0, 1, 4 * count)[None, :]
    y = fine * np.minimum(height, 1.0)
    x = width * np.maximum(1 - y / height, 0) ** power
    way = np.concatenate([np.zeros((len(x), 1)), np.cumsum(np.hypot(np.diff(x), np.diff(y)), axis=1)], axis=1)
    wanted = np.linspace(0, 1, count)
    spread = [np.interp(wanted * along[-1], along, np.arange(4 * count)) for along in way]
    return tuple(  # type: ignore[return-value]
        np.stack([np.interp(at, np.arange(4 * count), row) for at, row in zip(spread, values, strict=True)])
        for values in (x, np.broadcast_to(y, x.shape))
    )


def _normals(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the unit normals that point into the breast: to the right and down."""
    run, fall = np.gradient(x, axis=1), np.gradient(y, axis=1)
    size = np.maximum(np.hypot(run, fall), 1e-9)
    return fall / size, -run / size


def _prior(parameters: Floats) -> Floats:
    """Return how typical each curve is, up to 1: muscles end in the middle half of the breast's height."""
    width, height, _ = parameters.T
    tall = np.maximum(height - 0.85, 0) / 0.6
    low = np.maximum(0.30 - height, 0) / 0.3
    slim = np.maximum(0.22 - width, 0) / 0.22
    return np.asarray(1 / (1 + tall**2 + low**2 + slim**2), np.float32)


def _interior(inside: NDArray[np.uint8], depth: int) -> Floats:
    """Return 1 where the cells `depth` further right and below are breast, else 0: without the skin's strong edge."""
    result = np.zeros(inside.shape, np.float32)
    result[:-depth, :-depth] = inside[depth:, depth:] & inside[:-depth, depth:] & inside[:-depth, :-depth]
    result[:, :2] = 0  # The copy's blur darkens the image's edge.
    return result


def _distinct(score: Floats, parameters: Floats, count: int) -> list[int]:
    """Return the indices of at most `count` of the best curves; curves close to a better one are left out."""
    chosen: list[int] = []
    left = score.copy()
    while len(chosen) < count:
        best = int(left.argmax())
        if left[best] <= 0:
            break
        chosen.append(best)
        near = np.abs(parameters[:, :2] - parameters[best, :2])
        left[(near[:, 0] < 0.11) & (near[:, 1] < 0.10)] = -1
    return chosen


def _drawn(points: Floats, shape: tuple[int, ...]) -> Curves:
    """Return the curves in pixels of a box of shape `shape`."""
    # In pixel centres; a curve that leaves the box at its side continues outside the box.
    x, y = points[0] * shape[1] - 0.5, points[1] * shape[0] - 0.5
    normal_x, normal_y = _normals(x, y)
    return Curves(*(part.astype(np.float32) for part in (x, y, normal_x, normal_y)))
