"""The figures that a classifier is judged by. What is undefined raises `MetricError`: it is never NaN, and never 0.

    labels (n,) class index, probabilities (n, classes)    accuracy, balanced_accuracy, macro_auc, malignant_auc,
                                                           log_loss, brier, expected_calibration_error;
                                                           of one class: class_auc, precision, recall, f1
    labels (n,) 0 or 1, scores (n,)                        roc_auc, probabilistic_f1, sensitivity_at_specificity,
                                                           specificity_at_sensitivity; of a threshold: `decisions`

A metric is called on the arrays; its `weighted` gives one figure for each resample of them (`bootstrap_interval`).
The predicted class is the most probable one; the first of equals.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.manifest import Label
from mammopipe.training.metrics.bootstrap import Interval, MetricError, Resamples, bootstrap_interval
from mammopipe.training.model.predictions import Floats, Integers

__all__ = [
    "Interval",
    "Metric",
    "MetricError",
    "Resamples",
    "accuracy",
    "balanced_accuracy",
    "bootstrap_interval",
    "brier",
    "calibration_bins",
    "class_auc",
    "confusion_matrix",
    "expected_calibration_error",
    "f1",
    "log_loss",
    "macro_auc",
    "malignant_auc",
    "precision",
    "probabilistic_f1",
    "ratio",
    "recall",
    "roc_auc",
    "roc_curve",
    "sensitivity_at_specificity",
    "specificity_at_sensitivity",
]

CALIBRATION_BINS = 10
"""Bins of equal width over the confidence; ten, because a MIAS test split has 64 films."""

_SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may be from 1: float32 softmax stays well inside."""


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
    ) -> None:
        """Take the weighted figures, what they need to be defined, and their kind.

        `binary`: labels are 0 or 1 with a score; `share`: the figure is a share of some of the images.
        """
        self.name, self.needs, self.share, self._figures, self._binary = name, needs, share, figures, binary

    def __call__(self, labels: npt.ArrayLike, values: npt.ArrayLike) -> float:
        """Return the metric over the images; raises `MetricError` for wrong input and where it is undefined."""
        truth, scores = (_check_binary if self._binary else _check_classes)(self.name, labels, values)
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


def _check_classes(name: str, labels: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Integers, Floats]:
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


def _check_binary(name: str, labels: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Integers, Floats]:
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise MetricError(f"{name}: scores must be finite, one an image, not of shape {scores.shape}")
    return _check_labels(name, labels, len(scores), 2), scores


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return part / whole where the whole is positive; NaN marks what is undefined."""
    shares: Floats = np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
    return shares


def _confusion(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    """Return (resamples, classes, classes): rows are the truth, columns the most probable class."""
    classes = probabilities.shape[1]
    cells = np.eye(classes * classes)[labels * classes + probabilities.argmax(axis=1)]
    counts: Floats = weights @ cells
    return counts.reshape(-1, classes, classes)


def confusion_matrix(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Integers:
    """Return the number of images as (truth, most probable class), int64; raises `MetricError` for wrong input."""
    truth, values = _check_classes("confusion_matrix", labels, probabilities)
    counts: Integers = np.rint(_confusion(truth, values, np.ones((1, len(truth))))[0]).astype(np.int64)
    return counts


def _accuracy(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    return _mean((probabilities.argmax(axis=1) == labels).astype(np.float64), weights)


def _mean(of_each_image: Floats, weights: Floats) -> Floats:
    return ratio(weights @ of_each_image, weights.sum(axis=1))


def _recalls(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    matrix = _confusion(labels, probabilities, weights)
    return ratio(np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=2))


def _precision(index: int, labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    matrix = _confusion(labels, probabilities, weights)
    return ratio(matrix[:, index, index], matrix[:, :, index].sum(axis=1))


def _f1(index: int, labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    matrix = _confusion(labels, probabilities, weights)
    return ratio(2 * matrix[:, index, index], matrix[:, index, :].sum(axis=1) + matrix[:, :, index].sum(axis=1))


def _auc(positive: npt.NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Mann-Whitney: the share of (positive, negative) pairs ranked rightly, a tie counting one half."""
    order = np.flatnonzero(~positive)[np.argsort(scores[~positive], kind="stable")]
    below = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights[:, order], axis=1)], axis=1)
    left = np.searchsorted(scores[order], scores[positive], "left")
    right = np.searchsorted(scores[order], scores[positive], "right")
    of_positives = weights[:, positive]
    pairs = np.einsum("ri,ri->r", of_positives, below[:, left] + below[:, right]) / 2
    return ratio(pairs, of_positives.sum(axis=1) * below[:, -1])


