"""Keeps bright focal structures in or beside the pectoral muscle in the image: they may be lesions or lymph nodes."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.working_copy import Grey, Mask

BESIDE = 15
"""Greatest distance of a structure's centre from the muscle, in working pixels."""
RADII = (5, 8, 11, 15)
"""Radii, in working pixels, of the rings compared with a structure's centre; up to 5 % of the image's height."""
DIRECTIONS = 12
"""Number of points of a ring."""
LEAST_DROP = 0.018
"""Least difference in grey (0..1) between a structure's centre and every point of the ring around it."""
MEAN_DROP = 0.08
"""Least mean of these differences."""
MARGIN = 1.25
"""Radius of the disk kept around a structure inside the muscle, in radii of its ring."""
SCALES = (1.0, 0.8, 0.6, 0.4)
"""Factors of these margins, tried in turn until the disks keep no more than `LARGEST_SHARE` of the muscle."""
LARGEST_SHARE = 0.12
"""Largest share of the muscle that disks keep: the many bright spots of dense tissue must not keep half of it."""
MARGIN_BESIDE = 2.5
"""The same for a structure beside the muscle, where it hides the muscle's edge."""


def without_focal_structures(grey: Grey, mask: Mask, muscle: Mask, contrast: float) -> Mask:
    """Return the muscle's mask without disks around bright focal structures in it or beside it.

    A structure is focal if its centre is brighter than every point of a ring around it. Fibres, folds and the wedge of
    the muscle are not focal: the ring meets bright points along the fibre or towards the inside of the muscle.

    Args:
        grey: The working copy, float32, (rows, columns), 0..1.
        mask: The breast, of the same shape; structures at its edge are not judged.
        muscle: The pectoral muscle, part of `mask`.
        contrast: Step in grey at the muscle's edge; a structure must stand out by as much.
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
    """Return the row, column and largest ring radius of each structure."""
    return [
        (int(row), int(column), max(radius for radius, found in zip(RADII, which, strict=True) if found))
        for row, column, which in zip(rows, columns, drops.T, strict=True)
        if which.any()
    ]
