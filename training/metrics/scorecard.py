"""All figures of one model on one split, each with its interval, as the JSON values that `evaluation.json` holds."""

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
"""Of every confidence interval."""

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
"""Points that a stored ROC curve has at the most; a plot shows no more."""


PLOTTED = ("roc", "reliability", "reliability_of_malignant")
"""Points of plots, which are only weight where nothing is drawn."""


def scorecard(
    labels: Integers, probabilities: Floats, *, classes: Sequence[str], resamples: Resamples
) -> dict[str, Any]:
    """Return confusion matrix (rows are the truth), every metric with its interval by patient, and the plots' points.

    `labels` (n,) class index, `probabilities` (n, classes). What is undefined has the value `None` and a reason.
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
    """Return {"value", "low", "high", "undefined_resamples"}; an undefined metric has nulls and a "reason"."""
    try:
        return resamples.interval(metric, labels, values, level=LEVEL).as_dict()
    except MetricError:
        return undefined(f"undefined: there must be {metric.needs}", resamples=len(resamples.counts))


def undefined(reason: str, *, resamples: int = 0) -> dict[str, Any]:
    """Return what stands for a figure that there is none of; the page shows the reason up to its colon."""
    return {"value": None, "low": None, "high": None, "undefined_resamples": resamples, "reason": reason}


def without_plots(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scorecard's figures alone, for where the points of its plots would only be weight."""
    return {name: value for name, value in figures.items() if name not in PLOTTED}


def _roc(positive: npt.NDArray[np.bool_], scores: Floats) -> dict[str, list[float]] | None:
    """Return the curve's corners, thinned evenly where there are too many; `None` without both kinds of image."""
    try:
        false_positive, sensitivity = classification.roc_curve(positive, scores)
    except MetricError:
        return None
    turns = np.flatnonzero(_turns(false_positive, sensitivity)) + 1
    kept = np.concatenate([[0], turns, [len(sensitivity) - 1]])
    if len(kept) > _CURVE_POINTS:
        kept = kept[np.linspace(0, len(kept) - 1, _CURVE_POINTS).round().astype(int)]
    return {"false_positive_rate": false_positive[kept].tolist(), "sensitivity": sensitivity[kept].tolist()}


def _turns(x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
    """Return of every inner point whether the line turns there."""
    run, rise = np.diff(x), np.diff(y)
    turned: npt.NDArray[np.bool_] = np.abs(run[:-1] * rise[1:] - run[1:] * rise[:-1]) > 1e-12
    return turned
