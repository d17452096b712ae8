"""The figures of a threshold on one score: what it does to call positive whatever scores at or above it.

Labels (n,) are 0 or 1, scores (n,) finite; input that breaks a rule, and what is undefined, raises `MetricError`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from mammopipe.training.metrics.metric import Kinds, Metric, all_alike, alone, by_label, called, ratio
from mammopipe.training.model.predictions import Floats, Integers

SCREENING_PREVALENCE = 0.006
"""Share of screening exams with a cancer, found or missed: 5.1 and 0.8 of 1,000 (Lehman et al. 2017, the Breast Cancer
Surveillance Consortium, https://doi.org/10.1148/radiol.2016161174). Predictive values of a set that is rich in cancers
say nothing about screening; those at this prevalence do, if the score behaves there as here."""


class Tally:
    """What a threshold does to each resample: sums of weights, (resamples,)."""

    def __init__(self, threshold: float, labels: Integers, scores: Floats, weights: Floats) -> None:
        """Add up the weights, (resamples, images)."""
        called, positive = scores >= threshold, labels == 1
        cells = np.stack([called & positive, called, positive, np.ones_like(called)], axis=1).astype(np.float64)
        counts: Floats = weights @ cells
        self.hits: Floats = counts[:, 0]
        self.called: Floats = counts[:, 1]
        self.positive: Floats = counts[:, 2]
        self.everything: Floats = counts[:, 3]

    @property
    def negative(self) -> Floats:
        """Negative cases."""
        return self.everything - self.positive

    @property
    def passed(self) -> Floats:
        """Negative cases that are not called positive."""
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
    """Return the share of the positive cases that are called so."""
    return _metric("sensitivity", _sensitivity, threshold, "a positive case", alone(1))


def specificity_at(threshold: float) -> Metric:
    """Return the share of the negative cases that are not called positive."""
    return _metric("specificity", _specificity, threshold, "a negative case", alone(0))


def recall_rate_at(threshold: float) -> Metric:
    """Return the share of all cases that are called positive: who would be called back."""
    return _metric(
        "recall_rate", lambda tally: ratio(tally.called, tally.everything), threshold, "at least one case", all_alike
    )


def ppv_at(threshold: float) -> Metric:
    """Return the positive predictive value: the share of the cases called positive that are."""
    return _metric(
        "ppv", lambda tally: ratio(tally.hits, tally.called), threshold, "a case called positive", called(threshold)
    )


def npv_at(threshold: float) -> Metric:
    """Return the negative predictive value: the share of the cases not called positive that are negative."""
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
        "a positive case, or one called so",
        alone(1),
        share=False,
    )


def screening_ppv_at(threshold: float, prevalence: float = SCREENING_PREVALENCE) -> Metric:
    """Return the positive predictive value at a prevalence, from sensitivity and specificity (Bayes)."""
    needs = "a case called positive, and cases of both kinds"
    return _metric("screening_ppv", partial(_ppv_at, prevalence), threshold, needs, share=False)


def screening_npv_at(threshold: float, prevalence: float = SCREENING_PREVALENCE) -> Metric:
    """Return the negative predictive value at a prevalence, from sensitivity and specificity (Bayes)."""
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
"""What is reported of a threshold."""
