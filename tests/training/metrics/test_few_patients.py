"""Intervals where few patients, or chance, would make them wrong."""

import numpy as np
import pytest

from mammopipe.training.metrics import calibration, classification
from mammopipe.training.metrics.bootstrap import LEAST_PATIENTS, Resamples
from mammopipe.training.metrics.metric import Metric
from mammopipe.training.model.predictions import softmax


@pytest.mark.parametrize("women", [LEAST_PATIENTS - 1, LEAST_PATIENTS])
def test_losses_and_ratios_of_few_patients_have_no_interval(women: int) -> None:
    labels = np.repeat([2, 1, 0], [women, 9, 20])
    random = np.random.default_rng(0)
    probabilities = softmax(random.normal(size=(len(labels), 3)) + np.eye(3)[labels])
    draws = Resamples.draw([f"woman {number}" for number in range(len(labels))], n=200, seed=0)
    malignant, scores = (labels == 2).astype(np.int64), probabilities[:, 2]
    found = {
        metric.name: draws.interval(metric, *values, level=0.95)
        for metric, *values in (
            (classification.log_loss, labels, probabilities),
            (classification.brier, labels, probabilities),
            (calibration.expected_over_observed, malignant, scores),
            (calibration.calibration_intercept, malignant, scores),
            (classification.malignant_auc, labels, probabilities),
        )
    }
    assert found.pop("malignant_auc").low is not None
    assert {name: each.low is None for name, each in found.items()} == dict.fromkeys(found, women < LEAST_PATIENTS)


def test_the_interval_of_a_metric_that_chance_raises_reaches_down_by_the_rise() -> None:
    labels = np.tile([0, 1, 2], 1000)
    random = np.random.default_rng(0)
    probabilities = softmax(random.normal(size=(len(labels), 3)) + np.eye(3)[labels])
    draws = Resamples.draw([f"woman {number // 2}" for number in range(len(labels))], n=200, seed=0)
    metric = classification.expected_calibration_error
    plain = Metric(metric.name, metric.weighted, needs=metric.needs, kinds=metric.kinds)
    found, other = (draws.interval(each, labels, probabilities, level=0.95) for each in (metric, plain))
    assert found.high == other.high and found.low is not None and other.low is not None and found.low < other.low
