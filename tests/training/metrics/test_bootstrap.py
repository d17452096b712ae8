"""Intervals by bootstrap over patients: compared with theory, exact bounds, and refusals."""

import numpy as np
import pytest
from scipy import stats

from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples, bootstrap_interval
from mammopipe.training.metrics.scale import Scale
from tests.training.metrics.test_classification import cases


def test_the_interval_widens_when_images_of_a_patient_agree():
    labels, probabilities, _ = cases(20)
    labels, probabilities = np.repeat(labels, 10), np.repeat(probabilities, 10, axis=0)
    by_image = classification.bootstrap_interval(
        classification.accuracy, labels, probabilities, groups=[str(i) for i in range(200)]
    )
    by_patient = classification.bootstrap_interval(
        classification.accuracy, labels, probabilities, groups=[str(i // 10) for i in range(200)]
    )
    assert by_patient.value == by_image.value
    assert by_patient.high - by_patient.low > 2.5 * (by_image.high - by_image.low), "a factor of 10 ** 0.5 is expected"


def test_the_interval_of_a_mean_is_the_one_of_theory():
    labels = np.array([0] * 60 + [1] * 40)
    interval = classification.bootstrap_interval(
        classification.accuracy,
        labels,
        np.tile([0.9, 0.1], (100, 1)),
        groups=[str(index) for index in range(100)],
        n=4000,
    )
    assert interval.value == 0.6
    assert interval.low == pytest.approx(0.6 - 1.96 * 0.049, abs=0.015)
    assert interval.high == pytest.approx(0.6 + 1.96 * 0.049, abs=0.015)


def test_the_interval_is_that_of_its_seed_and_narrows_with_its_level():
    labels, probabilities, patients = cases()
    draw = dict(groups=patients, n=500)
    first = classification.bootstrap_interval(classification.macro_auc, labels, probabilities, seed=3, **draw)
    assert first == classification.bootstrap_interval(classification.macro_auc, labels, probabilities, seed=3, **draw)
    assert (Resamples.draw(patients, n=500, seed=3).counts != Resamples.draw(patients, n=500, seed=4).counts).any()
    half = classification.bootstrap_interval(classification.macro_auc, labels, probabilities, seed=3, level=0.5, **draw)
    assert first.low < half.low < first.value < half.high < first.high


def test_memory_bounded_steps_change_nothing(monkeypatch):
    labels, probabilities, patients = cases()
    whole = classification.bootstrap_interval(classification.macro_auc, labels, probabilities, groups=patients, n=100)
    monkeypatch.setattr("mammopipe.training.metrics.bootstrap._CELLS_AT_ONCE", 7 * len(labels))
    assert whole == classification.bootstrap_interval(
        classification.macro_auc, labels, probabilities, groups=patients, n=100
    )


def test_an_interval_stays_inside_the_range_of_its_figure():
    labels, powers = np.array([0, 1, 2] * 5), np.exp(np.random.default_rng(1).normal(size=(15, 3)) * 4)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    interval = bootstrap_interval(classification.brier, labels, probabilities, groups=np.arange(15) // 3)
    assert 0 < interval.low < interval.value < interval.high < 2
    # The derivative that the interval uses is that of the scale.
    for scale, value in ((Scale.SHARE, 0.3), (Scale.UP_TO_TWO, 0.7), (Scale.POSITIVE, 3.0), (Scale.REAL, -1.0)):
        near = scale.to(np.array([value - 1e-6, value + 1e-6]))
        assert np.diff(near)[0] / 2e-6 == pytest.approx(scale.slope(value), rel=1e-4)
        assert scale.back(scale.to(np.array([value])))[0] == pytest.approx(value)


def test_undefined_resamples_are_counted_and_too_many_give_no_interval():
    rare = np.array([0] * 20 + [1, 2])
    probabilities = np.tile([0.6, 0.2, 0.2], (22, 1))
    patients = [str(index) for index in range(22)]
    interval = classification.bootstrap_interval(classification.recall(2), rare, probabilities, groups=patients)
    assert 250 < interval.undefined < 450, "a given patient is missed by (1 - 1/22) ** 22 = 0.36 of the draws"
    assert interval.as_dict() == {
        "value": 0,
        "low": 0,
        "high": pytest.approx(0.975),
        "undefined_resamples": interval.undefined,
    }
    both = classification.bootstrap_interval(classification.balanced_accuracy, rare, probabilities, groups=patients)
    assert both.undefined > 500 and both.low is None and both.high is None and both.value == pytest.approx(1 / 3)
    one = classification.bootstrap_interval(classification.accuracy, rare, probabilities, groups=["same"] * 22)
    assert one.low is None, "one patient has no spread to measure"


def test_a_share_that_no_draw_changes_has_the_exact_bounds_of_its_patients():
    # Twelve patients of two images each, all right; three more patients have no image of class 1.
    labels = np.array([1] * 24 + [0] * 3)
    patients = [str(index // 2) for index in range(24)] + ["x", "y", "z"]
    right = np.eye(2)[labels]
    exact = stats.binomtest(12, 12).proportion_ci(0.95, method="exact")
    found = classification.bootstrap_interval(classification.recall(1), labels, right, groups=patients)
    assert (found.value, found.low, found.high) == (1, pytest.approx(exact.low), 1)
    missed = classification.bootstrap_interval(classification.recall(1), labels, 1 - right, groups=patients)
    assert (missed.value, missed.low, missed.high) == (0, 0, pytest.approx(1 - exact.low))


def test_a_figure_that_is_not_a_proportion_has_no_interval_if_no_draw_changes_it():
    labels, groups = np.array([0, 1] * 10), [str(index) for index in range(20)]
    perfect = classification.bootstrap_interval(classification.f1(1), labels, np.eye(2)[labels], groups=groups)
    assert (perfect.value, perfect.low, perfect.high) == (1, None, None)


def test_a_perfect_area_has_the_exact_bounds_of_the_patients_of_the_rarer_kind():
    labels = np.array([1] * 8 + [0] * 12)
    groups = [str(index // 2) for index in range(20)]
    for metric, values in ((classification.macro_auc, np.eye(2)[labels]), (classification.roc_auc, labels * 1.0)):
        perfect = classification.bootstrap_interval(metric, labels, values, groups=groups)
        assert (perfect.value, perfect.low, perfect.high) == (1, pytest.approx(0.025 ** (1 / 4)), 1)


def test_an_interval_is_wider_where_few_patients_cause_the_variance():
    # In one set, two of 30 malignant patients rank low; in the other, all rank a little low. Both have 60 patients.
    labels, groups = np.array([1] * 30 + [0] * 30), [str(index) for index in range(60)]
    few, all_alike = np.arange(60.0)[::-1].copy(), np.random.default_rng(0).normal(size=60) + 1.5 * labels
    few[[3, 17]] = [4.5, 12.5]
    intervals = {}
    for name, scores in (("few", few), ("alike", all_alike)):
        draws = Resamples.draw(groups, n=2000, seed=0)
        found = draws.interval(classification.roc_auc, labels, scores, level=0.95)
        spread = np.nanstd(classification.roc_auc.weighted(labels, scores, draws.counts.astype(float)), ddof=1)
        middle, slope = np.log(found.value / (1 - found.value)), 1 / (found.value * (1 - found.value))
        intervals[name] = (np.log(found.high / (1 - found.high)) - middle) / (spread * slope)
    assert intervals["alike"] == pytest.approx(stats.t.ppf(0.975, 29), rel=0.08)
    assert intervals["few"] > 2.5, "as with four degrees of freedom or fewer"


def test_the_standard_error_is_not_below_that_of_the_jackknife():
    # For a proportion, the jackknife's standard error is that of theory with n - 1; few draws often give a smaller one.
    labels, groups = np.array([1] * 9 + [0] * 6), [str(index) for index in range(15)]
    scores = np.tile([0.4, 0.6], (15, 1))
    error = np.sqrt(0.6 * 0.4 / 14) / (0.6 * 0.4)
    for seed in range(6):
        found = Resamples.draw(groups, n=10, seed=seed).interval(classification.accuracy, labels, scores, level=0.95)
        reach = np.log(found.high / (1 - found.high)) - np.log(0.6 / 0.4)
        assert reach >= stats.t.ppf(0.975, 14) * error * (1 - 1e-9)


def test_the_interval_of_a_difference_is_recovered_from_those_of_its_sides():
    random = np.random.default_rng(5)
    labels, groups = np.repeat([0, 1], 40), [str(index // 2) for index in range(80)]
    first = 2.5 * labels + random.normal(size=80)
    other = first + random.normal(size=80) * 0.8
    draws = Resamples.draw(groups, n=4000, seed=0)
    found = draws.difference(classification.roc_auc, labels, first, other, level=0.95)
    one, two = (draws.interval(classification.roc_auc, labels, scores, level=0.95) for scores in (first, other))
    values = [classification.roc_auc.weighted(labels, each, draws.counts.astype(float)) for each in (first, other)]
    common = np.corrcoef(*values)[0, 1]
    down, up = (two.value - two.low, one.high - one.value), (two.high - two.value, one.value - one.low)
    low, high = (np.sqrt(a**2 + b**2 - 2 * common * a * b) for a, b in (down, up))
    assert (found.value - found.low, found.high - found.value) == pytest.approx((low, high), rel=1e-6)
    assert found.value - found.low > found.high - found.value, "a high area can fall farther than it can rise"
    same = draws.difference(classification.roc_auc, labels, first, first, level=0.95)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_bootstrap_refuses_what_it_cannot_do():
    labels, probabilities, patients = cases()
    with pytest.raises(classification.MetricError, match="undefined"):
        classification.bootstrap_interval(classification.recall(2), np.zeros(40, int), probabilities, groups=patients)
    with pytest.raises(classification.MetricError, match="level=95"):
        classification.bootstrap_interval(classification.accuracy, labels, probabilities, groups=patients, level=95)
    with pytest.raises(classification.MetricError, match="0 resamples"):
        classification.bootstrap_interval(classification.accuracy, labels, probabilities, groups=patients, n=0)
    with pytest.raises(classification.MetricError, match="40 labels for 39"):
        classification.bootstrap_interval(classification.accuracy, labels, probabilities, groups=patients[1:])


def test_far_bounds_of_an_interval_end_at_the_bounds_of_the_range() -> None:
    far = np.array([-1200.0, 1200.0])
    assert Scale.SHARE.back(far).tolist() == [0, 1] and Scale.UP_TO_TWO.back(far).tolist() == [0, 2]
    assert Scale.POSITIVE.back(far).tolist() == [0, np.inf]
