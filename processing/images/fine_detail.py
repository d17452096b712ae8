"""The fine detail of the tissue with equal contrast everywhere, by which two images are compared."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DetailScales:
    """The scales of the detail; standard deviations of Gaussians, in pixels."""

    fine: float
    """Smaller structures are left out."""
    coarse: float
    """Larger structures are left out."""
    contrast: float
    """Neighbourhood in which the contrast is equalised."""
    floor: float
    """Contrast that counts as noise, in the unit of the pixels."""
    tissue_only: bool
    """Whether the local means leave out the air. Otherwise the outline against the air appears as detail, and outlines
    of different images resemble each other. To leave out a rim of the tissue also avoids that, in less time."""

    def of(self, pixels: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the detail of an image, (H, W), 0 outside `inside`."""
        tissue = inside.astype(np.float32)
        weight = tissue if self.tissue_only else None
        band = (_mean(pixels, self.fine, weight) - _mean(pixels, self.coarse, weight)) * tissue
        contrast = np.sqrt(_mean(band * band, self.contrast, tissue))
        return np.asarray(band / (contrast + np.float32(self.floor)), np.float32)


def _mean(values: NDArray[np.float32], deviation: float, weight: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return the weighted local mean."""
    if weight is None:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), deviation), np.float32)
    total = cv2.GaussianBlur(values * weight, (0, 0), deviation)
    return np.asarray(total / np.maximum(cv2.GaussianBlur(weight, (0, 0), deviation), 1e-3), np.float32)
