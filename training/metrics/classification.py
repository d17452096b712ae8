"""Metrics of a classifier. An undefined metric raises `MetricError`; the result is never NaN, nor 0 in its place.

    labels (n,) class index, probabilities (n, classes)    accuracy, balanced_accuracy, macro_auc, malignant_auc,
                                                           log_loss, brier, expected_calibration_error;
                                                           of one class: class_auc, precision, recall, f1
    labels (n,) 0 or 1, scores (n,)                        roc_auc, probabilistic_f1, sensitivity_at_specificity,
                                                           specificity_at_sensitivity

Call a metric with the arrays. Its method `weighted` returns one value for each resample (`bootstrap_interval`).
The predicted class is the most probable class; ties go to the first class.
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from mammopipe.training.metrics.bootstrap import Interval, MetricError, Resamples, bootstrap_interval
from mammopipe.training.metrics.metric import (
    Metric,
    against_rest,
    all_alike,
    check_binary,
    check_classes,
    only_class,
    predicted,
    ratio,
)
from mammopipe.training.metrics.scale import Scale
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
    "malignant_or_not",
    "precision",
    "probabilistic_f1",
    "ratio",
    "recall",
    "roc_auc",
    "roc_curve",
    "sensitivity_at_specificity",
    "specificity_at_sensitivity",
]

LEAST_IMAGES_FOR_CALIBRATION_ERROR = 3000
"""With fewer images, chance raises the calibration error so much that its intervals miss the true value too often: with
258 images, 88 % of them covered it, in the simulation of `benchmarks.studies.bench_coverage` before this limit."""
CALIBRATION_BINS = 10
"""Number of equal-width bins over the confidence. Ten suit small test splits: that of MIAS has 64 images."""


def _confusion(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    """Return confusion matrices (resamples, classes, classes); rows are the truth, columns the predicted class."""
    classes = probabilities.shape[1]
    # One-hot cells of the matrix, so that one product counts all resamples.
    cells = np.eye(classes * classes)[labels * classes + probabilities.argmax(axis=1)]
    counts: Floats = weights @ cells
    return counts.reshape(-1, classes, classes)


def confusion_matrix(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Integers:
    """Return the confusion matrix.

    Args:
        labels: (n,) class indices.
        probabilities: (n, classes).

    Returns:
        (classes, classes) int64 number of images; rows are the truth, columns the predicted class.

    Raises:
        MetricError: The input is invalid.
    """
    truth, values = check_classes("confusion_matrix", labels, probabilities)
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


def auc(positive: npt.NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return the Mann-Whitney statistic of each resample.

    That is the proportion of (positive, negative) pairs in correct order; a tie counts one half.
    """
    order = np.flatnonzero(~positive)[np.argsort(scores[~positive], kind="stable")]
    below = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights[:, order], axis=1)], axis=1)
    # Negatives below a positive's score are counted by `left`, those at or below it by `right`; half of both counts a
    # tie as one half.
    left = np.searchsorted(scores[order], scores[positive], "left")
    right = np.searchsorted(scores[order], scores[positive], "right")
    of_positives = weights[:, positive]
    pairs = np.einsum("ri,ri->r", of_positives, below[:, left] + below[:, right]) / 2
    return ratio(pairs, of_positives.sum(axis=1) * below[:, -1])


