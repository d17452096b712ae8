"""The grey level that separates tissue from air, on digital detectors and on digitised film.

Most detectors blacken the image outside the breast. There the air is exactly black (or, after an inversion, another
single darkest value), and everything brighter is tissue. Fat may be as dark as 2 % of the full scale.

A digitised film, a detector that does not blacken the air, and a collimated field show fog or noise up to the edge of
a rectangle. There exact black is padding, the air is the lowest peak of the histogram, and tissue begins where that
peak ends. The shape distinguishes the two cases: fog ends at a straight edge, skin does not.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.objects import by_size
from mammopipe.processing.breast.working_copy import Grey, Mask

BLACK = 0.0015
"""Grey (0..1) up to which a pixel of the smoothed copy counts as exactly black: less than half a step of 8 bits."""
SPECK = 0.004
"""Grey up to which a pixel of the working copy may owe its brightness to a neighbour that is not black."""
FAINTEST_TISSUE = 0.006
"""Lowest grey of tissue where the air is exactly black: 1.5 steps of 8 bits."""
FILLED = 0.965
"""Pixels that are not black form a rectangle if they fill more than this share of their enclosing rectangle."""
SPECKS = 0.0015
"""Least share of specks on a digitised film: at least 0.002 on mini-MIAS, 0.000 on detectors."""
STRIP = 17
"""Narrower objects are strips: tape or a scanner's border. In working pixels."""
FAINT_AIR = 0.08
"""Pixels that are nearly but not exactly black are the air if they cover more than this share of the image."""
FINE = 1 / 1020
"""Grey of one step of the fine histogram: a quarter of a step of 8 bits."""
NEAR_FAT = 0.10
"""The second peak is searched up to this grey above the air."""
FAT_SHARE = 0.03
"""A second peak must hold more than this share of the image."""
BOTH_SIDES = 0.05
"""Fat touches only the chest wall's side of the image; at the other side it covers less than this share of the rows."""
DEPTH = 4.0
"""The gap must be this many times lower than both peaks beside it."""
LEAST_OUTSIDE = 0.001
"""Least share of the image outside the breast from which to judge whether it is air."""
FLAT = 0.02
"""Greatest median slope of air per working pixel, as a share of the threshold: up to 0.014 in air, 0.03 in fat."""
ROUGH = 1.2
"""Greatest ratio of an outline's length to its convex hull's beside flat air; a rougher outline is not skin."""
SMOOTH = 1.12
"""Up to this ratio of lengths an outline is skin whatever lies outside: at most 1.08 on mini-MIAS; glands have 1.4."""
STRAIGHT = 0.5
"""An edge is straight if more than this share of the rows ends at one column or its neighbours."""


@dataclass(frozen=True)
class Air:
    """The background of an image: its grey level, and the threshold between it and tissue."""

    level: float
    """Grey of the air (0..1)."""
    threshold: float
    """Grey above which a pixel is tissue."""
    blackened: bool
    """Whether the air is exactly black, as most detectors write it."""
    fog: bool
    """Whether the air is the fog of a film, which changes gradually into skin."""
    field: tuple[int, int]
    """Columns of padding left and right of the exposed field; (0, 0) where the air is exactly black."""


BLACKENED = Air(0.0, FAINTEST_TISSUE, blackened=True, fog=False, field=(0, 0))
"""The background that a detector writes, or that of an image without air: what is not exactly black is tissue."""


def find_air(grey: Grey) -> Air:
    """Return the background's levels of a working copy (float32, rows x columns, 0..1)."""
    lit = _largest(cv2.GaussianBlur(grey, (0, 0), 1.2) > BLACK)
    left, right = empty_columns(grey > SPECK)
    if not _is_rectangle(lit) and not _has_straight_sides(lit) and _specks(grey) < SPECKS:
        return BLACKENED
    exposed = grey[:, left : grey.shape[1] - right]
    level, threshold = _lowest_peak(exposed)
    valley = _valley(exposed, level)
    # Where the air is as dark as the padding, the image does not show where the padding ends.
    padding = (0, 0) if valley is not None and level == 0 else (left, right)
    return Air(level, valley or threshold, blackened=False, fog=valley is None, field=padding)


def is_air(grey: Grey, mask: Mask, air: Air) -> bool:
    """Return whether the region outside the breast is air.

    It is air if the outline is very smooth, or if the outline is smooth and the region is flat.

    Where the breast fills the image, fat forms the lowest peak of the histogram. Fat is then mistaken for air, and the
    mask holds only the glands, whose outline is rough.
    """
    near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    outside = (grey < air.threshold) & ~near
    outside[:, : air.field[0]] = False
    outside[:, grey.shape[1] - air.field[1] :] = False
    if outside.sum() < LEAST_OUTSIDE * outside.size:
        return True
    outline = max(cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    roughness = cv2.arcLength(outline, True) / cv2.arcLength(cv2.convexHull(outline), True)
    if roughness <= SMOOTH:
        return True
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.5)
    slope = cv2.magnitude(*(cv2.Sobel(smooth, cv2.CV_32F, *way, scale=0.125) for way in ((1, 0), (0, 1))))
    return roughness <= ROUGH and float(np.median(slope[outside])) <= FLAT * air.threshold


def empty_columns(lit: Mask) -> tuple[int, int]:
    """Return the number of nearly empty columns at the left and at the right."""
    used = np.flatnonzero(lit.mean(axis=0) > 0.02)
    return (int(used[0]), int(lit.shape[1] - 1 - used[-1])) if used.size else (0, 0)


