"""Maps the grey levels of a breast to those of a reference, so that images of different detectors look alike.

An 8-bit digitised film and a 12-bit digital image show the same tissue with different tone curves. Every map here is
monotone and depends on one image alone, so that training and serving do the same, and nothing is fitted on a dataset.
Source of matching by quantiles: L. G. Nyul, J. K. Udupa 1999, "On standardizing the MR image intensity scale", Magnetic
Resonance in Medicine 42(6).
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Harmonisation(StrEnum):
    """How the grey levels of the tissue are brought to those of a reference."""

    NONE = "none"
    """Only the percentile scaling, which every image has."""
    EXPONENT = "exponent"
    """An exponent that brings the median of the tissue to that of the reference."""
    QUANTILES = "quantiles"
    """A piecewise linear map that brings seven percentiles of the tissue to those of the reference."""


PERCENTILES = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 100.0)
REFERENCE = (0.0, 0.18, 0.31, 0.45, 0.59, 0.74, 1.0)
"""The grey levels of the reference at `PERCENTILES`, as shares of full scale: symmetric around the middle greys."""
_LARGEST_EXPONENT = 4.0
_LEAST_STEP = 1e-4


def harmonise(
    unit: NDArray[np.float32], tissue: NDArray[np.bool_], harmonisation: Harmonisation
) -> NDArray[np.float32]:
    """Return the image with the grey levels of the reference.

    Args:
        unit: float32, (rows, columns), between 0 and 1 after percentile scaling.
        tissue: bool, (rows, columns), true for at least one pixel.
        harmonisation: The map.

    Returns:
        float32, (rows, columns), between 0 and 1.
    """
    if harmonisation is Harmonisation.NONE:
        return unit
    found = np.percentile(unit[tissue], PERCENTILES)
    if harmonisation is Harmonisation.EXPONENT:
        middle = PERCENTILES.index(50.0)
        median = float(np.clip(found[middle], 1e-3, 1 - 1e-3))
        exponent = np.log(REFERENCE[middle]) / np.log(median)
        return np.asarray(unit ** np.float32(np.clip(exponent, 1 / _LARGEST_EXPONENT, _LARGEST_EXPONENT)), np.float32)
    # The knots must increase; equal percentiles of a nearly flat image are moved apart by less than one grey level.
    knots = np.maximum.accumulate(found + np.arange(len(found)) * _LEAST_STEP)
    return np.asarray(np.interp(unit, knots, REFERENCE), np.float32)
