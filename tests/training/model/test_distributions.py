"""Limits have their stated error rates, distributions survive JSON, and the monitored features are right."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2

from mammopipe.processing.datasets.manifest import ImageRecord, Label
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.distributions import (
    FeatureHistogram,
    allowance,
    cusum_limit,
    index_limit,
    stability_index,
)
from mammopipe.training.model.drift_features import EVERYTHING, fit_drift_reference, from_json, image_figures

RNG = np.random.default_rng(3)


def test_the_same_distribution_has_an_index_near_0_and_another_a_large_one() -> None:
    reference = FeatureHistogram.of(RNG.normal(size=2000), 2000)
    assert stability_index(reference, reference.count(RNG.normal(size=5000))) < 0.02
    assert stability_index(reference, reference.count(RNG.normal(1.0, size=5000))) > 0.5


def test_a_value_of_many_images_has_a_bin_of_its_own_and_a_step_to_either_side_shows() -> None:
    reference = FeatureHistogram.of(np.full(100, 0.25), 100)
    assert list(reference.counts) == [0, 100, 0]
    for moved in (0.24, 0.26):
        assert stability_index(reference, reference.count(np.full(50, moved))) > 2


def test_scores_have_mean_0_and_deviation_1_over_the_reference() -> None:
    reference = FeatureHistogram.of(RNG.exponential(size=500), 500)
    assert abs(float((reference.shares * reference.scores).sum())) < 1e-12
    assert float((reference.shares * reference.scores**2).sum()) == pytest.approx(1)
    assert FeatureHistogram((), (7,), 7).scores.tolist() == [0.0]


def test_a_rare_event_is_no_shift_by_itself() -> None:
    rare = FeatureHistogram((0.5,), (198, 2), 200)
    assert abs(float((rare.shares * rare.scores).sum())) < 1e-12 and max(rare.scores) < 3


@pytest.mark.parametrize("false_alarms", [0.1, 0.001, 0.00001])
@pytest.mark.parametrize("bins", [2, 5, 13])
def test_the_indexs_limit_is_a_quantile_of_chi_squared(false_alarms: float, bins: int) -> None:
    reference = FeatureHistogram(tuple(range(bins - 1)), (1,) * bins, 2)
    assert index_limit(reference, 2, false_alarms) == pytest.approx(chi2.isf(false_alarms, bins - 1))


def test_the_index_exceeds_its_limit_as_often_as_stated() -> None:
    above = 0
    for _ in range(600):
        reference = FeatureHistogram.of(RNG.normal(size=150), 150)
        found = reference.count(RNG.normal(size=60))
        above += stability_index(reference, found) > (1 / 60 + 1 / 150) * chi2.ppf(0.95, 9)
    assert above / 600 < 0.09
    assert index_limit(reference, 60, 0.001) > index_limit(reference, 600, 0.001) >= 0.2


def test_a_cusum_without_shift_has_the_stated_run_length() -> None:
    slack, wanted = 0.8, 200.0
    limit = cusum_limit(slack, wanted)
    runs = []
    for _ in range(300):
        up = down = week = 0.0
        while max(up, down) < limit:
            step = RNG.standard_normal()
            up, down, week = max(0.0, up + step - slack), max(0.0, down - step - slack), week + 1
        runs.append(week)
    assert 0.7 * wanted < np.mean(runs) < 1.4 * wanted


def test_a_reference_of_few_exams_allows_for_its_own_error() -> None:
    few, many = (FeatureHistogram.of(RNG.normal(size=400), exams) for exams in (25, 400))
    assert allowance(few) == pytest.approx(0.25 + 0.25) and allowance(many) == pytest.approx(0.25 + 0.0625)


def test_broken_distributions_are_refused() -> None:
    for values in (
        {"edges": [1, 1], "counts": [1, 1, 1], "exams": 1},
        {"edges": [1], "counts": [1], "exams": 1},
        {"edges": [1], "counts": [1, 1], "exams": 3},
    ):
        with pytest.raises(ConfigError):
            FeatureHistogram.from_json(values)


QUALITY = {
    "level_low": 0.1,
    "level_mid": 0.4,
    "level_high": 0.6,
    "detail": 0.03,
    "coverage": 0.6,
    "air_level": 0.0,
    "threshold": 0.03,
    "chest_side_evidence": -0.5,
    "pectoral_share": 0.2,
    "pectoral_contrast": 0.3,
    "flags": [],
}


def record(number: int, machine: str) -> ImageRecord:
    return ImageRecord(
        f"i{number}",
        f"p{number // 2}",
        "rsna",
        None,
        None,
        Label.NORMAL,
        machine_id=machine,
        site_id="1",
        quality={**QUALITY, "coverage": 0.5 + number / 1000},
    )


def test_distributions_are_kept_by_machine_and_site_and_scores_only_of_validation() -> None:
    learnt = [record(number, "21" if number < 80 else "29") for number in range(100)]
    judged = [record(number, "21") for number in range(200, 220)]
    shares = RNG.dirichlet((1, 1, 1), size=20)
    fitted = from_json(json.loads(json.dumps(fit_drift_reference(learnt, [*judged], shares, malignant=2))))
    assert set(fitted) == {EVERYTHING, "machine 21", "site 1"}, "machine 29 has 10 patients"
    assert sum(fitted[EVERYTHING]["coverage"].counts) == 120 and fitted[EVERYTHING]["coverage"].exams == 60
    assert sum(fitted[EVERYTHING]["malignancy"].counts) == 20
    twice = from_json(fit_drift_reference([*learnt, judged[0]], judged, shares, malignant=2))
    assert sum(twice[EVERYTHING]["coverage"].counts) == 120, "an image of both is counted once"


def test_images_of_an_earlier_version_lack_what_was_not_measured() -> None:
    old = replace(record(1, ""), quality={"coverage": 0.5, "flags": ["coverage-high"]})
    assert image_figures(old.quality) == {"coverage": 0.5, "flagged": 1.0}
    assert image_figures(QUALITY)["chest_side_evidence"] == 0.5