def _class_auc(index: int, labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    return auc(labels == index, probabilities[:, index], weights)


def _macro_auc(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    classes = range(probabilities.shape[1])
    areas: Floats = np.mean([_class_auc(index, labels, probabilities, weights) for index in classes], axis=0)
    return areas


def _log_loss(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    true = probabilities[np.arange(len(labels)), labels] / probabilities.sum(axis=1)
    # The bound of scikit-learn: a single image with probability 0 must not make the mean infinite.
    return _mean(-np.log(np.clip(true, np.finfo(np.float64).eps, 1)), weights)


def _brier(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    return _mean(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1), weights)


def _bins(probabilities: Floats, bins: int) -> Floats:
    """Return (images, bins) with 1 in the bin of each image's confidence; a bin excludes its lower bound."""
    index = np.clip(np.ceil(probabilities.max(axis=1) * bins).astype(np.int64) - 1, 0, bins - 1)
    member: Floats = np.eye(bins)[index]
    return member


def _calibration_error(labels: Integers, probabilities: Floats, weights: Floats) -> Floats:
    gaps = probabilities.max(axis=1) - (probabilities.argmax(axis=1) == labels)
    sums = np.abs(weights @ (_bins(probabilities, CALIBRATION_BINS) * gaps[:, np.newaxis]))
    return ratio(sums.sum(axis=1), weights.sum(axis=1))


def calibration_bins(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> list[dict[str, float]]:
    """Return the points of a reliability plot: {"confidence", "accuracy", "images"} for each bin with images."""
    truth, values = check_classes("calibration_bins", labels, probabilities)
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
    """Return sensitivity and specificity, each (resamples, thresholds).

    The thresholds decrease: at the first, no image is called positive; at the last, all are.
    """
    order = np.argsort(-scores, kind="stable")
    # Only the last image of each run of equal scores: no threshold separates them.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    drawn = weights[:, order]

    def share(of: Floats) -> Floats:
        sums = np.cumsum(drawn * of, axis=1)
        reached = np.concatenate([np.zeros((len(drawn), 1)), sums[:, ends]], axis=1)
        return ratio(reached, np.broadcast_to(sums[:, -1:], reached.shape))

    positive = labels[order].astype(np.float64)
    return share(positive), 1 - share(1 - positive)


def _best_where(wanted: Floats, held: Floats, target: float) -> Floats:
    """Return the highest `wanted` rate over the thresholds where the `held` rate reaches the target."""
    # The tolerance accepts a rate that equals the target but for rounding.
    best = np.where(held >= target - 1e-12, wanted, -1.0).max(axis=1)
    # A resample that lacks a class has a rate of NaN at every threshold.
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
    """Return the points of the ROC curve.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,).

    Returns:
        1 - specificity and sensitivity, each (thresholds + 1,), from (0, 0) to (1, 1).

    Raises:
        MetricError: The input is invalid, or a class has no image.
    """
    truth, values = check_binary("roc_curve", labels, scores)
    sensitivity, specificity = _rates(truth, values, np.ones((1, len(truth))))
    if not np.isfinite(sensitivity + specificity).all():
        raise MetricError("roc_curve is undefined here: it needs images of both classes")
    return 1 - specificity[0], sensitivity[0]


_EACH = "at least one image of each class"
BOTH = "images with and without the finding"

accuracy = Metric("accuracy", _accuracy, needs="at least one image", share=True, kinds=all_alike)
"""The proportion of images whose predicted class is the true class."""
balanced_accuracy = Metric("balanced_accuracy", lambda *given: np.mean(_recalls(*given), axis=1), needs=_EACH)
"""The mean recall over the classes."""
macro_auc = Metric("macro_auc", _macro_auc, needs=_EACH, share=True)
"""The mean one-vs-rest area under the ROC curve over the classes."""
malignant_auc = Metric(
    "malignant_auc",
    lambda labels, probabilities, weights: _class_auc(probabilities.shape[1] - 1, labels, probabilities, weights),
    needs=BOTH,
    share=True,
    kinds=lambda labels, probabilities: (labels == probabilities.shape[1] - 1).astype(np.int64),
)
"""The area under the ROC curve of the malignant class, the last one, against all others."""
log_loss = Metric("log_loss", _log_loss, needs="at least one image", scale=Scale.POSITIVE)
"""The mean negative log-likelihood of the true class, in nats."""
brier = Metric("brier", _brier, needs="at least one image", scale=Scale.UP_TO_TWO)
"""The mean squared distance from the one-hot truth, summed over the classes; from 0 to 2 (Brier 1950)."""
expected_calibration_error = Metric(
    "expected_calibration_error",
    _calibration_error,
    needs="at least one image",
    kinds=all_alike,
    least_images=LEAST_IMAGES_FOR_CALIBRATION_ERROR,
    raised=True,
)
"""The mean gap between confidence and accuracy over ten bins of equal width (Naeini 2015, Guo 2017)."""
roc_auc = Metric("roc_auc", lambda labels, *given: auc(labels == 1, *given), needs=BOTH, binary=True, share=True)
"""The area under the ROC curve of one score."""
probabilistic_f1 = Metric("probabilistic_f1", _probabilistic_f1, needs="at least one positive image", binary=True)
"""F1 with probabilities in place of decisions (Yacouby and Axman 2020; the RSNA 2023 challenge)."""


def malignant_or_not(labels: Integers, probabilities: Floats) -> tuple[Integers, Floats]:
    """Return labels, (n,), and probabilities, (n, 2), for negative and malignant; the last given class is malignant."""
    malignant = probabilities[:, -1]
    return (labels == probabilities.shape[1] - 1).astype(np.int64), np.stack([1 - malignant, malignant], axis=1)


def class_auc(index: int) -> Metric:
    """Return the one-vs-rest area under the ROC curve of one class."""
    return Metric(
        f"auc of class {index}", partial(_class_auc, index), needs=BOTH, share=True, kinds=against_rest(index)
    )


def precision(index: int) -> Metric:
    """Return the proportion of images predicted as this class that belong to it; undefined when there are none."""
    return Metric(
        f"precision of class {index}",
        partial(_precision, index),
        needs="an image predicted as this class",
        share=True,
        kinds=predicted(index),
    )


def recall(index: int) -> Metric:
    """Return the proportion of images of this class that are predicted as this class."""
    return Metric(
        f"recall of class {index}",
        lambda *given: _recalls(*given)[:, index],
        needs="an image of this class",
        share=True,
        kinds=only_class(index),
    )


def f1(index: int) -> Metric:
    """Return the harmonic mean of precision and recall of one class: 2 TP / (2 TP + FP + FN)."""
    return Metric(
        f"f1 of class {index}",
        partial(_f1, index),
        needs="an image of this class, or predicted as it",
        kinds=only_class(index),
    )


def _target(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise MetricError(f"{name}={value} must lie in 0..1")
    return value


def sensitivity_at_specificity(specificity: float) -> Metric:
    """Return the highest sensitivity over all thresholds that reach the specificity; not interpolated."""
    figures = partial(_sensitivity_at_specificity, _target("specificity", specificity))
    return Metric("sensitivity_at_specificity", figures, needs=BOTH, binary=True)


def specificity_at_sensitivity(sensitivity: float) -> Metric:
    """Return the highest specificity over all thresholds that reach the sensitivity; not interpolated."""
    figures = partial(_specificity_at_sensitivity, _target("sensitivity", sensitivity))
    return Metric("specificity_at_sensitivity", figures, needs=BOTH, binary=True)
