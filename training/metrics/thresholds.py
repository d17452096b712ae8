"""Metrics of a decision threshold: a case is called positive when its score is at or above the threshold.

Labels (n,) are 0 or 1; scores (n,) are finite. Invalid input and undefined metrics raise `MetricError`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from mammopipe.training.metrics.metric import Kinds, Metric, all_alike, by_label, called, only_class, ratio
from mammopipe.training.model.predictions import Floats, Integers

SCREENING_PREVALENCE = 0.006
"""Proportion of screening exams with a cancer, detected or missed: 5.1 and 0.8 of 1,000 (Lehman et al. 2017, the Breast
Cancer Surveillance Consortium, https://doi.org/10.1148/radiol.2016161174). Predictive values in a set that is enriched
with cancers do not apply to screening. Predictive values at this prevalence do, if sensitivity and specificity are the
same in screening."""


class Tally:
    """Counts of the confusion matrix at a threshold for each resample: sums of weights, (resamples,)."""

    def __init__(self, threshold: float, labels: Integers, scores: Floats, weights: Floats) -> None:
        """Count the cases; `weights` (resamples, images) is how often each case was drawn."""
        called, positive = scores >= threshold, labels == 1
        cells = np.stack([called & positive, called, positive, np.ones_like(called)], axis=1).astype(np.float64)
        counts: Floats = weights @ cells
        self.hits: Floats = counts[:, 0]
        self.called: Floats = counts[:, 1]
        self.positive: Floats = counts[:, 2]
        self.everything: Floats = counts[:, 3]

    @property
    def negative(self) -> Floats:
        """The number of negative cases."""
        return self.everything - self.positive

    @property
    def passed(self) -> Floats:
        """The number of negative cases that are not called positive (true negatives)."""
        return self.negative - (self.called - self.hits)


def _sensitivity(tally: Tally) -> Floats:
    return ratio(tally.hits, tally.positive)


def _specificity(tally: Tally) -> Floats:
    return ratio(tally.passed, tally.negative)


def _ppv_at(prevalence: float, tally: Tally) -> Floats:
    found, alarms = _sensitivity(tally) * prevalence, (1 - _specificity(tally)) * (1 - prevalence)
    return ratio(found, found + alarms)


def _npv_at(prevalence: float, tally: Tally) -> Floats:
    missed, passed = (1 - _sensitivity(tally)) * prevalence, _specificity(tally) * (1 - prevalence)
    return ratio(passed, passed + missed)


def _figures(
    of_tally: Callable[[Tally], Floats], threshold: float, labels: Integers, scores: Floats, weights: Floats
) -> Floats:
    return of_tally(Tally(threshold, labels, scores, weights))


def _metric(
    name: str,
    of_tally: Callable[[Tally], Floats],
    threshold: float,
    needs: str,
    kinds: Kinds = by_label,
    *,
    share: bool = True,
) -> Metric:
    figures = partial(_figures, of_tally, threshold)
    return Metric(name, figures, needs=needs, binary=True, share=share, kinds=kinds)


def sensitivity_at(threshold: float) -> Metric:
    """Return the sensitivity: the proportion of positive cases that are called positive."""
    return _metric("sensitivity", _sensitivity, threshold, "a positive case", only_class(1))


def specificity_at(threshold: float) -> Metric:
    """Return the specificity: the proportion of negative cases that are not called positive."""
    return _metric("specificity", _specificity, threshold, "a negative case", only_class(0))


def recall_rate_at(threshold: float) -> Metric:
    """Return the recall rate: the proportion of all cases that are called positive and would be recalled."""
    return _metric(
        "recall_rate", lambda tally: ratio(tally.called, tally.everything), threshold, "at least one case", all_alike
    )


def ppv_at(threshold: float) -> Metric:
    """Return the positive predictive value: the proportion of cases called positive that are positive."""
    return _metric(
        "ppv", lambda tally: ratio(tally.hits, tally.called), threshold, "a case called positive", called(threshold)
    )


def npv_at(threshold: float) -> Metric:
    """Return the negative predictive value: the proportion of cases not called positive that are negative."""
    return _metric(
        "npv",
        lambda tally: ratio(tally.passed, tally.everything - tally.called),
        threshold,
        "a case not called positive",
        called(threshold, positive=False),
    )


def f1_at(threshold: float) -> Metric:
    """Return the harmonic mean of sensitivity and positive predictive value: 2 TP / (2 TP + FP + FN)."""
    return _metric(
        "f1",
        lambda tally: ratio(2 * tally.hits, tally.called + tally.positive),
        threshold,
        "a positive case, or a case called positive",
        only_class(1),
        share=False,
    )


def screening_ppv_at(threshold: float, prevalence: float = SCREENING_PREVALENCE) -> Metric:
    """Return the positive predictive value at a prevalence, from sensitivity and specificity (Bayes' theorem)."""
    needs = "a case called positive, and cases of both kinds"
    return _metric("screening_ppv", partial(_ppv_at, prevalence), threshold, needs, share=False)


def screening_npv_at(threshold: float, prevalence: float = SCREENING_PREVALENCE) -> Metric:
    """Return the negative predictive value at a prevalence, from sensitivity and specificity (Bayes' theorem)."""
    needs = "a case not called positive, and cases of both kinds"
    return _metric("screening_npv", partial(_npv_at, prevalence), threshold, needs, share=False)


AT_A_THRESHOLD = (
    sensitivity_at,
    specificity_at,
    recall_rate_at,
    ppv_at,
    npv_at,
    f1_at,
    screening_ppv_at,
    screening_npv_at,
)
"""The metrics that are reported for a threshold."""
