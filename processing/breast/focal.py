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
MARGIN_BESIDE = 2.5
"""The same for a structure beside the muscle, because it hides the muscle's edge."""
SCALES = (1.0, 0.8, 0.6, 0.4)
"""Factors of these margins, tried in turn until the clearest structure's disk keeps at most `LARGEST_SHARE`."""
LARGEST_SHARE = 0.12
"""Largest share of the muscle that the disk of the clearest structure keeps."""
FURTHER_SHARE = 0.04
"""Largest share that all disks keep if there are several: many bright spots are the texture of the muscle."""


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
    """Return the disks to keep, as a mask of the shape of `grey`."""
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
        drop = smooth[rows, columns][:, None] - smooth[at]
        drops.append(np.where(_stands_out(drop, inside & deep[at], contrast), drop.mean(axis=1), 0))
    return _kept(_largest_rings(rows, columns, np.array(drops)), muscle)


def _kept(found: list[tuple[int, int, int]], muscle: Mask) -> Mask:
    """Return disks around structures, the clearest first, as long as they keep a small share of the muscle."""
    kept, size = np.zeros(muscle.shape, np.uint8), np.count_nonzero(muscle)
    for number, (row, column, radius) in enumerate(found):
        for scale in SCALES if not number else SCALES[:1]:
            disks = kept.copy()
            margin = MARGIN if muscle[row, column] else MARGIN_BESIDE
            cv2.circle(disks, (column, row), round(max(margin * scale, 1.0) * radius), 1, cv2.FILLED)
            share = np.count_nonzero(disks.view(np.bool_) & muscle) / size
            if share <= (FURTHER_SHARE if number else LARGEST_SHARE):
                kept = disks
                break
    return kept.view(np.bool_)


def _stands_out(drop: NDArray[np.floating], inside: NDArray[np.bool_], contrast: float) -> NDArray[np.bool_]:
    least, mean = max(LEAST_DROP, 0.25 * contrast), max(MEAN_DROP, contrast)
    return np.asarray(inside.all(axis=1) & (drop.min(axis=1) >= least) & (drop.mean(axis=1) >= mean))


def _largest_rings(
    rows: NDArray[np.intp], columns: NDArray[np.intp], drops: NDArray[np.floating]
) -> list[tuple[int, int, int]]:
    """Return the row, column and largest ring radius of each structure, the clearest first.

    Args:
        rows: (peaks,)
        columns: (peaks,)
        drops: (radii, peaks): mean difference to the ring, 0 where the peak does not stand out of it.
    """
    order = [int(peak) for peak in np.argsort(-drops.max(axis=0)) if drops[:, peak].any()]
    return [(int(rows[peak]), int(columns[peak]), RADII[int(np.flatnonzero(drops[:, peak])[-1])]) for peak in order]