def _largest(lit: Mask) -> Mask:
    """Return the largest object without strips; tape, a scanner's border or a marker would add straight edges."""
    square = np.ones((STRIP, STRIP), np.uint8)
    opened = np.asarray(cv2.morphologyEx(lit.astype(np.uint8), cv2.MORPH_OPEN, square), np.uint8)
    largest = next(by_size(opened), None)
    return lit if largest is None else largest.view(np.bool_)


def _is_rectangle(lit: Mask) -> bool:
    """Return whether the pixels that are not black fill a rectangle, upright or rotated, possibly cut by the image."""
    outlines, _ = cv2.findContours(lit.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return False
    box = cv2.boxPoints(cv2.minAreaRect(np.concatenate(outlines))).round().astype(np.int32)
    rectangle = cv2.fillConvexPoly(np.zeros(lit.shape, np.uint8), box, 1)
    return bool(lit.sum() > FILLED * max(int(rectangle.sum()), 1))


def _has_straight_sides(lit: Mask) -> bool:
    """Return whether most rows start at one column and end at one column, both inside the image.

    A film inside its padding does so. A breast does so only at the chest wall; where it is cut off, it reaches the
    edge of the image.
    """
    rows = np.flatnonzero(lit.any(axis=1))
    ends = lit[rows].argmax(axis=1), lit[rows, ::-1].argmax(axis=1)
    return all(_is_straight(end) for end in ends)


def _is_straight(margins: NDArray[np.intp]) -> bool:
    counts = np.convolve(np.bincount(margins), np.ones(3), mode="same")
    # The first two counts are left out: there the object reaches the edge of the image.
    return bool(counts[2:].max(initial=0) > STRAIGHT * margins.size)


def _specks(grey: Grey) -> float:
    """Return the share of pixels that are not exactly black, away from the largest object and from markers.

    The air of a detector has no such pixels; even the darkest fog of a film leaves specks.
    """
    tissue = (grey > FAINTEST_TISSUE).astype(np.uint8)
    objects = np.asarray(cv2.morphologyEx(tissue, cv2.MORPH_OPEN, np.ones((7, 7), np.uint8)), np.uint8)
    known = (grey > 0.1).astype(np.uint8)
    largest = next(by_size(objects), None)
    if largest is not None:
        known |= largest
    far = cv2.dilate(known, np.ones((31, 31), np.uint8)) == 0
    return float((far & (grey > 0)).sum() / max(int(far.sum()), 1))


def _lowest_peak(grey: Grey) -> tuple[float, float]:
    """Return the background's grey level and the threshold between background and tissue.

    The background is the lowest peak of the histogram. The skin begins where the peak has fallen to a seventh. Exact
    black is left out: it is padding, or the corners of a rotated film, and would hide the peak. Where there is no
    peak, exact black is the air itself. Faint noise just above black is air, too.
    """
    levels = np.rint(np.minimum(grey.ravel(), 1.0) * 255).astype(np.intp)
    histogram = np.bincount(levels, minlength=256)
    faint = int(histogram[0]) - np.count_nonzero(grey == 0)
    if faint > FAINT_AIR * grey.size:
        return 0.0, 7 / 255
    counts = np.convolve(histogram[1:], [0.25, 0.5, 0.25], mode="same")
    peak = int(counts[:40].argmax())
    if counts[max(peak - 2, 0) : peak + 3].sum() < 0.05 * counts.sum():
        return 0.0, 7 / 255
    below = np.flatnonzero(counts[peak:] < 0.15 * counts[peak])
    end = peak + (int(below[0]) if below.size else 255)
    # The darker the air, the narrower its peak: a long slope beside nearly black air is skin.
    return (peak + 1) / 255, float(np.clip(end, peak + 6, peak + 6 + min(2 * peak, 12)) + 1) / 255


def _valley(grey: Grey, level: float) -> float | None:
    """Return the grey of the gap between the peak of the air and a second peak close above it, `None` without one.

    The second peak is fat on a detector that does not blacken the air. A film has no such gap: its skin rises
    gradually from the fog.
    """
    first, last = round(level / FINE), round(level / FINE) + round(NEAR_FAT / FINE)
    values = grey[grey < (last + 1) * FINE]
    counts = np.bincount(np.rint(values / FINE).astype(np.intp), minlength=last + 2)[: last + 1].astype(np.float64)
    counts = np.convolve(counts, np.ones(5) / 5, mode="same")
    at = np.arange(first + 3, last - 3)
    start = max(first - 3, 0)
    lower = np.maximum.accumulate(counts[start:])[at - start - 1]
    upper = np.maximum.accumulate(counts[:last][::-1])[::-1][at]
    mass = np.cumsum(counts[:last][::-1])[::-1][at]
    smaller = np.minimum(lower, upper)
    depth = smaller / np.maximum(np.maximum(counts[at], 0.02 * smaller), 1e-9)
    depth[mass <= FAT_SHARE * grey.size] = 0
    if not at.size or depth.max() < DEPTH:
        return None
    found = int(at[depth.argmax()])
    # Fat touches the image's edge only at the chest wall; fog of two levels touches both sides.
    sides = [(grey[:, columns] > found * FINE).mean() for columns in (slice(2, 4), slice(-4, -2))]
    return found * FINE if min(sides) < BOTH_SIDES else None
