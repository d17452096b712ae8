"""Finds the pectoral muscle of an oblique view: a bright wedge in the upper corner at the chest wall.

The search compares curves of one family, which run from the image's upper edge to the chest wall, by the step from
bright to dark across them. Around each of the best curves, a shortest path follows the real edge of the muscle. The
path with the strongest evidence wins. Where the evidence is weak, no muscle is reported: cutting into glandular tissue
is worse than leaving muscle in the image.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.pectoral_curves import LENGTH, Curves, candidate_curves
from mammopipe.processing.breast.working_copy import Grey, Mask

Floats = NDArray[np.float32]

REACH = 14
"""Greatest distance of the followed edge from its curve, in working pixels."""
BAND = 6
"""Width of the bands compared on both sides of an edge, in working pixels."""
SIDESTEP = 0.10
"""Cost of moving a path sideways by one working pixel; the strongest step gains 1."""
STRAY = 0.20
"""Cost of a point at the distance `REACH` from the curve; the strongest step gains 1."""
LARGEST_SHARE = 0.65
"""Largest share of the breast that is taken for muscle; a larger corner holds other tissue, too."""
EXCESS = 0.12
"""Least sum of the step at the muscle's edge and the muscle's excess in median grey over the tissue beside it."""
FREE_ROWS = 0.9
"""Least share of the rows of a muscle's upper half in which tissue lies between muscle and skin."""
NARROW = 0.22
"""A muscle is narrow if its width at the upper edge is less than this share of the breast's."""
FLARE = 2.0
"""Greatest usual ratio of an edge's slant in its uppermost quarter to its slant below."""
SMALL_SHARE = 0.20
"""Largest share of the breast that a muscle covers whose edge is clear in its upper half only."""
ROOM = 0.15
"""Least median distance of the upper half of a doubtful edge from the skin, as a share of the breast's width."""
FLATTEST = 0.15
"""Least slope, in columns per row, by which an edge is prolonged to the chest wall beyond its last point."""
SLANT = 0.06
"""Least slope of a muscle's edge, in columns per row: 3.4 degrees to the chest wall."""
STRIP = 0.20
"""Share of the breast's height over which the narrowing of a muscle is measured."""
STEADY = 0.35
"""A muscle becomes a strip where it narrows by less than this share of its average narrowing above."""
HALF = 0.04
"""Step in grey (0..1) that gains 0.5. Stronger steps gain little more, so vessels and scratches attract no path."""


@dataclass(frozen=True)
class Pectoral:
    """A pectoral muscle."""

    mask: Mask
    contrast: float
    """Mean step in grey across its edge, as a share of the brightest tissue (0..1)."""


