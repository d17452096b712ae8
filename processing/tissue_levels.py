"""How bright and how finely drawn the tissue of a mammogram is, before anything is normalised.

The network's input is stretched to a fixed range, which hides a machine whose gain has changed. These figures are taken
of the same pixels a moment before, so that what arrives later can be compared with what was trained on.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_FULL_SCALE = 65535
_PERCENTILES = {"level_low": 5, "level_mid": 50, "level_high": 95}


def tissue_levels(pixels: NDArray[np.uint16], tissue: NDArray[np.bool_]) -> dict[str, float]:
    """Return shares of the 16-bit scale: three percentiles of the tissue, and its `detail` relative to their distance.

    `pixels` and `tissue` are (height, width), with at least one pixel of tissue. `detail` is the mean absolute
    Laplacian within the tissue: grain, sharpness and the size of the detector's pixels all move it.
    """
    found: Any = np.percentile(pixels[tissue], list(_PERCENTILES.values()))
    levels = {name: float(value) / _FULL_SCALE for name, value in zip(_PERCENTILES, found, strict=True)}
    inside = cv2.erode(tissue.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    edges = cv2.Laplacian(pixels, cv2.CV_32F)
    strength = float(np.abs(edges[inside]).mean()) / _FULL_SCALE if inside.any() else 0.0
    contrast = max(levels["level_high"] - levels["level_low"], 1 / _FULL_SCALE)
    return {name: round(value, 4) for name, value in {**levels, "detail": strength / contrast}.items()}
