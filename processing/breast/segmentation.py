"""Where the breast lies in a mammogram: its mask without labels, tape and borders, its chest wall, its pectoral muscle.

Everything is found on a copy of at most `WORKING_SIZE` pixels a side, because the outline of a breast holds no finer
detail, and only the finished masks are enlarged: a film of 2776 x 2082 costs milliseconds, not a tenth of a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.pectoral import find_pectoral
from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.errors import NoBreastError as NoBreastError

Mask = NDArray[np.bool_]
Grey = NDArray[np.float32]

WORKING_SIZE = 320
"""Pixels of the longer side of the copy that is worked on."""
SMALLEST_SIDE = 32
"""Pixels: below this an image is no mammogram."""
SMALLEST_SHARE = 0.03
"""Share of the image: anything smaller is a label or a scratch, not a breast."""
CLEAR_EVIDENCE = 0.15
"""Difference between the image's sides, as a share of their sum, from which on the chest wall's side is clear."""
COVERAGE_LIMITS = (0.25, 0.75)
"""Share of the film that a breast normally covers; outside, the image is flagged."""


BLUR_REACH = 6
"""Working pixels beyond which the blur that smooths a mask's boundary adds nothing."""


class Side(StrEnum):
    """A side of the image, as the reader sees it."""

    LEFT = "left"
    RIGHT = "right"

    @classmethod
    def of(cls, laterality: Laterality) -> "Side":
        """Return the side where the chest wall lies in mini-MIAS and RSNA: that of a left breast at the left."""
        return cls.RIGHT if laterality is Laterality.RIGHT else cls.LEFT


@dataclass(frozen=True)
class BreastRegion:
    """What `segment_breast` found; both masks have the shape of the pixels."""

    mask: Mask
    """The breast with its pectoral area, without anything else."""
    pectoral: Mask
    """The part of the mask that is pectoral muscle; empty when there is none."""
    chest_side: Side
    quality: Mapping[str, Any]
    """JSON values: shares, levels in 0..1, and `flags`, a list of short strings that say what looks wrong."""


@dataclass(frozen=True)
class _Film:
    """The reduced copy: grey 0..1 above the darkest pixel, and which columns are padding."""

    grey: Grey
    air: float
    """Grey level of the background between breast and film edge."""
    threshold: float
    """Grey level above which a pixel is not background."""


def segment_breast(
    pixels: NDArray[np.uint16], *, laterality: Laterality | None = None, view: View | None = None
) -> BreastRegion:
    """Return the breast of a mammogram (uint16, rows x columns, air dark) as masks of the same shape.

    `laterality` decides the chest side only where the pixels leave it open. A `view` that does not show the pectoral
    muscle (CC) leaves it alone; where the view is unknown the muscle is sought as in an MLO view, so that an oblique
    image whose file does not name its view gives the pixels it would give with the name. Raises `NoBreastError` when
    nothing in the image can be a breast.
    """
    film = _reduce(pixels)
    mask = _breast_mask(film)
    side, evidence = _chest_side(film, mask, laterality)
    mask = _without_overhang(mask, side)
    coverage = _coverage(film, mask, side)
    if mask.mean() < SMALLEST_SHARE:
        raise NoBreastError(
            f"no breast: the largest object covers {mask.mean():.1%} of the image; "
            f"at least {SMALLEST_SHARE:.0%} is needed"
        )
    seek = view is None or view.shows_pectoral
    pectoral = find_pectoral(film.grey, mask, chest_left=side is Side.LEFT) if seek else None
    muscle = np.zeros_like(mask) if pectoral is None else pectoral.mask
    quality: dict[str, Any] = {
        "coverage": round(coverage, 4),
        "air_level": round(film.air, 4),
        "threshold": round(film.threshold, 4),
        "chest_side_evidence": round(evidence, 4),
        "pectoral_share": round(float(muscle.sum() / mask.sum()), 4),
        "pectoral_contrast": round(pectoral.contrast, 4) if pectoral else 0.0,
    }
    missing = pectoral is None and view is not None and seek
    quality["flags"] = _flags(mask, side, _padding(film.grey), coverage, laterality, missing)
    if abs(evidence) < CLEAR_EVIDENCE:
        quality["flags"].append("chest-side-unclear")
    full = _enlarge(mask, pixels.shape)
    return BreastRegion(full, _enlarge(muscle, pixels.shape, within=full), side, quality)