def _class_auc(index: int, labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    return _auc(labels == index, probabilities[:, index], weights)


def _macro_auc(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    classes = range(probabilities.shape[1])
    areas: Floats = np.mean([_class_auc(index, labels, probabilities, weights) for index in classes], axis=0)
    return areas


def _log_loss(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    true = probabilities[np.arange(len(labels)), labels] / probabilities.sum(axis=1)
    return _mean(-np.log(np.clip(true, np.finfo(np.float64).eps, 1)), weights)


def _brier(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    return _mean(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1), weights)


def _bins(probabilities: Floats, bins: int) -> Floats:
    """Return (images, bins): 1 in the bin of the confidence; bins are open below and closed above."""
    index = np.clip(np.ceil(probabilities.max(axis=1) * bins).astype(np.int64) - 1, 0, bins - 1)
    member: Floats = np.eye(bins)[index]
    return member


def _calibration_error(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    gaps = probabilities.max(axis=1) - (probabilities.argmax(axis=1) == labels)
    sums = np.abs(weights @ (_bins(probabilities, CALIBRATION_BINS) * gaps[:, np.newaxis]))
    return ratio(sums.sum(axis=1), weights.sum(axis=1))


def calibration_bins(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> list[dict[str, float]]:
    """Return the points of a reliability plot: {"confidence", "accuracy", "images"} of each bin that holds an image."""
    truth, values = _check_classes("calibration_bins", labels, probabilities)
    member = _bins(values, CALIBRATION_BINS).astype(bool).T
    confidence, right = values.max(axis=1), values.argmax(axis=1) == truth
    return [
        {
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
            "images": int(inside.sum()),
        }
        for inside in member
        if inside.any()
    ]


def _rates(labels: Integers, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return sensitivity and specificity (resamples, thresholds), from no image called positive to all of them."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    drawn = weights[:, order]

    def share(of: Floats) -> Floats:
        sums = np.cumsum(drawn * of, axis=1)
        reached = np.concatenate([np.zeros((len(drawn), 1)), sums[:, ends]], axis=1)
        return ratio(reached, np.broadcast_to(sums[:, -1:], reached.shape))

    positive = labels[order].astype(np.float64)
    return share(positive), 1 - share(1 - positive)


def _best_where(wanted: Floats, held: Floats, target: float) -> Floats:
    """Return the best `wanted` rate over the thresholds whose `held` rate reaches the target."""
    best = np.where(held >= target - 1e-12, wanted, -1.0).max(axis=1)
    return np.where(np.isfinite(wanted[:, 0] + held[:, 0]), best, np.nan)


def _sensitivity_at_specificity(target: float, labels: Integers, scores: Floats, weights: Floats) -> Floats:
    sensitivity, specificity = _rates(labels, scores, weights)
    return _best_where(sensitivity, specificity, target)


def _specificity_at_sensitivity(target: float, labels: Integers, scores: Floats, weights: Floats) -> Floats:
    sensitivity, specificity = _rates(labels, scores, weights)
    return _best_where(specificity, sensitivity, target)


def _probabilistic_f1(labels: Integers, scores: Floats, weights: Floats) -> Floats:
    if scores.min() < 0 or scores.max() > 1:
        raise MetricError("probabilistic_f1: scores must be probabilities, from 0 to 1")
    positives = weights @ labels.astype(np.float64)
    return np.where(positives > 0, ratio(2 * (weights @ (scores * labels)), weights @ scores + positives), np.nan)


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return (1 - specificity, sensitivity), each (thresholds + 1,), from (0, 0) to (1, 1).

    Raises `MetricError` without images of both classes.
    """
    truth, values = _check_binary("roc_curve", labels, scores)
    sensitivity, specificity = _rates(truth, values, np.ones((1, len(truth))))
    if not np.isfinite(sensitivity + specificity).all():
        raise MetricError("roc_curve is undefined here: it needs images of both classes")
    return 1 - specificity[0], sensitivity[0]


_EACH = "at least one image of each class"
_BOTH = "images with and without the finding"

accuracy = Metric("accuracy", _accuracy, needs="at least one image", share=True)
"""The share of images whose most probable class is the true one."""
balanced_accuracy = Metric("balanced_accuracy", lambda *given: np.mean(_recalls(*given), axis=1), needs=_EACH)
"""The mean over the classes of their recall."""
macro_auc = Metric("macro_auc", _macro_auc, needs=_EACH)
"""The mean over the classes of the one-vs-rest area under the ROC curve."""
malignant_auc = Metric("malignant_auc", partial(_class_auc, Label.MALIGNANT.rank), needs=_BOTH)
"""The area under the ROC curve of the malignant class against the rest."""
log_loss = Metric("log_loss", _log_loss, needs="at least one image")
"""The mean negative log-likelihood of the true class, in nats."""
brier = Metric("brier", _brier, needs="at least one image")
"""The mean squared distance from the one-hot truth, summed over the classes: 0 to 2 (Brier 1950)."""
expected_calibration_error = Metric("expected_calibration_error", _calibration_error, needs="at least one image")
"""The mean gap between confidence and accuracy over ten bins of equal width (Naeini 2015, Guo 2017)."""
roc_auc = Metric("roc_auc", lambda labels, *given: _auc(labels == 1, *given), needs=_BOTH, binary=True)
"""The area under the ROC curve of one score."""
probabilistic_f1 = Metric("probabilistic_f1", _probabilistic_f1, needs="at least one positive image", binary=True)
"""F1 with probabilities in place of decisions (Yacouby and Axman 2020; the RSNA 2023 challenge)."""


def class_auc(index: int) -> Metric:
    """Return the one-vs-rest area under the ROC curve of one class."""
    return Metric(f"auc of class {index}", partial(_class_auc, index), needs=_BOTH)


def precision(index: int) -> Metric:
    """Return the share of the images predicted as this class that are of it; undefined when none is predicted."""
    return Metric(
        f"precision of class {index}", partial(_precision, index), needs="an image predicted as this class", share=True
    )


def recall(index: int) -> Metric:
    """Return the share of the images of this class that are predicted as it."""
    return Metric(
        f"recall of class {index}",
        lambda *given: _recalls(*given)[:, index],
        needs="an image of this class",
        share=True,
    )


def f1(index: int) -> Metric:
    """Return the harmonic mean of precision and recall of one class: 2 TP / (2 TP + FP + FN)."""
    return Metric(f"f1 of class {index}", partial(_f1, index), needs="an image of this class, or predicted as it")


def _target(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise MetricError(f"{name}={value} must lie in 0..1")
    return value


def sensitivity_at_specificity(specificity: float) -> Metric:
    """Return the highest sensitivity over the thresholds that reach the specificity; not interpolated."""
    figures = partial(_sensitivity_at_specificity, _target("specificity", specificity))
    return Metric("sensitivity_at_specificity", figures, needs=_BOTH, binary=True)


def specificity_at_sensitivity(sensitivity: float) -> Metric:
    """Return the highest specificity over the thresholds that reach the sensitivity; not interpolated."""
    figures = partial(_specificity_at_sensitivity, _target("sensitivity", sensitivity))
    return Metric("specificity_at_sensitivity", figures, needs=_BOTH, binary=True)


_Tally = tuple[Floats, Floats, Floats, Floats]
"""Of each resample its true positives, all that is called positive, all that is positive, and everything."""


def _tally(threshold: float, labels: Integers, scores: Floats, weights: Floats) -> _Tally:
    called, positive = scores >= threshold, labels == 1
    counts = weights @ np.stack([called & positive, called, positive, np.ones_like(called)], axis=1).astype(np.float64)
    return counts[:, 0], counts[:, 1], counts[:, 2], counts[:, 3]


def _figures(
    of_tally: Callable[..., Floats], threshold: float, labels: Integers, scores: Floats, weights: Floats
) -> Floats:
    return of_tally(*_tally(threshold, labels, scores, weights))


def _sensitivity(hits: Floats, called: Floats, positive: Floats, everything: Floats) -> Floats:
    return ratio(hits, positive)


def _specificity(hits: Floats, called: Floats, positive: Floats, everything: Floats) -> Floats:
    return ratio(everything - positive - (called - hits), everything - positive)


def _recall_rate(hits: Floats, called: Floats, positive: Floats, everything: Floats) -> Floats:
    return ratio(called, everything)


def _predictive_value(hits: Floats, called: Floats, positive: Floats, everything: Floats) -> Floats:
    return ratio(hits, called)


def _threshold_f1(hits: Floats, called: Floats, positive: Floats, everything: Floats) -> Floats:
    return ratio(2 * hits, called + positive)


def _metric(name: str, of_tally: Callable[..., Floats], threshold: float, needs: str, *, share: bool = True) -> Metric:
    return Metric(name, partial(_figures, of_tally, threshold), needs=needs, binary=True, share=share)


def sensitivity_at(threshold: float) -> Metric:
    """Return the share of the positive cases that are called so."""
    return _metric("sensitivity", _sensitivity, threshold, "a positive case")


def specificity_at(threshold: float) -> Metric:
    """Return the share of the negative cases that are not called positive."""
    return _metric("specificity", _specificity, threshold, "a negative case")


def recall_rate_at(threshold: float) -> Metric:
    """Return the share of all cases that are called positive: who would be called back."""
    return _metric("recall_rate", _recall_rate, threshold, "at least one case")


def ppv_at(threshold: float) -> Metric:
    """Return the positive predictive value: the share of the cases called positive that are."""
    return _metric("ppv", _predictive_value, threshold, "a case called positive")


def f1_at(threshold: float) -> Metric:
    """Return the harmonic mean of sensitivity and positive predictive value: 2 TP / (2 TP + FP + FN)."""
    return _metric("f1", _threshold_f1, threshold, "a positive case, or one called so", share=False)


AT_A_THRESHOLD = (sensitivity_at, specificity_at, recall_rate_at, ppv_at, f1_at)
"""What is reported of a threshold."""
