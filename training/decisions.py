"""The figures of a threshold on one score: what it does to call positive whatever scores at or above it.

Labels (n,) are 0 or 1, scores (n,) finite; input that breaks a rule, and what is undefined, raises `MetricError`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from mammopipe.training.metrics.bootstrap import Floats, Integers
from mammopipe.training.metrics.classification import Metric, ratio

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


def _f1(hits: Floats, called: Floats, positive: Floats, everything: Floats) -> Floats:
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
    return _metric("f1", _f1, threshold, "a positive case, or one called so", share=False)


AT_A_THRESHOLD = (sensitivity_at, specificity_at, recall_rate_at, ppv_at, f1_at)
"""What is reported of a threshold."""
