"""What a metric is: a figure over labelled images, for them as they are and for resamples of them."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mammopipe.training.metrics.bootstrap import MetricError, Scale
from mammopipe.training.model.predictions import Floats, Integers

_SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may be from 1: float32 softmax stays well inside."""

Kinds = Callable[[Integers, Floats], Integers]
"""What tells by labels and values of which kind each image is; below 0 are those that have no part in a figure."""


def by_label(labels: Integers, values: Floats) -> Integers:
    """Return the labels: a figure hangs on the images of every class."""
    return labels


def all_alike(labels: Integers, values: Floats) -> Integers:
    """Return one kind for all images: each has a part in the figure, whatever its class."""
    return np.zeros_like(labels)


def alone(index: int) -> Kinds:
    """Return what leaves the images of one class: they alone make the figure, as malignant ones the sensitivity."""
    return lambda labels, values: np.where(labels == index, 0, -1)


def against_rest(index: int) -> Kinds:
    """Return what parts the images of one class from all others."""
    return lambda labels, values: (labels == index).astype(np.int64)


def predicted(index: int) -> Kinds:
    """Return what leaves the images that are predicted as a class: they alone make its precision."""
    return lambda labels, values: np.where(values.argmax(axis=1) == index, 0, -1)


def called(threshold: float, *, positive: bool = True) -> Kinds:
    """Return what leaves the images whose score reaches a threshold, or those whose score does not."""
    return lambda labels, values: np.where((values >= threshold) == positive, 0, -1)


class Metric:
    """A figure over labelled images, for them as they are and for resamples of them."""

    def __init__(
        self,
        name: str,
        figures: Callable[[Integers, Floats, Floats], Floats],
        *,
        needs: str,
        binary: bool = False,
        share: bool = False,
        scale: Scale = Scale.SHARE,
        kinds: Kinds = by_label,
        least_images: int = 0,
    ) -> None:
        """Take the weighted figures and what must be known of them.

        Args:
            name: as `evaluation.json` calls the figure.
            figures: weighted figures: labels, values and weights, (resamples, images), to (resamples,).
            needs: what must be there for the figure to be defined.
            binary: whether labels are 0 or 1 with a score, not class indices with probabilities.
            share: whether the figure is a share of some of the images.
            scale: where the figure can lie.
            kinds: of which kind each image is: the patients of the rarest kind say most about the spread.
            least_images: how many images an interval needs.
        """
        self.name, self.needs, self.share, self._figures, self._binary = name, needs, share, figures, binary
        self.scale, self.kinds, self.least_images = scale, kinds, least_images

    def __call__(self, labels: npt.ArrayLike, values: npt.ArrayLike) -> float:
        """Return the metric over the images; raises `MetricError` for wrong input and where it is undefined."""
        truth, scores = (check_binary if self._binary else check_classes)(self.name, labels, values)
        figure = float(self._figures(truth, scores, np.ones((1, len(truth))))[0])
        if not np.isfinite(figure):
            raise MetricError(f"{self.name} is undefined here: it needs {self.needs}")
        return figure

    def weighted(self, labels: Integers, values: Floats, weights: Floats) -> Floats:
        """Return one figure for each row of `weights` (resamples, images); NaN where it is undefined."""
        return self._figures(labels, values, weights)


def _check_labels(name: str, labels: npt.ArrayLike, images: int, classes: int) -> Integers:
    truth = np.asarray(labels)
    if truth.ndim != 1 or len(truth) != images or images == 0:
        raise MetricError(f"{name}: labels of shape {truth.shape} for {images} images: one an image, at least one")
    if truth.dtype.kind not in "iub" or truth.min() < 0 or truth.max() >= classes:
        raise MetricError(f"{name}: labels must be whole numbers from 0 to {classes - 1}")
    return truth.astype(np.int64)


def check_classes(name: str, labels: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Integers, Floats]:
    """Return labels (n,) and probabilities (n, classes); `MetricError`, naming the metric, for others."""
    probabilities = np.asarray(values, np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise MetricError(f"{name}: probabilities must be (images, classes), not {probabilities.shape}")
    if not (
        np.isfinite(probabilities).all()
        and (probabilities >= 0).all()
        and (np.abs(probabilities.sum(axis=1) - 1) <= _SUM_TOLERANCE).all()
    ):
        raise MetricError(f"{name}: probabilities must be finite, not below 0, and sum to 1 for each image")
    return _check_labels(name, labels, *probabilities.shape), probabilities


def check_binary(name: str, labels: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Integers, Floats]:
    """Return labels (n,) of 0 and 1 and scores (n,); `MetricError`, naming the metric, for others."""
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise MetricError(f"{name}: scores must be finite, one an image, not of shape {scores.shape}")
    return _check_labels(name, labels, len(scores), 2), scores


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return part / whole where the whole is positive; NaN marks what is undefined."""
    shares: Floats = np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
    return shares
