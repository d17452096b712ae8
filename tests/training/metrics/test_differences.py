"""Confidence intervals of the difference of two models on the same images."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Interval, Resamples
from mammopipe.training.metrics.metric import Metric, all_alike, mean_metric
from mammopipe.training.metrics.scale import Scale

Floats = NDArray[np.float64]
MEAN = mean_metric("mean", lambda labels, scores: scores, needs="a case", scale=Scale.REAL)


def pair(patients: int = 24) -> tuple[NDArray[np.int64], Floats, Floats, list[str]]:
    random = np.random.default_rng(11)
    labels = np.arange(patients) % 2
    first = labels + random.normal(size=patients)
    return labels, first, first + 0.5 * random.normal(size=patients) + 0.2 * labels, [str(n) for n in range(patients)]


def test_a_difference_is_the_other_minus_the_first_with_the_spread_of_both() -> None:
    labels, first, other, groups = pair()
    draws = Resamples.draw(groups, n=200, seed=0)
    found = draws.difference(MEAN, labels, first, other, level=0.9)
    assert found.value == pytest.approx(other.mean() - first.mean()) and found.undefined == 0
    one, two = (draws.interval(MEAN, labels, each, level=0.9) for each in (first, other))
    figures = [MEAN.weighted(labels, each, draws.counts.astype(float)) for each in (first, other)]
    common = np.corrcoef(*figures)[0, 1]
    assert one.low is not None and two.low is not None and one.high is not None and two.high is not None
    a, b = two.value - two.low, one.high - one.value
    assert found.low == pytest.approx(found.value - np.sqrt(a**2 + b**2 - 2 * common * a * b), rel=1e-9)
    a, b = two.high - two.value, one.value - one.low
    assert found.high == pytest.approx(found.value + np.sqrt(a**2 + b**2 - 2 * common * a * b), rel=1e-9)
    back = draws.difference(MEAN, labels, other, first, level=0.9)
    assert back.low is not None and found.high is not None
    assert (back.value, back.low) == pytest.approx((-found.value, -found.high))


def test_draws_that_lack_a_class_are_counted_and_too_many_give_no_interval() -> None:
    labels, first, other, groups = pair()
    rare = np.zeros_like(labels)
    rare[:2] = 1
    draws = Resamples.draw(groups, n=300, seed=0)
    without = int((draws.counts[:, :2].sum(axis=1) == 0).sum())
    found = draws.difference(classification.roc_auc, rare, first, other, level=0.95)
    assert 0 < without == found.undefined < 150 and found.low is not None
    rare[1] = 0
    single = draws.difference(classification.roc_auc, rare, first, other, level=0.95)
    assert (single.low, single.high) == (None, None), "one patient of a kind has no spread"
    assert single.undefined == int((draws.counts[:, 0] == 0).sum())


def test_a_side_at_the_bound_of_its_range_gives_no_interval_unless_both_are_equal() -> None:
    labels, first, _, groups = pair()
    draws = Resamples.draw(groups, n=50, seed=0)
    perfect = labels * 1.0
    for sides in ((first, perfect), (perfect, first)):
        found = draws.difference(classification.roc_auc, labels, *sides, level=0.95)
        assert found.value != 0 and (found.low, found.high) == (None, None)
    same = draws.difference(classification.roc_auc, labels, perfect, perfect.copy(), level=0.95)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_models_that_differ_by_a_constant_have_no_interval() -> None:
    labels, first, _, groups = pair()
    draws = Resamples.draw(groups, n=50, seed=0)
    # Every draw gives the same difference; a width of 0 would claim certainty.
    found = draws.difference(MEAN, labels, first, first + 0.25, level=0.95)
    assert found.value == pytest.approx(0.25) and (found.low, found.high) == (None, None)


def test_without_an_interval_there_are_still_the_value_and_the_undefined_draws() -> None:
    labels, first, _, groups = pair()
    rare = np.zeros_like(labels)
    rare[:3] = 1
    draws = Resamples.draw(groups, n=300, seed=0)
    missing = int((draws.counts[:, :3].sum(axis=1) == 0).sum())
    assert missing > 0
    auc = classification.roc_auc(rare, first)
    perfect = draws.difference(classification.roc_auc, rare, first, rare * 1.0, level=0.95)
    assert perfect == Interval(1 - auc, None, None, missing)
    assert draws.difference(classification.roc_auc, rare, first, first, level=0.95) == Interval(0, 0, 0, missing)
    rare[1:3] = 0
    missing = int((draws.counts[:, 0] == 0).sum())
    single = draws.difference(classification.roc_auc, rare, first, -first, level=0.95)
    value = classification.roc_auc(rare, -first) - classification.roc_auc(rare, first)
    assert single == Interval(value, None, None, missing), "one patient of a kind"


@pytest.mark.parametrize(
    ("first_lacks", "other_lacks", "missing", "has_interval"),
    [([0, 1, 2, 3, 4], [0, 1], 5, True), ([0, 1, 2], [4, 5, 6], 6, False), ([], [3], 1, True)],
)
def test_a_draw_counts_where_both_models_are_defined(
    first_lacks: list[int], other_lacks: list[int], missing: int, has_interval: bool
) -> None:
    """Up to half of the draws may be without a difference."""

    def of(labels: Any, values: Any, weights: Floats) -> Floats:
        # The first value names the image that a draw must have for this model to be defined.
        return np.where(weights[:, int(values[0])] > 0, weights @ values / weights.sum(axis=1), np.nan)

    metric = Metric("needs one", of, needs="", binary=True, scale=Scale.REAL, kinds=all_alike)
    counts = np.random.default_rng(0).integers(1, 4, (10, 8)).astype(np.uint16)
    counts[first_lacks, 1], counts[other_lacks, 2] = 0, 0
    draws = Resamples(counts, np.arange(8))
    values = np.random.default_rng(1).normal(size=(2, 8))
    values[:, 0] = 1, 2
    found = draws.difference(metric, np.zeros(8, int), *values, level=0.95)
    assert (found.undefined, found.low is not None) == (missing, has_interval)
    assert found.value == pytest.approx(values[1].mean() - values[0].mean())
