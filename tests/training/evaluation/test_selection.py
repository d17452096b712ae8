"""The candidate is chosen by the stated figure, each with its own calibration."""

from dataclasses import replace

import numpy as np
import pytest

from mammopipe.training.evaluation.calibration import calibrate, fit_comparison, fit_score_maps, fit_thresholds
from mammopipe.training.evaluation.selection import choose
from mammopipe.training.metrics.choice import ChoiceFigure, ChooseBy
from mammopipe.training.metrics.classification import MetricError, Resamples
from mammopipe.training.metrics.scorecard import scorecard
from mammopipe.training.model.exam_scores import BreastRule, Level
from mammopipe.training.model.predictions import ValidationPredictions
from tests.training.evaluation.test_evaluate import CLASSES


def predictions(seed: int, labels: np.ndarray) -> ValidationPredictions:
    names = tuple(str(index) for index in range(len(labels)))
    logits = np.random.default_rng(seed).normal(0, 1, (len(labels), 3))
    return ValidationPredictions(names, names, names, labels, logits)


def of_exams(patients: int, views: int) -> ValidationPredictions:
    """Return predictions of both breasts of each patient; every second patient has a cancer in the left breast."""
    breast = np.arange(2 * patients * views) // views
    labels = np.where(breast % 4 == 0, 2, breast % 2)
    names = [f"p{number // 2:02d}-{'LR'[number % 2]}" for number in breast]
    given = predictions(3, labels)
    owners = tuple(name.split("-")[0] for name in names)
    return replace(given, patients=owners, breasts=tuple(names), logits=given.logits + 0.7 * np.eye(3)[labels])


def test_choose_measures_each_candidate_with_its_own_calibration():
    labels = np.arange(30) % 3
    given = {name: predictions(seed, labels) for name, seed in (("b", 1), ("a", 2))}
    draws = Resamples.draw([str(index) for index in range(30)], n=100, seed=0)
    choice = choose(given, classes=CLASSES, resamples=draws, choice=ChoiceFigure())
    for name, candidate in choice.candidates.items():
        assert candidate.fit == calibrate(given[name])
        at = given[name].probabilities(candidate.fit.calibration)
        assert candidate.validation == scorecard(labels, at, classes=CLASSES, resamples=draws)
    with pytest.raises(MetricError):
        choose({"a": predictions(1, np.arange(30) % 2)}, classes=CLASSES, resamples=draws, choice=ChoiceFigure())


def test_the_stated_figure_chooses_the_network():
    labels = np.arange(60) % 3
    draws = Resamples.draw([str(index) for index in range(60)], n=100, seed=0)
    alike, malignant = predictions(1, labels), predictions(2, labels)
    alike = replace(alike, logits=alike.logits + 1.5 * np.eye(3)[np.where(labels == 2, 0, labels)])
    malignant = replace(malignant, logits=malignant.logits + 1.5 * (labels == 2)[:, np.newaxis] * np.eye(3)[2])
    given = {"other classes": alike, "malignant": malignant}
    for by in ChooseBy:
        choice = choose(given, classes=CLASSES, resamples=draws, choice=ChoiceFigure(by))
        found = {name: candidate.choice["value"] for name, candidate in choice.candidates.items()}
        assert choice.selected == max(found, key=found.__getitem__)
    assert choose(given, classes=CLASSES, resamples=draws, choice=ChoiceFigure(ChooseBy.PF1)).selected == "malignant"


def test_the_thresholds_maps_and_comparison_are_those_of_the_rule_and_the_weight():
    given, rule = of_exams(24, views=2), BreastRule.MAX
    figure = ChoiceFigure(ChooseBy.MALIGNANT_AUC, Level.PATIENT, rule)
    draws = Resamples.draw(given.patients, n=20, seed=0)
    found = choose({"a": given}, classes=CLASSES, resamples=draws, choice=figure, other_breast=0.4).candidates["a"]
    calibration = found.fit.calibration
    assert found.thresholds == fit_thresholds(given, calibration, rule)
    assert found.thresholds != fit_thresholds(given, calibration, BreastRule.NOISY_OR)
    assert found.maps == fit_score_maps(given, calibration, rule)
    assert found.maps != fit_score_maps(given, calibration, BreastRule.NOISY_OR)
    assert found.comparison == fit_comparison(given, 0.4, rule) != fit_comparison(given, 0.4, BreastRule.NOISY_OR)
    assert found.comparison is not None and found.comparison.weight == 0.4
    assert found.choice == figure.measured(given, calibration, draws)


def test_an_undefined_figure_selects_no_network_and_is_named():
    labels = np.arange(30) % 2 * 2
    draws = Resamples.draw([str(index) for index in range(30)], n=20, seed=0)
    with pytest.raises(MetricError) as caught:
        choose({"net": predictions(1, labels)}, classes=CLASSES, resamples=draws, choice=ChoiceFigure())
    assert str(caught.value) == (
        "net: the network is chosen by its macro AUC, which is undefined: there must be at least one image of each "
        "class"
    )


def test_between_equal_figures_the_first_name_wins():
    same = of_exams(12, views=1)
    draws = Resamples.draw(same.patients, n=100, seed=0)
    choice = choose({"b": same, "a": same}, classes=CLASSES, resamples=draws, choice=ChoiceFigure())
    assert choice.selected == "a" and list(choice.candidates) == ["a", "b"]
    assert choice.candidates["a"].comparison is None, "breasts are not compared unless a weight is given"
