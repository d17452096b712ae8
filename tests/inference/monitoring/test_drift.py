"""Drift tests keep their budget of false alarms, even if the reference has few patients."""

from datetime import date, timedelta
from statistics import NormalDist

import numpy as np

from mammopipe.inference.monitoring.drift import DriftConfig, GroupWindow, judge
from mammopipe.training.model.distributions import REFERENCE_ERRORS, FeatureHistogram
from mammopipe.training.model.drift_features import EVERYTHING, FIGURES

MONDAY = date(2026, 1, 5)


def test_a_reference_that_errs_by_its_allowance_costs_no_more_than_the_budget() -> None:
    patients, requests, runs, windows = 129, 30, 100, 100
    error = NormalDist(REFERENCE_ERRORS / patients**0.5)
    values = [error.inv_cdf((number + 0.5) / patients) for number in range(patients)]
    known = {EVERYTHING: {"coverage": FeatureHistogram.of(values, patients)}}
    config, rng, begun = DriftConfig(false_alarm_windows=20), np.random.default_rng(4), 0
    for _ in range(runs):
        weeks = [
            GroupWindow(
                MONDAY + timedelta(weeks=number), requests, requests, {"coverage": rng.normal(size=requests).tolist()}
            )
            for number in range(windows)
        ]
        (group,) = judge({EVERYTHING: weeks}, known, {}, config)
        firing = np.array(group.figures["coverage"].strength) >= 1
        begun += int((firing & ~np.concatenate([[False], firing[:-1]])).sum())
    # The share of the budget that two tests of one figure have.
    assert 0 < begun <= 1.3 * runs * windows / (config.false_alarm_windows * len(FIGURES))
