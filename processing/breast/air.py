"""The grey level that parts tissue from air, on digital detectors and on digitised film.

A detector's image is blackened outside of the breast: exact black (or, after an inversion, one other darkest value) is
the air, and everything above it is tissue, however dark: fat may lie at 2 % of the full scale. A digitised film, a
detector that is not blackened and a collimated field show fog or noise up to the edge of a rectangle: there exact black
is padding, the air is the lowest peak of the histogram, and tissue begins where that peak ends. The two are told apart
by shape alone: fog ends at a straight edge, skin does not.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.objects import by_size
from mammopipe.processing.breast.working_copy import Grey, Mask

BLACK = 0.0015
"""Grey (0..1) of the smoothed copy up to which a pixel is exactly black: less than half a step of 8 bits."""
SPECK = 0.004
"""Grey up to which a pixel of the working copy may be the shade of a neighbour that is not black."""
FAINTEST_TISSUE = 0.006
"""Grey above exact black from which on a pixel is tissue where the air is exactly black: 1.5 steps of 8 bits."""
FILLED = 0.965
"""Share of its enclosing rectangle from which on what is not black counts as a whole rectangle."""
SPECKS = 0.0015
"""Share of specks from which on black is a film's: 0.002 and more on mini-MIAS, 0.000 on detectors."""
STRIP = 17
"""Working pixels: what is no wider is a strip of tape or a scanner's border."""
FAINT_AIR = 0.08
"""Share of the image from which on what is darker than half a step of 8 bits, but not black, is the air itself."""
FINE = 1 / 1020
"""Grey of one step of the fine histogram: a quarter of a step of 8 bits."""
NEAR_FAT = 0.10
"""How far (grey) above the air a second peak is sought."""
FAT_SHARE = 0.03
"""Share of the image that a second peak must hold."""
BOTH_SIDES = 0.05
"""Share of the rows at each side that what is brighter than a gap may cover at one side, if it is fat."""
DEPTH = 4.0
"""How many times lower the gap must be than both peaks beside it."""
LEAST_OUTSIDE = 0.001
"""Share of the image outside of a breast that is needed to judge whether it is air."""
FLAT = 0.02
"""Median slope of air per working pixel, as a share of the threshold: 0.000 to 0.014 in air, 0.03 in fat."""
ROUGH = 1.2
"""Length of an outline over that of its convex hull, from which on it is no skin even beside flat air."""
SMOOTH = 1.12
"""Length of a breast's outline over that of its convex hull; at most 1.08 on the films of mini-MIAS, 1.4 for glands."""
STRAIGHT = 0.5
"""Share of the rows that must end at one column (and its neighbours) for a straight edge."""


@dataclass(frozen=True)
class Air:
    """The background of an image."""

    level: float
    """Grey of the air (0..1)."""
    threshold: float
    """Grey above which a pixel is tissue."""
    blackened: bool
    """Whether the air is exactly black, as a detector writes it."""
    fog: bool
    """Whether the air is a film's: fog that shades into skin."""
    field: tuple[int, int]
    """Columns of padding at the left and at the right of what was exposed; (0, 0) where the air is exactly black."""


def find_air(grey: Grey) -> Air:
    """Return the background's levels of a working copy (float32, rows x columns, 0..1)."""
    lit = _largest(cv2.GaussianBlur(grey, (0, 0), 1.2) > BLACK)
    left, right = empty_columns(grey > SPECK)
    if not _is_rectangle(lit) and not _has_straight_sides(lit) and _specks(grey) < SPECKS:
        return Air(0.0, FAINTEST_TISSUE, blackened=True, fog=False, field=(0, 0))
    exposed = grey[:, left : grey.shape[1] - right]
    level, threshold = _lowest_peak(exposed)
    valley = _valley(exposed, level)
    # Where the air is as dark as padding, nothing shows where the padding ends.
    padding = (0, 0) if valley is not None and level == 0 else (left, right)
    return Air(level, valley or threshold, blackened=False, fog=valley is None, field=padding)


