"""Class activation maps from a network's last maps, without gradients and without torch."""

import cv2
import numpy as np
from numpy.typing import NDArray

Heat = NDArray[np.float32]


def head_map(maps: Heat, weights: Heat, shape: tuple[int, int]) -> Heat:
    """Return where a class was seen, float32 (H, W) of `shape` in 0..1: maps (channels, h, w) x weights (channels,).

    What speaks against the class is left out, and the strongest place is 1; all zeros where nothing speaks for it.
    """
    return spread(np.maximum(np.tensordot(weights, maps, axes=1), 0), shape)


def spread(evidence: Heat, shape: tuple[int, int]) -> Heat:
    """Return evidence (h, w), at least 0, over a film of `shape`, float32 (H, W), scaled so that the most is 1."""
    full = cv2.resize(np.ascontiguousarray(evidence, np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    strongest = float(full.max())
    return np.clip(full / np.float32(strongest), 0, 1) if strongest > 0 else np.zeros(shape, np.float32)