@dataclass(frozen=True)
class _Edges:
    """Followed edges, one per row."""

    x: Floats
    y: Floats
    step: NDArray[np.float32]
    """Mean step in grey across each edge."""
    steady: NDArray[np.float32]
    """Share of each edge's points where the muscle's side is brighter."""
    excess: NDArray[np.float32]
    """Mean grey of the band on the muscle's side minus that of the band on the other side."""
    length: NDArray[np.float32]
    """Share of each edge's points with breast on both sides."""
    upper_step: NDArray[np.float32]
    """The same as `step` for the upper half of each edge."""
    upper_steady: NDArray[np.float32]
    """The same as `steady` for the upper half of each edge."""
    width: int
    """Columns of the breast."""

    def clear(self) -> NDArray[np.bool_]:
        """Return which edges are clear enough for a muscle; the limits were set on the 322 films of mini-MIAS."""
        clear = (self.step >= 0.04) & (self.steady >= 0.7) | (self.step >= 0.025) & (self.steady >= 0.88)
        # Gland that overlaps the muscle, or a narrow window that makes both white, hides a part of a strong edge.
        clear |= (self.step >= 0.06) & (self.steady >= 0.5) & (self.length >= 0.9) & (self.excess >= 0.10)
        clear |= (self.step >= 0.15) & (self.steady >= 0.6)
        return clear & (self.excess >= 0.05) & (self.length >= 0.25) & (self.upper_steady >= 0.75) & self._slants()

    def clear_above(self) -> NDArray[np.bool_]:
        """Return which edges are clear in their upper half; gland or a lack of fat hides the lower one."""
        faint = (self.upper_step >= 0.035) & (self.upper_steady >= 0.97) & (self.steady >= 0.75)
        hidden = (self.upper_step >= 0.08) & (self.upper_steady >= 0.9) & (self.steady >= 0.5)
        return (faint | hidden) & (self.length >= 0.25) & self._slants()

    def _slants(self) -> NDArray[np.bool_]:
        """Return which edges approach the chest wall downward; a bright strip along the chest wall is not muscle."""
        return np.asarray(self.x[:, 0] - self.x[:, -1] >= SLANT * (self.y[:, -1] - self.y[:, 0]))

    def strength(self) -> NDArray[np.float32]:
        """Return how strong, steady and long each edge is.

        A longer edge is less likely to belong to gland or fibres. Narrow muscles count less, because inner layers of
        the muscle and the edge of the exposure lie near the chest wall. Edges that turn outward at the top also count
        less, because they follow a fold of skin or the image's edge.
        """
        reach = np.hypot(np.diff(self.x, axis=1), np.diff(self.y, axis=1)).sum(axis=1)
        narrow = np.maximum(1 - self.x[:, 0] / (NARROW * self.width), 0)
        quarter = self.x.shape[1] // 4
        above = (self.x[:, 0] - self.x[:, quarter]) / np.maximum(self.y[:, quarter] - self.y[:, 0], 0.5)
        below = (self.x[:, quarter] - self.x[:, -1]) / np.maximum(self.y[:, -1] - self.y[:, quarter], 0.5)
        flare = np.maximum(above / np.maximum(below, 0.1) - FLARE, 0)
        strength = np.maximum(self.step, 0) ** 1.5 * self.steady * np.sqrt(self.length * reach)
        return np.asarray(strength / (1 + 12 * narrow**4) / (1 + 0.5 * flare), np.float32)


