"""Class activation maps from a network's last maps, without gradients and without torch."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Heat = NDArray[np.float32]
Layer = tuple[Heat, Heat]
"""Weights (outputs, inputs) and biases (outputs,) of a fully connected layer."""


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


def tissue(film: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a prepared film (H, W), 0 = air, shows tissue; specks of 0 within it are tissue, too."""
    seen = cv2.morphologyEx((film > 0).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return np.asarray(seen > 0)


def within_tissue(heat: Heat, film: NDArray[Any]) -> Heat:
    """Return heat (H, W) over a prepared film (H, W) without what lies outside of the tissue, as it is shown."""
    return np.where(tissue(film), heat, np.float32(0))


class ClassifierGradients:
    """Grad-CAM through a classifier of several layers, as AlexNet's: max pooling, average pooling, layers with ReLU.

    The gradient of a logit by a channel's mean is what the layers hand back, summed over the pooled places: either
    pooling only moves gradients about within a channel (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).
    """

    def __init__(self, layers: Sequence[Layer], *, side: int = 6) -> None:
        """Take the layers, the last of which gives the logits, and the places on a side after average pooling."""
        self._layers, self._side = layers, side

    def weights(self, maps: Heat, class_index: int) -> Heat:
        """Return the weight of each channel for a class, (channels,), of maps (channels, h, w) from 3 x 3 places."""
        values = _average(_pool(maps), self._side).reshape(-1)
        active = []
        for weight, bias in self._layers[:-1]:
            values = weight @ values + bias
            active.append(values > 0)
            values = np.maximum(values, 0)
        gradient = self._layers[-1][0][class_index]
        for (weight, _), lives in zip(reversed(self._layers[:-1]), reversed(active), strict=True):
            gradient = (gradient * lives) @ weight
        total: Heat = gradient.reshape(maps.shape[0], -1).sum(axis=1)
        return total


def _pool(maps: Heat) -> Heat:
    """Return the most of each 3 x 3 places, two apart."""
    windows = np.lib.stride_tricks.sliding_window_view(maps, (3, 3), axis=(1, 2))
    pooled: Heat = windows[:, ::2, ::2].max(axis=(3, 4))
    return pooled


def _average(maps: Heat, side: int) -> Heat:
    """Return maps (channels, h, w) as (channels, side, side): means of windows that cover them, as torch has them."""
    spans = [[(i * size // side, -(-(i + 1) * size // side)) for i in range(side)] for size in maps.shape[1:]]
    rows = np.stack([maps[:, first:end].mean(axis=1) for first, end in spans[0]], axis=1)
    return np.stack([rows[:, :, first:end].mean(axis=2) for first, end in spans[1]], axis=2)