def _reduce(pixels: NDArray[np.uint16]) -> _Film:
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise ValueError(f"pixels must be a 2-D uint16 array, not {pixels.dtype} of shape {pixels.shape}")
    if min(pixels.shape) < SMALLEST_SIDE:
        raise NoBreastError(
            f"no breast: the image measures {pixels.shape[1]} x {pixels.shape[0]} pixels; "
            f"at least {SMALLEST_SIDE} a side are needed"
        )
    scale = min(1.0, WORKING_SIZE / max(pixels.shape))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    # Averaging every pixel of a large film costs more than all the rest; every n-th tells the same.
    skip = max(1, int(1 / (2 * scale)))
    thinned = np.ascontiguousarray(pixels[skip // 2 :: skip, skip // 2 :: skip])
    grey = cv2.GaussianBlur(cv2.resize(thinned, size, interpolation=cv2.INTER_AREA).astype(np.float32), (0, 0), 0.8)
    grey -= grey.min()
    top = float(np.percentile(grey[grey > 0], 99)) if grey.any() else 0.0
    if top < 2 * 257:
        raise NoBreastError("no breast: all pixels have nearly one value")
    grey = np.minimum(grey / top, 1.2).astype(np.float32)
    left, right = _padding(grey)
    air, threshold = _air(grey[:, left : grey.shape[1] - right])
    return _Film(grey, air, threshold)


def _padding(grey: Grey) -> tuple[int, int]:
    """Count the empty columns at the left and at the right."""
    used = np.flatnonzero((grey > 0.004).mean(axis=0) > 0.02)
    return (int(used[0]), int(grey.shape[1] - 1 - used[-1])) if used.size else (0, 0)


def _air(grey: Grey) -> tuple[float, float]:
    """Return the background's grey level and the level that parts it from tissue.

    The background is the lowest peak of the histogram; the skin begins where the peak has fallen to a seventh. Exact
    black is padding, or the wedges of a rotated film, and hides the peak; where there is no peak, it is the air itself.
    """
    levels = np.rint(np.minimum(grey.ravel(), 1.0) * 255).astype(np.intp)
    counts = np.convolve(np.bincount(levels, minlength=256)[1:], [0.25, 0.5, 0.25], mode="same")
    peak = int(counts[:40].argmax())
    if counts[max(peak - 2, 0) : peak + 3].sum() < 0.05 * counts.sum():
        return 0.0, 7 / 255
    below = np.flatnonzero(counts[peak:] < 0.15 * counts[peak])
    end = peak + (int(below[0]) if below.size else 255)
    # The darker the air, the less it scatters: a long slope beside near-black air is skin.
    return (peak + 1) / 255, float(np.clip(end, peak + 6, peak + 6 + min(2 * peak, 12)) + 1) / 255


def _octagon(objects: NDArray[np.uint8], radius: float, morph: int) -> NDArray[np.uint8]:
    """Dilate or erode by an octagon: a square and a diamond in turn cost a tenth of a disk of that size."""
    steps = max(1, round(radius))
    square = round(0.414 * steps)
    diamond = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    result = cv2.morphologyEx(objects, morph, diamond, iterations=steps - square)
    return np.asarray(cv2.morphologyEx(result, morph, np.ones((2 * square + 1, 2 * square + 1), np.uint8)), np.uint8)


def _grown(objects: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    return _octagon(objects, radius, cv2.MORPH_DILATE)


def _opened(objects: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Return the objects without what is thinner than the octagon."""
    return _grown(_octagon(objects, radius, cv2.MORPH_ERODE), radius)


def _breast_mask(film: _Film) -> Mask:
    """Return the largest soft-edged object, parted from what touches it by a thin bridge, without holes."""
    # A frame of air: fog along the film's edge is as thin there as it looks.
    grey = np.pad(film.grey, 1)
    objects = (grey > film.threshold).astype(np.uint8)
    objects[0] = objects[-1] = objects[:, 0] = objects[:, -1] = 0
    unit = max(objects.shape) / 100
    objects &= 1 - _labels(grey, unit)
    core = _largest(_opened(objects, 2.0 * unit), grey)
    # What opening takes off is given back close to the core: corners and the nipple. Fog along the film's edge is dim:
    # only what lies near something brighter can be skin.
    bright = _opened(core & (grey > film.threshold + 0.06), unit)
    near = _largest(_grown(core, 1.6 * unit) & _grown(bright, 3.5 * unit) & _opened(objects, 0.4 * unit), grey)
    closed = _octagon(_grown(near, 0.8 * unit), 0.8 * unit, cv2.MORPH_ERODE)
    outline, _ = cv2.findContours(closed | near, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(closed), outline, -1, 1, cv2.FILLED)
    return _without_tail(filled[1:-1, 1:-1].astype(bool))


def _labels(grey: Grey, unit: float) -> NDArray[np.uint8]:
    """Return the lead letters' white plates with a margin: small, white, and dark all round.

    Bright tissue fades into fat before it reaches air, and muscle is cut off by the film's edge, where no air follows.
    """
    white = (grey > 0.8).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(white, connectivity=4)
    plates = np.zeros_like(white)
    margin = max(2, round(0.8 * unit))
    for index in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[index])
        if not 4 * unit <= area <= 150 * unit**2 or area < 0.5 * width * height:
            continue
        box = np.s_[max(y - margin, 0) : y + height + margin, max(x - margin, 0) : x + width + margin]
        plate = (labels[box] == index).astype(np.uint8)
        distance = np.rint(cv2.distanceTransform(1 - plate, cv2.DIST_L2, 3))
        if (grey[box][distance == margin] < 0.35).mean() > 0.8:
            plates[box] |= distance <= margin
    return plates


def _without_tail(mask: Mask) -> Mask:
    """Return the mask without the narrow strip of abdomen that hangs below the breast along the chest wall."""
    widths = mask.sum(axis=1)
    widest = int(widths.argmax())
    narrow = np.flatnonzero(widths[widest:] < 0.2 * widths[widest])
    bottom = int(np.flatnonzero(widths)[-1])
    if narrow.size == 0 or bottom - (widest + narrow[0]) < 0.04 * mask.shape[0]:
        return mask
    cut = mask.copy()
    cut[widest + int(narrow[0]) :] = False
    return cut


def _largest(objects: NDArray[np.uint8], grey: Grey) -> NDArray[np.uint8]:
    """Return the largest object that is not evenly white, as labels and scanner borders are."""
    count, labels = cv2.connectedComponents(objects, connectivity=4)
    areas = np.bincount(labels.ravel(), minlength=count)
    for index in sorted(range(1, count), key=lambda item: -int(areas[item])):
        chosen = labels == index
        if np.count_nonzero(chosen & (grey < 0.9)) > 0.2 * areas[index]:
            return np.asarray(chosen, np.uint8)
    raise NoBreastError("no breast: nothing but air, labels and borders in the image")


def _row_ends(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows that hold breast, with the first and the last column of each."""
    rows = np.flatnonzero(mask.any(axis=1))
    return rows, mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)


def _chest_side(film: _Film, mask: Mask, laterality: Laterality | None) -> tuple[Side, float]:
    """Return the side where tissue ends abruptly, and by how much (-1 right .. 1 left).

    Towards the skin the breast thins and darkens; at the chest wall the film cuts through bright tissue.
    """
    rows, first, last = _row_ends(mask)
    step = np.minimum((last - first) // 4, 6)
    left = film.grey[rows, first + step].mean()
    right = film.grey[rows, last - step].mean()
    evidence = float((left - right) / max(left + right, 1e-6))
    if abs(evidence) < CLEAR_EVIDENCE and laterality is not None:
        return Side.of(laterality), evidence
    return (Side.LEFT if evidence > 0 else Side.RIGHT), evidence


def _without_overhang(mask: Mask, side: Side) -> Mask:
    """Return the mask without what juts out along the film's upper and lower edge: tape, fog, the rest of a label.

    There the skin recedes, or spreads at a slant towards the arm, but it never jumps.
    """
    turned = mask[:, ::-1] if side is Side.RIGHT else mask
    rows, _, last = _row_ends(turned)
    limits = last.astype(np.float64)
    zone = max(1, round(0.1 * rows.size))
    for order in (range(zone, -1, -1), range(rows.size - zone - 1, rows.size)):
        bound = np.inf
        for row in order:
            bound = limits[row] = min(limits[row], bound + 1.5)
    cut = turned.copy()
    cut[rows] &= np.arange(mask.shape[1])[None, :] <= limits[:, None]
    return np.ascontiguousarray(cut[:, ::-1] if side is Side.RIGHT else cut)


def _coverage(film: _Film, mask: Mask, side: Side) -> float:
    """Return the mask's share of the film without its padding.

    Dark air cannot be told from padding, but films are padded alike on both sides: the far side gets no more of it
    than the chest side, where the breast shows how wide it is.
    """
    left, right = _padding(film.grey)
    chest, far = (left, right) if side is Side.LEFT else (right, left)
    width = mask.shape[1] - chest - min(far, chest)
    return float(mask.sum() / (width * mask.shape[0]))


def _flags(
    mask: Mask,
    side: Side,
    padding: tuple[int, int],
    coverage: float,
    laterality: Laterality | None,
    muscle_missing: bool,
) -> list[str]:
    """Name what a reader should look at; the skin is cut off where the breast runs into the film's far edge."""
    low, high = COVERAGE_LIMITS
    rows, first, last = _row_ends(mask)
    cut = (first <= padding[0] + 1) if side is Side.RIGHT else (last >= mask.shape[1] - padding[1] - 2)
    conditions = {
        "coverage-low": coverage < low,
        "coverage-high": coverage > high,
        "skin-cut-off": int(cut.sum()) > 0.03 * rows.size,
        "chest-side-against-laterality": laterality is not None and side is not Side.of(laterality),
        "pectoral-not-found": muscle_missing,
    }
    return [name for name, holds in conditions.items() if holds]


def _enlarge(mask: Mask, shape: tuple[int, ...], *, within: Mask | None = None) -> Mask:
    """Return the mask at full size with a smooth boundary, where `within` holds.

    Only around what the mask holds is anything computed.
    """
    result = np.zeros(shape, np.uint8)
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return result.view(np.bool_)
    rows, full_rows = _window(y, y + height, mask.shape[0], shape[0])
    columns, full_columns = _window(x, x + width, mask.shape[1], shape[1])
    box = result[full_rows, full_columns]
    soft = cv2.GaussianBlur(mask[rows, columns].astype(np.uint8) * 254, (0, 0), 1.2, borderType=cv2.BORDER_REPLICATE)
    # Straight into the result: fresh memory of this size costs as much as the enlarging.
    cv2.resize(soft, box.shape[::-1], dst=box, interpolation=cv2.INTER_LINEAR)
    cv2.threshold(box, 127, 1, cv2.THRESH_BINARY, dst=box)
    if within is not None:
        box &= within.view(np.uint8)[full_rows, full_columns]
    return result.view(np.bool_)


def _window(first: int, last: int, small: int, full: int) -> tuple[slice, slice]:
    """Return the range around `first` to `last` of `small` pixels, with the same range of `full` pixels.

    Its ends are those, among a few, that come closest to a boundary between full pixels, so that nothing is shifted.
    """
    scale, choice = full / small, range(BLUR_REACH, 3 * BLUR_REACH)

    def beside(end: int) -> float:
        return abs(end * scale - round(end * scale))

    start = min((max(first - margin, 0) for margin in choice), key=beside)
    stop = min((min(last + margin, small) for margin in choice), key=beside)
    return slice(start, stop), slice(round(start * scale), round(stop * scale))
