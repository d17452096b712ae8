"""Calibration slope and intercept: against scikit-learn, and undefined where no finite or no single value fits."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mammopipe.training.metrics.bootstrap import MetricError, Resamples
from mammopipe.training.metrics.calibration import (
    calibration_intercept,
    calibration_slope,
    expected_over_observed,
)
from mammopipe.training.metrics.classification import log_loss
from mammopipe.training.metrics.precision_recall import average_precision
from mammopipe.training.metrics.scorecard import figure

LABELS = np.tile([0, 1], 20)
DRAWS = Resamples.draw([f"woman-{index // 2}" for index in range(40)], n=200, seed=0)
WITHOUT_OVERLAP = {
    "separated": np.where(LABELS == 1, 0.9, 0.1) + np.linspace(0, 0.05, 40),
    "separated the other way": np.where(LABELS == 1, 0.1, 0.9) + np.linspace(0, 0.05, 40),
    "0 and 1": LABELS.astype(np.float64),
    "all equal": np.full(40, 0.3),
    "they meet in one score": np.where(np.arange(40) < 2, 0.5, np.where(LABELS == 1, 0.6, 0.4)),
}


@pytest.mark.parametrize("seed", range(4))
def test_slope_is_that_of_a_logistic_regression(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.uniform(0.02, 0.98, 60)
    labels = (random.random(60) < scores).astype(int)
    logits = np.log(scores / (1 - scores))
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], labels)
    assert calibration_slope(labels, scores) == pytest.approx(float(reference.coef_[0, 0]), rel=1e-4)
    counts = random.integers(0, 3, 60)
    repeated = np.repeat(np.arange(60), counts)
    weighted = calibration_slope.weighted(labels, scores, counts[None].astype(float))
    assert weighted[0] == pytest.approx(calibration_slope(labels[repeated], scores[repeated]))


@pytest.mark.parametrize("name", WITHOUT_OVERLAP)
def test_slope_is_undefined_where_the_scores_of_both_kinds_do_not_overlap(name: str) -> None:
    with pytest.raises(MetricError, match="whose scores overlap"):
        calibration_slope(LABELS, WITHOUT_OVERLAP[name])
    found = figure(calibration_slope, LABELS, WITHOUT_OVERLAP[name], DRAWS)
    assert found["value"] is None and found["low"] is None and "overlap" in found["reason"]


@pytest.mark.parametrize("metric", [calibration_intercept, expected_over_observed, average_precision])
def test_a_figure_that_no_draw_changes_has_no_interval(metric) -> None:
    # Each woman has one image of either kind, so every draw has the same share of positives: any spread is rounding.
    found = figure(metric, LABELS, np.full(40, 0.3), DRAWS)
    assert found["value"] is not None and found["low"] is None and found["high"] is None


def test_log_loss_of_equal_probabilities_has_no_interval() -> None:
    assert figure(log_loss, LABELS, np.full((40, 2), 0.5), DRAWS)["low"] is None
