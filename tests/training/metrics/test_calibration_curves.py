"""Reliability, Brier decomposition, decision curve and the fitted constants of one probability, worked out by hand."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from mammopipe.training.metrics.bootstrap import MetricError
from mammopipe.training.metrics.calibration import (
    OF_MALIGNANT,
    THRESHOLD_PROBABILITIES,
    brier_decomposition,
    calibration_intercept,
    calibration_slope,
    expected_over_observed,
    net_benefit,
    of_malignant,
    precision_recall_curve,
    reliability_of_malignant,
)
from mammopipe.training.metrics.metric import by_label
from mammopipe.training.metrics.scale import Scale


def test_the_metrics_of_malignant_have_their_names_and_ranges() -> None:
    assert [(metric.name, metric.scale, metric.share, metric.needs) for metric in OF_MALIGNANT] == [
        ("expected_over_observed", Scale.POSITIVE, False, "a positive case"),
        ("calibration_intercept", Scale.REAL, False, "images with and without the finding"),
        ("calibration_slope", Scale.REAL, False, "images with and without the finding whose scores overlap"),
        ("average_precision", Scale.SHARE, False, "a malignant case"),
    ]
    assert all(metric.kinds is by_label for metric in OF_MALIGNANT)
    for metric in OF_MALIGNANT:
        with pytest.raises(MetricError, match="scores must be finite numbers, one per image"):
            metric([0, 1], [[0.5, 0.5], [0.2, 0.8]])


def test_expected_over_observed_by_hand() -> None:
    assert expected_over_observed([0, 1, 1], [0.5, 0.25, 0.75]) == pytest.approx(0.75)
    found = expected_over_observed.weighted(np.array([0, 1]), np.array([0.5, 0.25]), np.array([[1.0, 3.0], [2.0, 0.0]]))
    assert found[0] == pytest.approx(1.25 / 3) and np.isnan(found[1]), "no positive case"


@pytest.mark.parametrize("scores", [[0.1, 0.2, 0.6, 0.9], [0.001, 0.002, 0.003, 0.01], [0.99, 0.5, 0.999, 0.9]])
def test_the_intercept_makes_the_mean_probability_right(scores: list[float]) -> None:
    labels, weights = np.array([0, 1, 0, 1]), np.array([[1.0, 1, 1, 1], [2.0, 1, 0, 3], [3.0, 0, 1, 0], [0.0, 2, 0, 1]])
    logits = np.log(scores) - np.log1p(-np.array(scores))

    def expected(weights: np.ndarray) -> float:
        def excess(constant: float) -> float:
            return float(weights @ (1 / (1 + np.exp(-(logits + constant))) - labels))

        return float(brentq(excess, -30, 30, xtol=1e-13))

    found = calibration_intercept.weighted(labels, np.array(scores), weights)
    assert found[:2] == pytest.approx([expected(weights[0]), expected(weights[1])], abs=1e-9)
    assert np.isnan(found[2:]).all(), "all negative, all positive"
    assert calibration_intercept(labels, scores) == pytest.approx(found[0])


def test_probabilities_of_0_and_1_count_as_a_millionth_from_them() -> None:
    ends, kept = [0.0, 1.0, 0.0, 1.0], [1e-6, 1 - 1e-6, 1e-6, 1 - 1e-6]
    labels = [0, 1, 1, 0]
    assert calibration_intercept(labels, ends) == calibration_intercept(labels, kept)
    assert calibration_intercept([0, 0, 0, 1], [1e-7, 1e-7, 1e-7, 1e-7]) == pytest.approx(
        np.log(1 / 3) - np.log(1e-6 / (1 - 1e-6))
    )


def test_the_slope_of_resamples_needs_both_kinds() -> None:
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.2, 0.4, 0.5, 0.7])
    found = calibration_slope.weighted(
        labels, scores, np.array([[1.0, 1, 1, 1], [2.0, 0, 1, 0], [0.0, 1, 0, 2], [1, 1, 0, 1]])
    )
    assert np.isfinite(found[0]) and np.isnan(found[1:]).all(), "no positive, no negative, no overlap"


def test_a_slope_that_does_not_converge_is_undefined() -> None:
    """With probabilities of 0 and 1 that are wrong as often as right, Newton's method does not converge."""
    with pytest.raises(MetricError, match="calibration_slope is undefined here"):
        calibration_slope([0, 1, 1, 0], [0.0, 1.0, 0.0, 1.0])


def test_reliability_has_bins_of_equally_many_cases() -> None:
    scores = np.arange(25) / 100
    labels = np.array([0] * 12 + [1] * 13)
    low, high = reliability_of_malignant(labels, scores)
    assert (low["images"], low["malignant"], low["observed"]) == (12, 0, 0) and low["predicted"] == pytest.approx(0.055)
    assert (high["images"], high["malignant"], high["observed"]) == (13, 13, 1)
    assert high["predicted"] == pytest.approx(0.18)
    # Clopper and Pearson with all and with no positives: the root of half the error.
    assert (low["low"], low["high"]) == (0, pytest.approx(1 - 0.025 ** (1 / 12)))
    assert (high["low"], high["high"]) == (pytest.approx(0.025 ** (1 / 13)), 1)