def is_air(grey: Grey, mask: Mask, air: Air) -> bool:
    """Say whether what lies outside of a breast is flat as air is, or the outline at least smooth as skin is.

    In a breast that fills the image, fat is the lowest peak of the histogram and the glands are what is left.
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


def full_of_tissue() -> Air:
    """Return the background of an image that shows none: whatever is not exactly black is tissue."""
    return Air(0.0, FAINTEST_TISSUE, blackened=True, fog=False, field=(0, 0))


def empty_columns(lit: Mask) -> tuple[int, int]:
    """Count the columns at the left and at the right that hold next to nothing."""
    used = np.flatnonzero(lit.mean(axis=0) > 0.02)
    return (int(used[0]), int(lit.shape[1] - 1 - used[-1])) if used.size else (0, 0)


def _largest(lit: Mask) -> Mask:
    """Return the largest object without strips: tape, a scanner's border or a marker has edges of its own."""
    square = np.ones((STRIP, STRIP), np.uint8)
    opened = np.asarray(cv2.morphologyEx(lit.astype(np.uint8), cv2.MORPH_OPEN, square), np.uint8)
    largest = next(by_size(opened), None)
    return lit if largest is None else largest.view(np.bool_)


def _is_rectangle(lit: Mask) -> bool:
    """Say whether what is not black fills a rectangle, upright or turned, as far as it lies in the image."""
    outlines, _ = cv2.findContours(lit.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return False
    box = cv2.boxPoints(cv2.minAreaRect(np.concatenate(outlines))).round().astype(np.int32)
    rectangle = cv2.fillConvexPoly(np.zeros(lit.shape, np.uint8), box, 1)
    return bool(lit.sum() > FILLED * max(int(rectangle.sum()), 1))


def _has_straight_sides(lit: Mask) -> bool:
    """Say whether most rows end at one column at the left and at one at the right, both inside the image.

    A film within its padding does so. A breast does at the chest wall alone; and where it is cut off, it runs into the
    image's own edge.
    """
    rows = np.flatnonzero(lit.any(axis=1))
    ends = lit[rows].argmax(axis=1), lit[rows, ::-1].argmax(axis=1)
    return all(_is_straight(end) for end in ends)


def _is_straight(margins: NDArray[np.intp]) -> bool:
    counts = np.convolve(np.bincount(margins), np.ones(3), mode="same")
    return bool(counts[2:].max(initial=0) > STRAIGHT * margins.size)


def _specks(grey: Grey) -> float:
    """Return the share of the image that is neither exactly black nor the largest object, nor the halo of a marker.

    A detector's air has none; the darkest film's fog leaves specks.
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
    """Return the background's grey level and the level that parts it from tissue.

    The background is the lowest peak of the histogram; the skin begins where the peak has fallen to a seventh. Exact
    black is padding, or the wedges of a rotated film, and hides the peak; where there is no peak, it is the air itself.
    Faint noise just above black is the air, too.
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
    # The darker the air, the less it scatters: a long slope beside near-black air is skin.
    return (peak + 1) / 255, float(np.clip(end, peak + 6, peak + 6 + min(2 * peak, 12)) + 1) / 255


def _valley(grey: Grey, level: float) -> float | None:
    """Return the gap between the air's peak and a second peak close above it: fat on a detector that is not blackened.

    Film has none: its skin rises from the fog without a gap.
    """
    first, last = round(level / FINE), round(level / FINE) + round(NEAR_FAT / FINE)
    values = grey[grey < (last + 1) * FINE]
    counts = np.bincount(np.rint(values / FINE).astype(np.intp), minlength=last + 2)[: last + 1].astype(np.float64)
    counts = np.convolve(counts, np.ones(5) / 5, mode="same")
    best, found = 0.0, None
    for at in range(first + 3, last - 3):
        lower, upper = counts[max(first - 3, 0) : at].max(), counts[at:last].max()
        mass = counts[at:last].sum()
        depth = min(lower, upper) / max(counts[at], 0.02 * min(lower, upper), 1e-9)
        if mass > FAT_SHARE * grey.size and depth > best:
            best, found = depth, at
    if found is None or best < DEPTH:
        return None
    # Fat touches the image's edge at the chest wall; what touches both sides is fog of two levels.
    sides = [(grey[:, columns] > found * FINE).mean() for columns in (slice(2, 4), slice(-4, -2))]
    return found * FINE if min(sides) < BOTH_SIDES else None
