"""Defines `Metric`: a metric over labelled images that can also be computed for bootstrap resamples."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mammopipe.training.metrics.bootstrap import MetricError
from mammopipe.training.metrics.scale import Scale
from mammopipe.training.model.predictions import Floats, Integers

_SUM_TOLERANCE = 1e-3
"""How far the sum of a row of probabilities may be from 1. A float32 softmax stays well within it."""

Kinds = Callable[[Integers, Floats], Integers]
"""Maps labels and values to the kind of each image. Images of a negative kind do not enter the metric."""


def by_label(labels: Integers, values: Floats) -> Integers:
    """Return the labels as kinds, for metrics that depend on the images of every class."""
    return labels


def all_alike(labels: Integers, values: Floats) -> Integers:
    """Return one kind for all images, for metrics that treat all images alike."""
    return np.zeros_like(labels)


def only_class(index: int) -> Kinds:
    """Return the `Kinds` of metrics that depend only on the images of one class, such as sensitivity."""
    return lambda labels, values: np.where(labels == index, 0, -1)


def against_rest(index: int) -> Kinds:
    """Return the `Kinds` that separate the images of one class from all others."""
    return lambda labels, values: (labels == index).astype(np.int64)


def predicted(index: int) -> Kinds:
    """Return the `Kinds` of metrics that depend only on the images predicted as a class, such as precision."""
    return lambda labels, values: np.where(values.argmax(axis=1) == index, 0, -1)


def called(threshold: float, *, positive: bool = True) -> Kinds:
    """Return the `Kinds` that keep the images whose score reaches a threshold, or those whose score does not."""
    return lambda labels, values: np.where((values >= threshold) == positive, 0, -1)


class Metric:
    """A metric over labelled images that can also be computed for bootstrap resamples."""

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
        raised: bool = False,
    ) -> None:
        """Define the metric.

        Args:
            name: The metric's key in `evaluation.json`.
            figures: Maps labels, values and weights (resamples, images) to the metric of each resample, (resamples,).
            needs: What the metric needs to be defined, for error messages.
            binary: Whether the input is labels 0 or 1 with scores, instead of class indices with probabilities.
            share: Whether the metric is a proportion, of images or of pairs of images.
            scale: Range of the metric.
            kinds: Kind of each image. The number of patients with the rarest kind gives the degrees of freedom.
            least_images: Minimum number of images for an interval.
            raised: Whether chance raises the metric; it does so more with fewer images.
        """
        self.name, self.needs, self.share, self._figures, self._binary = name, needs, share, figures, binary
        self.scale, self.kinds, self.least_images, self.raised = scale, kinds, least_images, raised

    def __call__(self, labels: npt.ArrayLike, values: npt.ArrayLike) -> float:
        """Return the metric over the images; raises `MetricError` for invalid input and where it is undefined."""
        truth, scores = (check_binary if self._binary else check_classes)(self.name, labels, values)
        figure = float(self._figures(truth, scores, np.ones((1, len(truth))))[0])
        if not np.isfinite(figure):
            raise MetricError(f"{self.name} is undefined here: it needs {self.needs}")
        return figure

    def weighted(self, labels: Integers, values: Floats, weights: Floats) -> Floats:
        """Return the metric for each row of `weights` (resamples, images); NaN where it is undefined."""
        return self._figures(labels, values, weights)


def mean_metric(
    name: str,
    of: Callable[[Integers, Floats], Floats | Integers],
    *,
    needs: str,
    share: bool = False,
    scale: Scale = Scale.SHARE,
) -> Metric:
    """Return the metric that is the mean of one number for each image.

    Args:
        name: The metric's key in `evaluation.json`.
        of: Maps labels of 0 or 1 and scores to the number of each image, (images,).
        needs: What the metric needs to be defined, for error messages.
        share: Whether the metric is a proportion of images.
        scale: Range of the metric.
    """
    return Metric(
        name,
        lambda labels, scores, weights: ratio(weights @ of(labels, scores), weights.sum(axis=1)),
        needs=needs,
        binary=True,
        share=share,
        scale=scale,
        kinds=all_alike,
    )


def _check_labels(name: str, labels: npt.ArrayLike, images: int, classes: int) -> Integers:
    truth = np.asarray(labels)
    if truth.ndim != 1 or len(truth) != images or images == 0:
        raise MetricError(
            f"{name}: labels of shape {truth.shape} for {images} images: "
            "there must be one label per image, and at least one image"
        )
    if truth.dtype.kind not in "iub" or truth.min() < 0 or truth.max() >= classes:
        raise MetricError(f"{name}: labels must be whole numbers from 0 to {classes - 1}")
    return truth.astype(np.int64)


def check_classes(name: str, labels: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Integers, Floats]:
    """Return labels (n,) and probabilities (n, classes); raises `MetricError`, naming the metric, for other input."""
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
    """Return labels (n,) of 0 and 1 and scores (n,); raises `MetricError`, naming the metric, for other input."""
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise MetricError(f"{name}: scores must be finite numbers, one per image, not of shape {scores.shape}")
    return _check_labels(name, labels, len(scores), 2), scores


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return part / whole where the whole is positive, NaN elsewhere."""
    # NumPy leaves the elements of `out` unchanged where the condition is false.
    shares: Floats = np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
    return shares
