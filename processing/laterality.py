"""The side of a breast from its picture alone, for files and tables that do not tell it."""

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import Laterality

MIN_SHARE = 0.62
"""The share of the tissue that one half must hold. Mammograms whose side is known: see the tests of this module."""
_STEP = 8


def infer_laterality(pixels: NDArray[np.uint16]) -> Laterality | None:
    """Return the breast's side where the image shows it, `None` where it does not show it clearly.

    Mammograms are stored as they are read, unflipped: the chest wall of a left breast is at the left edge (PS3.3
    C.8.11.7.1.3, ACR practice). So the half that holds more tissue is the side. An image that was flipped is taken for
    the other breast, which is why a result of this function is always marked as inferred.
    """
    small = pixels[::_STEP, ::_STEP].astype(np.float32)
    if small.shape[1] < 8 or small.shape[0] < 8:
        return None
    air = np.percentile(small, 20)
    tissue = small > air + 0.25 * (np.percentile(small, 99) - air)
    half = tissue.shape[1] // 2
    left, right = int(tissue[:, :half].sum()), int(tissue[:, -half:].sum())
    if max(left, right) < MIN_SHARE * max(1, left + right):
        return None
    return Laterality.LEFT if left > right else Laterality.RIGHT
