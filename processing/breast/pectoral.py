"""The pectoral muscle of an oblique view: a bright wedge in the upper corner at the chest wall, its edge near-straight.

First the best straight edge is sought among all lines that cut off the corner, then a shortest path through the
gradient around that line follows the muscle's real, slightly curved border. Weak evidence means no muscle: cutting into
glandular tissue is worse than leaving muscle in.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Grey = NDArray[np.float32]

ANGLES = np.radians(np.arange(4.0, 64.0, 4.0))
"""Angles between the muscle's edge and the vertical: oblique films show 10 to 45 degrees, tilted ones more."""
SEARCH_SIZE = 112
"""Pixels of the longer side of the copy on which the straight edge is sought."""
STEEPEST = 0.03
"""Grey (0..1) per search pixel: a steeper step counts no more, so that no single vessel or scratch carries a line."""
SHEAR = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
SIDESTEP = 0.004
"""What one column to the side costs a path, in the units of its gain."""
CANDIDATES = 8
"""Lines that are followed before the muscle is given up."""
LARGEST_SHARE = 0.42
"""Share of the breast: a larger corner is not muscle alone."""


@dataclass(frozen=True)
class Pectoral:
    """A muscle that was found."""

    mask: Mask
    contrast: float
    """Mean step in grey (0..1) across its edge, in units of the brightest tissue."""


@dataclass(frozen=True)
class _Line:
    """The edge `x = top - slope * y`, in pixels of the search copy."""

    top: float
    slope: float
    score: float


@dataclass(frozen=True)
class _Evidence:
    """What speaks for a muscle on the inner side of an edge."""

    step: float
    """Mean step in grey across the edge."""
    steady: float
    """Share of rows where the muscle's side is the brighter."""
    excess: float
    """How much brighter the muscle is as a whole than the breast beside it (medians)."""

    @property
    def enough(self) -> bool:
        """Whether it is a muscle; the limits were set on the 322 films of mini-MIAS."""
        return self.step >= 0.04 and self.steady >= 0.7 and self.excess >= 0.10


def find_pectoral(grey: Grey, mask: Mask, *, chest_left: bool) -> Pectoral | None:
    """Return the pectoral muscle (mask of the shape of `mask`), or `None` when the evidence for one is weak.

    `grey` is 0..1.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    turn = slice(None) if chest_left else slice(None, None, -1)
    local = _in_corner(np.ascontiguousarray(grey[box][:, turn]), np.ascontiguousarray(mask[box][:, turn]))
    if local is None:
        return None
    whole = np.zeros_like(mask)
    whole[box] = local.mask[:, turn]
    return Pectoral(whole & mask, local.contrast)


def _in_corner(grey: Grey, mask: Mask) -> Pectoral | None:
    """Seek the muscle at the upper left of a breast that fills the frame."""
    scale = min(1.0, SEARCH_SIZE / max(mask.shape))
    size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)
    inside = np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), np.uint8)
    smooth = _blurred(small, 1.0)
    for line in _lines(_blurred(small, 1.5), inside)[:CANDIDATES]:
        edge = _follow(smooth, inside, line)
        evidence = _evidence(small, inside, edge)
        if evidence.enough:
            return Pectoral(mask & _left_of(edge, size, mask.shape), evidence.step)
    return None


def _left_of(edge: NDArray[np.float64], size: tuple[int, int], shape: tuple[int, ...]) -> Mask:
    """Return which pixels of the breast lie on the muscle's side of an edge that was followed on a copy of `size`."""
    heights = (np.arange(shape[0]) + 0.5) * size[1] / shape[0] - 0.5
    limit = (np.interp(heights, np.arange(edge.size), edge) + 0.5) * shape[1] / size[0] - 0.5
    return np.asarray(np.arange(shape[1])[None, :] <= limit[:, None])


def _blurred(grey: Grey, sigma: float) -> Grey:
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), sigma), np.float32)


def _falls(grey: Grey) -> tuple[Grey, Grey]:
    """Return how much darker it gets per pixel to the right and downwards."""
    right = -np.asarray(cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=0.125), np.float32)
    return right, -np.asarray(cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=0.125), np.float32)


def _interior(inside: NDArray[np.uint8], depth: int) -> Grey:
    """Return 1 where there is breast `depth` pixels to the right and below: not at the skin, the strongest edge."""
    result = np.zeros(inside.shape, np.float32)
    result[:-depth, :-depth] = inside[depth:, depth:] & inside[:-depth, depth:] & inside[:-depth, :-depth]
    return result


