"""Metrics of the precision-recall curve, for rare cases: average precision and the best F1 over all thresholds."""

import numpy as np

from mammopipe.training.metrics.metric import Metric, ratio
from mammopipe.training.model.predictions import Floats, Integers


def _counts(labels: Integers, scores: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Return true positives and cases called positive, each (resamples, thresholds), and positives, (resamples, 1).

    The thresholds are the distinct scores, from the highest to the lowest.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    drawn = weights[:, order]
    hits = np.cumsum(drawn * labels[order], axis=1)
    return hits[:, ends], np.cumsum(drawn, axis=1)[:, ends], hits[:, -1:]


def _average_precision(labels: Integers, scores: Floats, weights: Floats) -> Floats:
    hits, called, positives = _counts(labels, scores, weights)
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    gained = np.diff(hits, axis=1, prepend=0.0)
    return ratio((precision * gained).sum(axis=1), positives[:, 0])


def _best_f1(labels: Integers, scores: Floats, weights: Floats) -> Floats:
    hits, called, positives = _counts(labels, scores, weights)
    highest: Floats = np.max(ratio(2 * hits, called + positives), axis=1)
    return np.where(positives[:, 0] > 0, highest, np.nan)


_NEEDS = "a malignant case"

average_precision = Metric("average_precision", _average_precision, needs=_NEEDS, binary=True)
"""Mean precision over the positives, each at its own score: the sum of precision times the gain in recall. Chance level
is the proportion of positive cases."""
best_f1 = Metric("best_f1", _best_f1, needs=_NEEDS, binary=True)
"""The highest F1 over all thresholds. It is somewhat too high, because the threshold is chosen on the same cases."""