def find_pectoral(grey: Grey, mask: Mask, *, chest_left: bool) -> Pectoral | None:
    """Return the pectoral muscle, or `None` where the evidence for one is weak.

    Args:
        grey: The working copy, float32, (rows, columns), 0..1.
        mask: The breast, of the same shape.
        chest_left: Whether the chest wall is at the left.
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
    """Return the muscle in the upper left corner of a breast that fills the frame, or `None`.

    It has the strongest of the clear edges, or, if no edge is clear, the strongest edge with a clear upper half.
    """
    curves = candidate_curves(grey, mask)
    if not curves.x.size:
        return None  # the breast does not reach the upper corner
    edges = _followed(grey, mask, curves)
    strength = edges.strength()
    ranked = np.argsort(-strength)[: np.count_nonzero(strength)]
    clear, half_clear = edges.clear(), edges.clear_above()
    for index in (*ranked[clear[ranked]], *ranked[half_clear[ranked]]):
        muscle = mask & _inside(edges.x[index], edges.y[index], mask.shape)
        step = float(edges.step[index])
        if clear[index]:
            found = _stands_out(grey, mask, muscle, step) and (edges.length[index] >= 0.5 or _has_room(mask, muscle))
        else:
            found = np.count_nonzero(muscle) <= SMALL_SHARE * np.count_nonzero(mask) and _has_room(mask, muscle)
        if found:
            return Pectoral(_without_strip(muscle), step)
    return None


def _has_room(mask: Mask, muscle: Mask) -> bool:
    """Return whether the upper half of a muscle is far enough from the skin that its edge is not the skin's."""
    rows = np.flatnonzero(muscle.any(axis=1))
    if not rows.size:
        return False
    upper = np.s_[rows[0] : rows[rows.size // 2] + 1]
    room = mask[upper].sum(axis=1) - muscle[upper].sum(axis=1)
    return bool(np.median(room) >= ROOM * mask.shape[1])


def _without_strip(muscle: Mask) -> Mask:
    """Return the muscle without a strip along the chest wall below it.

    A muscle narrows steadily until its edge meets the chest wall. Where it stops narrowing, a strip continues to the
    lower fold: the edge of the exposure, skin, or dense tissue. From that row on, the muscle's edge is prolonged with
    its slope above.
    """
    rows = np.flatnonzero(muscle.any(axis=1))
    widths = np.minimum.accumulate(muscle[rows[0] : rows[-1] + 1].sum(axis=1))
    reach = round(STRIP * muscle.shape[0])
    if widths.size <= 2 * reach:
        return muscle
    narrowing = widths[:-reach] - widths[reach:]
    above = (widths[0] - widths[:-reach]) / np.maximum(np.arange(narrowing.size), 1) * reach
    steady = np.flatnonzero((narrowing < STEADY * above) & (widths[:-reach] < 0.6 * widths[0]))
    if not steady.size or steady[0] < reach:
        return muscle
    start = int(steady[0])
    slope = (widths[start - reach] - widths[start]) / reach
    limits = np.full(muscle.shape[0], np.inf)
    below = np.arange(muscle.shape[0] - rows[0] - start)
    limits[rows[0] + start :] = widths[start] - slope * below
    return muscle & (np.arange(muscle.shape[1]) < limits[:, None])


def _stands_out(grey: Grey, mask: Mask, muscle: Mask, step: float) -> bool:
    """Return whether a muscle is brighter than the breast beside it; a larger muscle needs a clearer edge.

    Dense tissue has long steady edges, too, but both sides of such an edge are equally bright.
    """
    share = np.count_nonzero(muscle) / np.count_nonzero(mask)
    if not 0 < share <= LARGEST_SHARE or step < 0.10 * (share - 0.25) + 0.04 * (share > 0.25):
        return False
    ends = muscle.shape[1] - muscle[:, ::-1].argmax(axis=1)
    across = np.arange(mask.shape[1])[None, :] - ends[:, None]
    beside = (across >= 1) & (across < 0.25 * mask.shape[1]) & mask & muscle.any(axis=1, keepdims=True)
    if not beside.any():
        return False
    if np.median(grey[muscle]) - np.median(grey[beside]) + step >= EXCESS:
        return True
    # Gland often overlaps the muscle's lower part; beside its upper half lies fat, between muscle and skin.
    rows = np.flatnonzero(muscle.any(axis=1))
    upper = np.s_[rows[0] : rows[rows.size // 2] + 1]
    if beside[upper].any(axis=1).mean() < FREE_ROWS:
        return False
    return bool(np.median(grey[upper][muscle[upper]]) - np.median(grey[upper][beside[upper]]) + step >= EXCESS)


def _followed(grey: Grey, mask: Mask, curves: Curves) -> _Edges:
    """Return, for each curve, the path along the strongest steps near it, and the evidence along the path."""
    across = np.arange(-REACH - BAND, REACH + BAND + 1, dtype=np.float32)
    count = curves.x.shape[0]
    x = curves.x[:, :, None] + curves.normal_x[:, :, None] * across
    y = curves.y[:, :, None] + curves.normal_y[:, :, None] * across
    shape = (count * LENGTH, across.size)
    where = x.reshape(shape).astype(np.float32), y.reshape(shape).astype(np.float32)
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    strip = np.asarray(cv2.remap(smooth, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
    strip = strip.reshape(x.shape)
    inside = cv2.remap(mask.astype(np.uint8), *where, cv2.INTER_NEAREST, borderValue=0).reshape(x.shape) > 0
    step, valid = _steps(strip, inside)
    offsets = np.arange(-REACH, REACH + 1)
    gain = np.where(valid, step / (np.abs(step) + HALF), 0) - STRAY * (offsets / REACH) ** 2
    path = cv2.GaussianBlur(
        _paths(gain.astype(np.float32)).astype(np.float32),
        (0, 1),
        sigmaX=4.0,
        sigmaY=0.1,
        borderType=cv2.BORDER_REPLICATE,
    )
    at = np.rint(path).astype(np.intp)[:, :, None] + REACH
    on = np.take_along_axis(valid, at, axis=2)[:, :, 0]
    steps = np.where(on, np.take_along_axis(step, at, axis=2)[:, :, 0], 0)
    points = np.maximum(on.sum(axis=1), 1)
    upper, upper_points = steps[:, : LENGTH // 2], np.maximum(on[:, : LENGTH // 2].sum(axis=1), 1)
    return _Edges(
        x=curves.x + curves.normal_x * path,
        y=curves.y + curves.normal_y * path,
        step=(steps.sum(axis=1) / points).astype(np.float32),
        steady=((steps > 0.01).sum(axis=1) / points).astype(np.float32),
        excess=_excess(strip, at, on),
        length=(on.mean(axis=1)).astype(np.float32),
        upper_step=(upper.sum(axis=1) / upper_points).astype(np.float32),
        upper_steady=((upper > 0.01).sum(axis=1) / upper_points).astype(np.float32),
        width=mask.shape[1],
    )


def _steps(strip: Floats, inside: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the step from bright to dark at each offset of each point, and whether both sides are breast."""
    half, size = BAND // 2, 2 * REACH + 1
    sums = np.concatenate([np.zeros_like(strip[:, :, :1]), np.cumsum(strip, axis=2)], axis=2)
    centre = np.arange(size) + BAND
    bright = (sums[:, :, centre] - sums[:, :, centre - half]) / half
    dark = (sums[:, :, centre + 1 + half] - sums[:, :, centre + 1]) / half
    return bright - dark, inside[:, :, centre - half - 1] & inside[:, :, centre + BAND]


def _excess(strip: Floats, at: NDArray[np.intp], on: NDArray[np.bool_]) -> Floats:
    """Return each edge's mean grey of the band on the muscle's side minus that of the band on the other side."""
    offsets = np.arange(2, BAND + 1)
    bright = np.take_along_axis(strip, at + BAND - offsets, axis=2).mean(axis=2)
    dark = np.take_along_axis(strip, at + BAND + offsets, axis=2).mean(axis=2)
    return np.asarray(((bright - dark) * on).sum(axis=1) / np.maximum(on.sum(axis=1), 1), np.float32)


def _paths(gain: Floats) -> NDArray[np.intp]:
    """Return, for each curve (first axis), the offsets of the path with the highest sum of gains.

    A sidestep of one pixel between neighbouring points costs `SIDESTEP`; larger sidesteps are not allowed.
    """
    count, points, size = gain.shape
    total = gain[:, 0].copy()
    moves = np.zeros((count, points, size), np.int8)
    padded = np.full((count, size + 2), -np.inf, np.float32)
    for point in range(1, points):
        padded[:, 1:-1] = total
        left, right = padded[:, :-2] - SIDESTEP, padded[:, 2:] - SIDESTEP
        straight = np.maximum(left, total)
        moves[:, point] = np.where(right > straight, 1, np.where(left >= total, -1, 0))
        total = np.maximum(straight, right) + gain[:, point]
    path = np.zeros((count, points), np.intp)
    path[:, -1] = total.argmax(axis=1)
    every = np.arange(count)
    for point in range(points - 1, 0, -1):
        path[:, point - 1] = path[:, point] + moves[every, point, path[:, point]]
    return path - REACH


def _inside(x: Floats, y: Floats, shape: tuple[int, ...]) -> Mask:
    """Return the region on the muscle's side of an edge, prolonged to the chest wall and to the image's upper edge."""
    first, last = _prolonged(x[:8], y[:8], start=True), _prolonged(x[-24:], y[-24:], start=False)
    corner = np.array([[-1.0, max(last[1], float(y[-1]))], [-1.0, -1.0], [first[0], -1.0]])
    outline = np.concatenate([corner, [first], np.stack([x, y], axis=1), [last]])
    shift = 4
    fixed = np.rint(outline * 2**shift).astype(np.int32)
    return cv2.fillPoly(np.zeros(shape, np.uint8), [fixed], 1, shift=shift) > 0


def _prolonged(x: Floats, y: Floats, *, start: bool) -> tuple[float, float]:
    """Return the end of the prolonged edge: at the image's upper edge (y = -1) or at the chest wall (x = -1)."""
    run, fall = float(x[-1] - x[0]), max(float(y[-1] - y[0]), 1e-3)
    if start:
        return float(x[0]) - run / fall * (float(y[0]) + 1), -1.0
    slant = max(-run / fall, FLATTEST)
    return -1.0, float(y[-1]) + (float(x[-1]) + 1) / slant