def _lines(grey: Grey, inside: NDArray[np.uint8]) -> list[_Line]:
    """Return for each angle the line with the strongest steady step from bright (upper left) to dark, best first."""
    height, width = grey.shape
    first = round(0.08 * width)
    area = inside.cumsum(axis=1, dtype=np.float32) / max(int(inside.sum()), 1)
    beyond = ((0, 0), (0, width))
    steps = [np.pad(layer, beyond) for layer in (*_falls(grey), _interior(inside, 8))]
    layers = cv2.merge([*steps, np.pad(area, beyond, mode="edge")])
    found = []
    for angle in ANGLES.tolist():
        slope = math.tan(angle)
        # An edge that starts further to the chest's far side would leave the breast below its lower end.
        tops = np.arange(first, min(round(1.6 * width), math.ceil(0.95 * slope * height)))
        if not tops.size:
            continue
        shear, size = np.array([[1, -slope, first], [0, 1, 0]]), (tops.size, height)
        sheared = cv2.warpAffine(layers, shear, size, flags=SHEAR)
        right, down, valid, share = (sheared[..., index] for index in range(4))
        step = np.clip(right * math.cos(angle) + down * math.sin(angle), -STEEPEST, STEEPEST) * valid
        length = valid.sum(axis=0) / math.cos(angle)
        possible = (length > 0.15 * height) & (share.sum(axis=0) < LARGEST_SHARE)
        score = np.where(possible, step.sum(axis=0) / math.cos(angle) / np.sqrt(np.maximum(length, 1)), -1)
        index = int(score.argmax())
        if score[index] > 0:
            found.append(_Line(float(tops[index]), slope, float(score[index])))
    return sorted(found, key=lambda line: -line.score)


def _follow(grey: Grey, inside: NDArray[np.uint8], line: _Line, reach: int = 5) -> NDArray[np.float64]:
    """Return for each row the column of the muscle's edge: a smooth path of strong steps at most `reach` from the line.

    Below the row where the path leaves the breast at the chest wall there is no muscle: -1.
    """
    rows = np.arange(min(grey.shape[0], int((line.top + reach) / line.slope) + 2))
    straight = line.top - line.slope * rows
    offsets = np.arange(-reach, reach + 1)
    x = np.rint(straight[:, None] + offsets).astype(np.intp)
    on = (x >= 0) & (x < grey.shape[1])
    x = np.clip(x, 0, grey.shape[1] - 1)
    right, down = _falls(grey)
    step = ((right + line.slope * down) * _interior(inside, 4) / np.hypot(1, line.slope))[rows[:, None], x]
    gain = np.where(on, step / (1 + np.abs(step) / STEEPEST), 0) - 0.0004 * offsets**2
    path = offsets[_path(gain)].astype(np.float64)[:, None]
    edge = np.full(grey.shape[0], -1.0)
    edge[: rows.size] = straight + cv2.GaussianBlur(path, (1, 13), 3.0)[:, 0]
    edge[int(np.flatnonzero(np.append(edge, -1.0) < 0)[0]) :] = -1
    return edge


def _path(gain: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the column of each row on the way down with the highest sum; a sidestep of one column costs a little."""
    rows = gain.tolist()
    # Eleven columns a row: Python's own numbers are four times as fast here as arrays.
    total, last, back = rows[0], len(rows[0]) - 1, []
    for row in rows[1:]:
        sums, moves = [], []
        for column, here in enumerate(row):
            best, move = total[column], column
            if column and total[column - 1] - SIDESTEP >= best:
                best, move = total[column - 1] - SIDESTEP, column - 1
            if column < last and total[column + 1] - SIDESTEP > best:
                best, move = total[column + 1] - SIDESTEP, column + 1
            sums.append(best + here)
            moves.append(move)
        total = sums
        back.append(moves)
    path = [total.index(max(total))]
    for moves in reversed(back):
        path.append(moves[path[-1]])
    return np.array(path[::-1], np.intp)


def _evidence(grey: Grey, inside: NDArray[np.uint8], edge: NDArray[np.float64]) -> _Evidence:
    """Measure the edge where both its sides lie in the breast."""
    height, width = grey.shape
    rows, columns = np.arange(height), np.rint(edge).astype(np.intp)
    on = (columns >= 1) & (columns + 4 < width)
    on &= (inside[rows, np.clip(columns - 1, 0, width - 1)] & inside[rows, np.clip(columns + 4, 0, width - 1)]) > 0
    if on.sum() < 0.09 * height:
        return _Evidence(0, 0, 0)
    rows, columns = rows[on], columns[on]
    bright = np.mean([grey[rows, np.maximum(columns - k, 0)] for k in (1, 2, 3)], axis=0)
    dark = np.mean([grey[rows, columns + k] for k in (2, 3, 4)], axis=0)
    across = np.arange(width)[None, :] - edge[:, None]
    muscle = (across <= -1) & (inside > 0)
    beside = (across > 1) & (across <= 0.25 * width) & (inside > 0) & muscle.any(axis=1, keepdims=True)
    excess = float(np.median(grey[muscle]) - np.median(grey[beside])) if muscle.any() and beside.any() else 0.0
    return _Evidence(float((bright - dark).mean()), float((bright > dark).mean()), excess)