def test_the_bounds_of_a_bin_are_those_of_clopper_and_pearson() -> None:
    (point,) = reliability_of_malignant(np.array([1, 0, 0, 1, 0, 0, 1]), np.full(7, 0.3))
    exact = stats.binomtest(3, 7).proportion_ci(0.95, method="exact")
    assert (point["low"], point["high"]) == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert (point["observed"], point["predicted"]) == (pytest.approx(3 / 7), pytest.approx(0.3))


@pytest.mark.parametrize(("cases", "bins"), [(1, 1), (9, 1), (10, 1), (19, 1), (20, 2), (99, 9), (100, 10), (500, 10)])
def test_a_bin_has_ten_cases_at_least_and_there_are_ten_bins_at_most(cases: int, bins: int) -> None:
    points = reliability_of_malignant(np.arange(cases) % 2, np.linspace(0.1, 0.9, cases))
    sizes = [int(point["images"]) for point in points]
    assert len(points) == bins and sum(sizes) == cases and max(sizes) - min(sizes) <= 1


def test_equal_scores_share_a_bin() -> None:
    points = reliability_of_malignant(np.zeros(40, int), np.repeat([0.1, 0.2, 0.3], [5, 30, 5]))
    assert sum(int(point["images"]) for point in points) == 40
    assert [point["images"] for point in points if point["predicted"] == pytest.approx(0.2)] in ([30], [])
    assert len(points) == 2, "the edges of three bins of four are one score"


def test_the_brier_score_is_decomposed_over_the_bins() -> None:
    scores = np.repeat([0.1, 0.3], [10, 30])
    labels = np.array([1] * 2 + [0] * 8 + [1] * 12 + [0] * 18)
    found = brier_decomposition(labels, scores)
    assert found["brier"] == pytest.approx((2 * 0.81 + 8 * 0.01 + 12 * 0.49 + 18 * 0.09) / 40)
    assert found["reliability"] == pytest.approx(0.25 * 0.1**2 + 0.75 * 0.1**2)
    assert found["resolution"] == pytest.approx(0.25 * (0.2 - 0.35) ** 2 + 0.75 * (0.4 - 0.35) ** 2)
    assert found["uncertainty"] == pytest.approx(0.35 * 0.65)
    assert found["remainder"] == pytest.approx(0, abs=1e-12), "scores of a bin are equal"
    spread = brier_decomposition(labels, scores + np.linspace(-0.05, 0.05, 40))
    total = spread["reliability"] - spread["resolution"] + spread["uncertainty"] + spread["remainder"]
    assert spread["brier"] == pytest.approx(total) and abs(spread["remainder"]) > 1e-6


def test_net_benefit_by_hand() -> None:
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.6, 0.5, 0.2, 0.1])
    (point,) = net_benefit(labels, scores, at=[0.2])
    assert point == {
        "threshold": 0.2,
        "model": pytest.approx(0.5 - 0.25 * 0.25),
        "all": pytest.approx(0.5 - 0.25 * 0.5),
        "none": 0,
    }
    assert [point["threshold"] for point in net_benefit(labels, scores)] == [*THRESHOLD_PROBABILITIES]
    assert THRESHOLD_PROBABILITIES[0] == 0.005 and THRESHOLD_PROBABILITIES[-1] == 0.5


def test_the_precision_recall_curve_rises_in_recall() -> None:
    found = precision_recall_curve([1, 0, 1], [0.9, 0.5, 0.3])
    assert found is not None
    assert found["recall"] == [0, 0.5, 0.5, 1] and found["precision"] == pytest.approx([1, 1, 0.5, 2 / 3])
    assert precision_recall_curve([0, 0], [0.1, 0.2]) is None


@pytest.mark.parametrize(("cases", "points"), [(199, 200), (200, 200), (1000, 200)])
def test_a_long_precision_recall_curve_is_thinned_to_200_points(cases: int, points: int) -> None:
    labels = (np.arange(cases) % 2)[::-1]
    found = precision_recall_curve(labels, np.arange(cases) / cases)
    assert found is not None and len(found["recall"]) == len(found["precision"]) == points
    assert (found["recall"][0], found["recall"][-1]) == (0, 1) and found["recall"] == sorted(found["recall"])
    middle = found["precision"][points // 2]
    assert middle == pytest.approx(0.5, abs=0.01)


def test_the_plots_of_malignant_are_all_there() -> None:
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.6, 0.5, 0.2, 0.1])
    assert of_malignant(labels, scores) == {
        "reliability": reliability_of_malignant(labels, scores),
        "brier": brier_decomposition(labels, scores),
        "decision_curve": net_benefit(labels, scores),
        "precision_recall": precision_recall_curve(labels, scores),
    }
