"""Computes all metrics of one model on one split with their intervals, as JSON values for `evaluation.json`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import MetricError, Resamples
from mammopipe.training.metrics.calibration import reliability_of_malignant
from mammopipe.training.metrics.metric import Metric
from mammopipe.training.model.predictions import Floats, Integers

LEVEL = 0.95
"""Confidence level of every interval."""

OVERALL: tuple[Metric, ...] = (
    classification.accuracy,
    classification.balanced_accuracy,
    classification.macro_auc,
    classification.malignant_auc,
    classification.expected_calibration_error,
    classification.brier,
    classification.log_loss,
)
OF_A_CLASS: Mapping[str, Callable[[int], Metric]] = {
    "auc": classification.class_auc,
    "precision": classification.precision,
    "recall": classification.recall,
    "f1": classification.f1,
}

_CURVE_POINTS = 200
"""Maximum number of points of a stored ROC curve; more would not show in a plot."""


PLOTTED = ("roc", "reliability", "reliability_of_malignant")
"""Keys of plot data, which only plots need."""


def scorecard(
    labels: Integers, probabilities: Floats, *, classes: Sequence[str], resamples: Resamples
) -> dict[str, Any]:
    """Return the confusion matrix, every metric with its interval, and the data of the plots.

    Args:
        labels: (n,) class indices.
        probabilities: (n, classes).
        classes: Names of the classes; malignant is the last.
        resamples: Bootstrap draws of the images' patients.

    Returns:
        JSON values. Rows of the confusion matrix are the truth. An undefined metric has the value `None` and a reason.
    """
    figures: dict[str, Any] = {
        "images": len(labels),
        "patients": resamples.patients,
        "confusion_matrix": classification.confusion_matrix(labels, probabilities).tolist(),
    }
    for metric in OVERALL:
        figures[metric.name] = figure(metric, labels, probabilities, resamples)
    for name, of_class in OF_A_CLASS.items():
        figures[name] = {
            label: figure(of_class(index), labels, probabilities, resamples) for index, label in enumerate(classes)
        }
    figures["roc"] = {label: _roc(labels == index, probabilities[:, index]) for index, label in enumerate(classes)}
    figures["reliability"] = classification.calibration_bins(labels, probabilities)
    malignant = probabilities.shape[1] - 1
    figures["reliability_of_malignant"] = reliability_of_malignant(
        (labels == malignant).astype(np.int64), probabilities[:, malignant]
    )
    return figures


def figure(metric: Metric, labels: Integers, values: Floats, resamples: Resamples) -> dict[str, Any]:
    """Return {"value", "low", "high", "undefined_resamples"}; for an undefined metric, nulls and a "reason"."""
    try:
        return resamples.interval(metric, labels, values, level=LEVEL).as_dict()
    except MetricError:
        return undefined(f"undefined: there must be {metric.needs}", resamples=len(resamples.counts))


def undefined(reason: str, *, resamples: int = 0) -> dict[str, Any]:
    """Return the JSON values of an undefined metric; the report shows the reason up to its colon."""
    return {"value": None, "low": None, "high": None, "undefined_resamples": resamples, "reason": reason}


def without_plots(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scorecard without the data of its plots."""
    return {name: value for name, value in figures.items() if name not in PLOTTED}


def _roc(positive: npt.NDArray[np.bool_], scores: Floats) -> dict[str, list[float]] | None:
    """Return the corners of the ROC curve, at most `_CURVE_POINTS`; `None` unless both kinds of image are present."""
    try:
        false_positive, sensitivity = classification.roc_curve(positive, scores)
    except MetricError:
        return None
    # Points on the straight line between two corners would not change the drawn curve.
    turns = np.flatnonzero(_turns(false_positive, sensitivity)) + 1
    kept = np.concatenate([[0], turns, [len(sensitivity) - 1]])
    if len(kept) > _CURVE_POINTS:
        kept = kept[np.linspace(0, len(kept) - 1, _CURVE_POINTS).round().astype(int)]
    return {"false_positive_rate": false_positive[kept].tolist(), "sensitivity": sensitivity[kept].tolist()}


def _turns(x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
    """Return for every inner point whether the line changes direction there."""
    run, rise = np.diff(x), np.diff(y)
    turned: npt.NDArray[np.bool_] = np.abs(run[:-1] * rise[1:] - run[1:] * rise[:-1]) > 1e-12
    return turned
