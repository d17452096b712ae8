"""The metrics of each level: compared with scikit-learn, with intervals by patient, and undefined metrics."""

import numpy as np
import pytest
import sklearn.metrics as reference

from mammopipe.training.evaluation.calibration import fit_thresholds
from mammopipe.training.evaluation.detection import by_level
from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples, bootstrap_interval
from mammopipe.training.metrics.thresholds import ppv_at
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Level, cases_of
from mammopipe.training.model.operating_points import Goal
from mammopipe.training.model.predictions import ValidationPredictions


def screening(patients: int = 30, *, views: int = 2, malignant: int = 3) -> ValidationPredictions:
    """Return exams of two breasts, `views` images each; the left one of every `malignant`-th patient is malignant."""
    rows = [(f"p{patient:02d}", side, view) for patient in range(patients) for side in "LR" for view in range(views)]
    labels = np.array([2 if side == "L" and int(patient[1:]) % malignant == 0 else 0 for patient, side, _ in rows])
    labels[1] = 1
    logits = np.random.default_rng(1).normal(0, 1, (len(rows), 3)) + np.eye(3)[labels]
    return ValidationPredictions(
        tuple(f"{patient}{side}{view}" for patient, side, view in rows),
        tuple(patient for patient, _, _ in rows),
        tuple(patient + side for patient, side, _ in rows),
        labels,
        logits,
    )


def measured(predictions: ValidationPredictions, rule: BreastRule = BreastRule.MEAN):
    cases, thresholds = (
        cases_of(predictions, Calibration(1.3), rule),
        fit_thresholds(predictions, Calibration(1.3), rule),
    )
    return by_level(cases, thresholds, Resamples.draw(predictions.patients, n=200, seed=4)), cases, thresholds


@pytest.mark.parametrize("level", list(Level))
def test_figures_of_a_level_are_those_of_scikit_learn(level):
    levels, cases, thresholds = measured(screening())
    found, truth, scores = levels[level], cases[level].malignant, cases[level].scores
    assert (found["cases"], found["malignant"], found["patients"]) == (len(truth), truth.sum(), 30)
    assert found["malignant_auc"]["value"] == pytest.approx(reference.roc_auc_score(truth, scores))
    assert found["pf1"]["value"] == pytest.approx(2 * (scores * truth).sum() / (scores.sum() + truth.sum()))
    assert found["expected_over_observed"]["value"] == pytest.approx(scores.sum() / truth.sum())
    prevalence = truth.mean()
    assert found["pf1_floor"]["value"] == pytest.approx(2 * prevalence / (1 + prevalence))
    false_positive, sensitivity, _ = reference.roc_curve(truth, scores, drop_intermediate=False)
    assert found["sensitivity_at_specificity"]["target"] == 0.9
    assert found["sensitivity_at_specificity"]["value"] == pytest.approx(sensitivity[false_positive <= 0.1].max())
    assert found["specificity_at_sensitivity"]["value"] == pytest.approx(1 - false_positive[sensitivity >= 0.9].min())
    for goal in Goal:
        point, called = found["operating_points"][goal], scores >= thresholds[level][goal]
        assert point["threshold"] == thresholds[level][goal]
        assert point["sensitivity"]["value"] == pytest.approx(called[truth == 1].mean())
        assert point["specificity"]["value"] == pytest.approx(1 - called[truth == 0].mean())
        assert point["recall_rate"]["value"] == pytest.approx(called.mean())
        assert point["ppv"]["value"] == pytest.approx(reference.precision_score(truth, called))
        assert point["f1"]["value"] == pytest.approx(reference.f1_score(truth, called))


def test_intervals_of_a_level_are_those_of_its_patients():
    levels, cases, thresholds = measured(screening())
    for level in (Level.BREAST, Level.PATIENT):
        owners = [f"p{index:02d}" for index in range(30) for _ in range(2 if level is Level.BREAST else 1)]
        point = levels[level]["operating_points"]["f1"]
        for shown, metric in [
            (levels[level]["malignant_auc"], classification.roc_auc),
            (levels[level]["pf1"], classification.probabilistic_f1),
            (point["ppv"], ppv_at(thresholds[level][Goal.F1])),
        ]:
            truth, scores = cases[level].malignant, cases[level].scores
            assert shown == bootstrap_interval(metric, truth, scores, groups=owners, n=200, seed=4).as_dict()


def test_a_level_of_the_same_cases_is_not_repeated():
    assert measured(screening(views=1))[0]["breast"] == {"same_as": "image"}
    assert set(measured(screening(views=1))[0]["patient"]) == set(measured(screening())[0]["breast"])
    sided = screening()
    one_breast = ValidationPredictions(sided.image_ids, sided.patients, sided.patients, sided.labels, sided.logits)
    assert measured(one_breast)[0]["patient"] == {"same_as": "breast"}


def test_the_rule_changes_breasts_and_patients_and_leaves_images():
    mean, highest = measured(screening())[0], measured(screening(), BreastRule.MAX)[0]
    assert mean["image"] == highest["image"]
    assert mean["breast"]["pf1"] != highest["breast"]["pf1"] and mean["patient"]["pf1"] != highest["patient"]["pf1"]


def test_without_a_threshold_there_are_no_figures_of_it():
    levels, _, _ = measured(screening(malignant=1))
    assert levels["patient"]["malignant_auc"]["value"] is None
    point = levels["patient"]["operating_points"]["sensitivity"]
    assert point["threshold"] is None and point["recall_rate"]["value"] is None
    assert point["ppv"]["reason"] == "undefined: validation must have a patient with and one without the finding"
    assert levels["breast"]["operating_points"]["sensitivity"]["ppv"]["value"] is not None
