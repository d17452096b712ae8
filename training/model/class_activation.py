"""Computes class activation maps from a network's last feature maps; needs neither autograd nor torch."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.training.model.architecture import Pooling

GEM_POWER = 3.0
"""The power of the generalised mean (Radenovic et al. 2019, https://arxiv.org/abs/1711.02512)."""
GEM_LEAST = 1e-6
"""Smaller values of a feature map count as this value in the generalised mean."""

Heat = NDArray[np.float32]
Layer = tuple[Heat, Heat]
"""Weights (outputs, inputs) and biases (outputs,) of a fully connected layer."""


def head_map(maps: Heat, weights: Heat, shape: tuple[int, int], pooling: Pooling = Pooling.MEAN) -> Heat:
    """Return the class activation map of a class.

    Evidence against the class is set to 0. The channels are weighted as in Grad-CAM, by the mean gradient of the logit.
    For all poolings except the generalised mean, that gradient is the classifier's weight times a common factor.

    Args:
        maps: Feature maps, (channels, h, w).
        weights: Weight of each channel for the class, (channels,).
        shape: (H, W) of the result.
        pooling: How the network pools the feature maps or the logits of places.

    Returns:
        (H, W) float32 in 0..1; the maximum is 1, or everything is 0 if there is no evidence for the class.
    """
    if pooling is Pooling.GEM:
        weights = weights * _gem_gradient(maps)
    return scaled_to(np.maximum(np.tensordot(weights, maps, axes=1), 0), shape)


def _gem_gradient(maps: Heat) -> Heat:
    """Return the mean gradient of each map's generalised mean with respect to its places, (channels,)."""
    exact = maps.astype(np.float64)
    seen = exact >= GEM_LEAST
    means = np.maximum(exact, GEM_LEAST) ** GEM_POWER
    inner = np.where(seen, exact, 0) ** (GEM_POWER - 1)
    slope: Heat = (means.mean(axis=(1, 2)) ** (1 / GEM_POWER - 1) * inner.mean(axis=(1, 2))).astype(np.float32)
    return slope


def scaled_to(evidence: Heat, shape: tuple[int, int]) -> Heat:
    """Resize non-negative evidence, (h, w), to an image of `shape` (H, W) and scale its maximum to 1; float32."""
    full = cv2.resize(np.ascontiguousarray(evidence, np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)
    strongest = float(full.max())
    return np.clip(full / np.float32(strongest), 0, 1) if strongest > 0 else np.zeros(shape, np.float32)


def tissue(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the tissue mask of a prepared image (H, W), where air is 0; small specks of 0 count as tissue."""
    seen = cv2.morphologyEx((image > 0).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return np.asarray(seen > 0)


def within_tissue(heat: Heat, image: NDArray[Any]) -> Heat:
    """Return the heatmap (H, W), set to 0 outside of the tissue of the prepared image (H, W), for display."""
    return np.where(tissue(image), heat, np.float32(0))


class ClassifierGradients:
    """Grad-CAM through a classifier of several layers, such as AlexNet's.

    The classifier consists of max pooling, average pooling and fully connected layers with ReLU. The weight of a
    channel is the gradient of the logit with respect to the input of the fully connected layers, summed over the
    channel's pooled places. The poolings only redistribute gradients within a channel and do not change that sum
    (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).
    """

    def __init__(self, layers: Sequence[Layer], *, side: int = 6) -> None:
        """Create the classifier.

        Args:
            layers: Fully connected layers; the last returns the logits.
            side: Height and width after average pooling.
        """
        self._layers, self._side = layers, side

    def weights(self, maps: Heat, class_index: int) -> Heat:
        """Return the weight of each channel for a class, (channels,).

        Args:
            maps: Feature maps, (channels, h, w), of at least 3 x 3 places.
            class_index: Index of the class.
        """
        values = _average(_pool(maps), self._side).reshape(-1)
        active = []
        for weight, bias in self._layers[:-1]:
            values = weight @ values + bias
            active.append(values > 0)
            values = np.maximum(values, 0)
        # Backwards: a ReLU passes the gradient only where it was active.
        gradient = self._layers[-1][0][class_index]
        for (weight, _), passes in zip(reversed(self._layers[:-1]), reversed(active), strict=True):
            gradient = (gradient * passes) @ weight
        total: Heat = gradient.reshape(maps.shape[0], -1).sum(axis=1)
        return total


def _pool(maps: Heat) -> Heat:
    """Max-pool with a window of 3 x 3 and a stride of 2."""
    windows = np.lib.stride_tricks.sliding_window_view(maps, (3, 3), axis=(1, 2))
    pooled: Heat = windows[:, ::2, ::2].max(axis=(3, 4))
    return pooled


def _average(maps: Heat, side: int) -> Heat:
    """Average-pool maps (channels, h, w) to (channels, side, side), with the windows of torch's adaptive pooling."""
    spans = [[(i * size // side, -(-(i + 1) * size // side)) for i in range(side)] for size in maps.shape[1:]]
    rows = np.stack([maps[:, first:end].mean(axis=1) for first, end in spans[0]], axis=1)
    return np.stack([rows[:, :, first:end].mean(axis=2) for first, end in spans[1]], axis=2)
