"""The figure `choose_by`: compared with scikit-learn, at each level, with its interval, and refusals."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as reference

from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.evaluation.config import EvaluationConfig
from mammopipe.training.metrics.bootstrap import MetricError, Resamples
from mammopipe.training.metrics.choice import ChoiceFigure, ChooseBy
from mammopipe.training.metrics.precision_recall import average_precision, best_f1
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Level
from mammopipe.training.model.predictions import LeakError, TestPredictions, ValidationPredictions


def made(kind=ValidationPredictions, seed: int = 0, patients: int = 40):
    """Four images a patient, two a breast; in every third patient the first breast is malignant."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), 4)
    breast = np.arange(4 * patients) // 2
    malignant = (owner % 3 == 0) & (breast % 2 == 0)
    labels = np.where(malignant, 2, owner % 2)
    logits = rng.normal(0, 1, (len(owner), 3)) + 1.2 * np.eye(3)[labels]
    names = [tuple(map(str, values)) for values in (range(len(owner)), owner, breast)]
    return kind(*names, labels, logits), owner, breast, malignant


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_and_best_f1_are_those_of_scikit_learn(ties: bool):
    rng = np.random.default_rng(1)
    for _ in range(20):
        labels, scores = rng.integers(0, 2, 60), rng.random(60)
        labels[:2] = 0, 1
        scores = scores.round(1) if ties else scores
        assert average_precision(labels, scores) == pytest.approx(reference.average_precision_score(labels, scores))
        precision, recall, _ = reference.precision_recall_curve(labels, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        assert best_f1(labels, scores) == pytest.approx(max(f1))
    for metric in (average_precision, best_f1):
        with pytest.raises(MetricError, match=f"{metric.name} is undefined here: it needs a malignant case"):
            metric([0, 0], [0.1, 0.2])


def test_a_resample_weighs_as_the_repeated_cases():
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([0.2, 0.9, 0.6, 0.4, 0.6])
    # The last resample has one positive.
    counts = np.array([[2, 0, 1, 3, 1], [1, 1, 1, 1, 1], [3, 0, 1, 1, 0]])
    for metric in (average_precision, best_f1):
        found = metric.weighted(labels, scores, counts.astype(float))
        for value, count in zip(found, counts, strict=True):
            again = np.repeat(np.arange(5), count)
            assert value == pytest.approx(metric(labels[again], scores[again]))
        assert len(set(found.round(6))) == 3
        assert metric([0, 1, 0], [0.3, 0.9, 0.5]) == 1


def test_each_figure_is_of_the_cases_of_its_level():
    predictions, owner, breast, malignant = made()
    shares = predictions.probabilities(Calibration(0.7))
    scores = shares[:, 2]
    by_breast = np.array([scores[breast == one].mean() for one in range(80)])
    truth = np.array([malignant[breast == one].any() for one in range(80)])
    by_patient = by_breast.reshape(40, 2).max(axis=1)
    wanted = {
        (ChooseBy.MACRO_AUC, Level.IMAGE): reference.roc_auc_score(predictions.labels, shares, multi_class="ovr"),
        (ChooseBy.MALIGNANT_AUC, Level.IMAGE): reference.roc_auc_score(malignant, scores),
        (ChooseBy.AVERAGE_PRECISION, Level.BREAST): reference.average_precision_score(truth, by_breast),
        (ChooseBy.PF1, Level.BREAST): 2 * by_breast[truth].sum() / (by_breast.sum() + truth.sum()),
        (ChooseBy.MALIGNANT_AUC, Level.PATIENT): reference.roc_auc_score(truth.reshape(40, 2).any(axis=1), by_patient),
    }
    draws = Resamples.draw(predictions.patients, n=200, seed=0)
    for (by, level), value in wanted.items():
        choice = ChoiceFigure(by, level, BreastRule.MEAN)
        assert choice.value(predictions, Calibration(0.7)) == pytest.approx(value), (by, level)
        found = choice.measured(predictions, Calibration(0.7), draws)
        assert found["value"] == pytest.approx(value) and found["low"] < value < found["high"]
        assert (found["figure"], found["level"], found["words"]) == (by, level, choice.words)


def test_where_breasts_are_judged_as_a_whole_the_lowest_level_is_that_of_breasts():
    said, _, _, malignant = made()
    whole = replace(said, views=tuple((image,) for image in said.image_ids))
    draws = Resamples.draw(said.patients, n=20, seed=0)
    scores = said.probabilities(Calibration())[:, 2]
    found = ChoiceFigure(ChooseBy.MALIGNANT_AUC).measured(whole, Calibration(), draws)
    assert found["value"] == pytest.approx(reference.roc_auc_score(malignant, scores))
    assert (found["level"], found["words"]) == ("breast", "malignant AUC by breast")


def test_choosing_on_test_or_by_a_figure_that_the_level_lacks_is_refused():
    with pytest.raises(LeakError, match="^the choice of an epoch or a network: "):
        ChoiceFigure().value(made(TestPredictions)[0], Calibration())
    for settings in (TrainConfig, EvaluationConfig):
        assert settings(choose_by="pf1", choose_level="breast").choice.words == "probabilistic F1 by breast"
        with pytest.raises(ConfigError, match="choose_by=macro_auc needs choose_level=image, not patient"):
            settings(choose_level="patient")
