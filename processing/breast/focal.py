"""Bright focal structures that stand out of the pectoral muscle: they may be lesions or nodes, and are kept."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.working_copy import Grey, Mask

BESIDE = 15
"""Working pixels: how far beside the muscle a structure's centre may lie."""
RADII = (5, 8, 11, 15)
"""Working pixels: radii of the rings that are compared with a structure's centre; up to 5 % of the image's height."""
DIRECTIONS = 12
"""Points of a ring."""
LEAST_DROP = 0.018
"""How much darker (grey 0..1) than its centre a structure's whole surroundings are, at least."""
MEAN_DROP = 0.08
"""How much darker they are on average, at least."""
MARGIN = 1.25
"""What is kept around a structure within the muscle, in radii of its ring."""
SCALES = (1.0, 0.8, 0.6, 0.4)
"""Shares of these margins that are tried until no more than `LARGEST_SHARE` of the muscle is kept."""
LARGEST_SHARE = 0.12
"""Share of the muscle: dense tissue beside it has many bright spots, and they must not leave half of it in."""
MARGIN_BESIDE = 2.5
"""The same where its centre lies beside the muscle: there it hides where the muscle ends."""


def without_focal_structures(grey: Grey, mask: Mask, muscle: Mask, contrast: float) -> Mask:
    """Return a muscle without the disks around bright focal structures in it or beside it.

    A structure is focal where its centre is brighter than every point of a ring around it. Fibres, folds and the
    muscle's own wedge are not: along them, or towards the muscle's inside, it stays bright.

    Args:
        grey: The working copy, float32, (rows, columns), 0..1.
        mask: The breast, of the same shape; what lies at its edge cannot be judged.
        muscle: The pectoral muscle, a part of it.
        contrast: Step in grey at the muscle's edge; a structure must stand out as much.
    """
    x, y, width, height = cv2.boundingRect(muscle.astype(np.uint8))
    reach = BESIDE + RADII[-1] + 3
    box = np.s_[max(y - reach, 0) : y + height + reach, max(x - reach, 0) : x + width + reach]
    result = muscle.copy()
    result[box] &= ~_disks(grey[box], mask[box], muscle[box], contrast)
    return result


def _disks(grey: Grey, mask: Mask, muscle: Mask, contrast: float) -> Mask:
    smooth = cv2.GaussianBlur(grey, (0, 0), 2.0)
    near = cv2.dilate(muscle.astype(np.uint8), np.ones((2 * BESIDE + 1, 2 * BESIDE + 1), np.uint8)) > 0
    peaks = near & (smooth >= cv2.dilate(smooth, np.ones((11, 11), np.uint8)))
    rows, columns = np.nonzero(peaks)
    deep = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    angles = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    drops = []
    for radius in RADII:
        y = rows[:, None] + np.rint(radius * np.sin(angles)).astype(np.intp)
        x = columns[:, None] + np.rint(radius * np.cos(angles)).astype(np.intp)
        inside = (y >= 0) & (y < grey.shape[0]) & (x >= 0) & (x < grey.shape[1])
        at = np.clip(y, 0, grey.shape[0] - 1), np.clip(x, 0, grey.shape[1] - 1)
        drops.append(_stands_out(smooth[rows, columns][:, None] - smooth[at], inside & deep[at], contrast))
    found = _largest_rings(rows, columns, np.array(drops))
    for scale in SCALES:
        kept = np.zeros(muscle.shape, np.uint8)
        for row, column, radius in found:
            margin = MARGIN if muscle[row, column] else MARGIN_BESIDE
            cv2.circle(kept, (column, row), round(max(margin * scale, 1.0) * radius), 1, cv2.FILLED)
        if np.count_nonzero(kept.astype(np.bool_) & muscle) <= LARGEST_SHARE * np.count_nonzero(muscle):
            break
    return kept > 0


def _stands_out(drop: NDArray[np.floating], inside: NDArray[np.bool_], contrast: float) -> NDArray[np.bool_]:
    least, mean = max(LEAST_DROP, 0.25 * contrast), max(MEAN_DROP, contrast)
    return np.asarray(inside.all(axis=1) & (drop.min(axis=1) >= least) & (drop.mean(axis=1) >= mean))


def _largest_rings(
    rows: NDArray[np.intp], columns: NDArray[np.intp], drops: NDArray[np.bool_]
) -> list[tuple[int, int, int]]:
    """Return row, column and largest radius of each structure."""
    return [
        (int(row), int(column), max(radius for radius, found in zip(RADII, which, strict=True) if found))
        for row, column, which in zip(rows, columns, drops.T, strict=True)
        if which.any()
    ]
