"""The candidate is chosen by the stated figure, each with its own calibration."""

from dataclasses import replace

import numpy as np
import pytest

from mammopipe.training.evaluation.calibration import calibrate
from mammopipe.training.evaluation.selection import choose
from mammopipe.training.metrics.choice import ChoiceFigure, ChooseBy
from mammopipe.training.metrics.classification import MetricError, Resamples
from mammopipe.training.metrics.scorecard import scorecard
from mammopipe.training.model.predictions import ValidationPredictions
from tests.training.evaluation.test_evaluate import CLASSES


def predictions(seed: int, labels: np.ndarray) -> ValidationPredictions:
    names = tuple(str(index) for index in range(len(labels)))
    logits = np.random.default_rng(seed).normal(0, 1, (len(labels), 3))
    return ValidationPredictions(names, names, names, labels, logits)


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


def test_between_equal_figures_the_first_name_wins():
    labels = np.arange(30) % 3
    draws = Resamples.draw([str(index) for index in range(30)], n=100, seed=0)
    same = predictions(1, labels)
    choice = choose({"b": same, "a": same}, classes=CLASSES, resamples=draws, choice=ChoiceFigure())
    assert choice.selected == "a" and list(choice.candidates) == ["a", "b"]
    assert choice.candidates["a"].comparison is None
