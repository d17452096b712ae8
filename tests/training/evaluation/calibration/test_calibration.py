"""Calibration and operating points: right on cases that can be worked out, and fitted on validation only."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from mammopipe.training.evaluation import calibration_methods
from mammopipe.training.evaluation.calibration import (
    best_f1,
    calibrate,
    fit_comparison,
    fit_thresholds,
    operating_point,
)
from mammopipe.training.evaluation.calibration_methods import (
    TEMPERATURES,
    Method,
    choose_method,
    fit_calibration,
    fit_temperature,
)
from mammopipe.training.metrics import classification
from mammopipe.training.metrics.thresholds import f1_at, sensitivity_at
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Level, cases_of, compared, malignancy
from mammopipe.training.model.operating_points import TARGETS, Goal
from mammopipe.training.model.predictions import LeakError, TestPredictions, ValidationPredictions, softmax


def validation(logits: np.ndarray, labels: np.ndarray) -> ValidationPredictions:
    names = tuple(str(index) for index in range(len(labels)))
    return ValidationPredictions(names, names, names, np.asarray(labels), np.asarray(logits, float))


def drawn(temperature: float, images: int = 4000, seed: int = 0) -> ValidationPredictions:
    """Return labels drawn from softmax(logits / temperature): a model that is wrong by exactly that temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (images, 3))
    shares = softmax(logits / temperature)
    labels = (generator.random((images, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    return validation(logits, labels)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_one_the_labels_were_drawn_with(true):
    assert fit_temperature(drawn(true)) == pytest.approx(true, rel=0.08)


def test_the_temperature_is_the_minimum_of_the_likelihood_and_calibrates():
    predictions = drawn(4.0, images=300)
    found = fit_temperature(predictions)
    best = minimize_scalar(
        lambda value: classification.log_loss(predictions.labels, predictions.probabilities(Calibration(value))),
        bounds=(1, 10),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(best.x, rel=1e-3)
    assert classification.expected_calibration_error(
        predictions.labels, predictions.probabilities(Calibration(found))
    ) < 0.3 * (classification.expected_calibration_error(predictions.labels, predictions.probabilities(Calibration())))


def test_the_temperature_stays_within_bounds():
    labels = np.array([0, 1, 2] * 4)
    high = TEMPERATURES[1] * np.std([6, -3, -3])
    assert fit_temperature(validation(-np.eye(3)[labels] * 9, labels)) == pytest.approx(high, rel=0.01)


@pytest.mark.parametrize("method", [Method.TEMPERATURE, Method.LOG_PRIOR, Method.INTERCEPTS])
def test_a_temperature_that_would_be_too_low_is_the_lower_bound(method):
    # Two images have nearly all of the spread. The others, all on their side, have too little for any temperature.
    labels, margins = np.arange(1000) % 2, np.where(np.arange(1000) < 2, 1000.0, 0.01)
    given = validation(margins[:, np.newaxis] * (2 * np.eye(2)[labels] - 1), labels)
    assert fit_calibration(given, method).temperature == pytest.approx(0.05 * np.sqrt((margins**2).mean()))


@pytest.mark.parametrize("method", [Method.TEMPERATURE, Method.LOG_PRIOR])
@pytest.mark.parametrize(
    ("spread", "scale"),
    [(0.0, 50), (1e-9, 50), (1.1e-9, 0.02), (1e-3, 0.02), (0.03, 0.03), (1.0, 1.0), (49.0, 49), (51.0, 50), (1e3, 50)],
)
def test_the_bounds_are_in_proportion_to_the_spread_and_within_those_of_the_file(method, spread, scale):
    labels = np.arange(4) % 2
    wrong = validation(spread * (1 - 2 * np.eye(2)[labels]), labels)
    assert fit_calibration(wrong, method).temperature == pytest.approx(20 * scale)


@pytest.mark.parametrize("images", [30, 100, 300, 1000])
@pytest.mark.parametrize("method", [Method.TEMPERATURE, Method.LOG_PRIOR, Method.INTERCEPTS])
def test_images_that_separate_the_classes_do_not_make_probabilities_0_and_1(images, method):
    generator = np.random.default_rng(0)
    labels = np.arange(images) % 5 % 3
    logits = np.eye(3)[labels] * 30 + generator.normal(0, 1, (images, 3))
    shares = validation(logits, labels).probabilities(fit_calibration(validation(logits, labels), method))
    assert shares.argmax(axis=1).tolist() == labels.tolist()
    assert 1e-10 < shares.min() and 0.9 < np.median(shares.max(axis=1)) < 1 - 1e-8


@pytest.mark.parametrize("method", [Method.TEMPERATURE, Method.LOG_PRIOR, Method.INTERCEPTS])
def test_pseudo_observations_change_a_fit_of_classes_that_overlap_by_next_to_nothing(method, monkeypatch):
    generator = np.random.default_rng(1)
    labels = generator.choice(3, 258, p=[0.64, 0.2, 0.16])
    given = validation(np.eye(3)[labels] * 0.6 + generator.normal(0, 1, (258, 3)), labels)
    shares = given.probabilities(fit_calibration(given, method))
    monkeypatch.setattr(calibration_methods, "PSEUDO_WEIGHT", 0.0)
    without = given.probabilities(fit_calibration(given, method))
    assert 0 < np.abs(shares - without).max() < 0.001
    losses = [classification.log_loss(labels, found) for found in (shares, without)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_probabilities_of_large_logits_are_finite():
    assert softmax([[1e4, 0, -1e4]]).tolist() == [[1, 0, 0]]


def test_operating_points_by_hand():
    positive, scores = np.array([0] * 8 + [1, 1]), np.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.8, 0.35, 0.9])
    high = operating_point(Goal.SENSITIVITY, 0.9, positive, scores)
    assert (high.threshold, high.sensitivity, high.specificity) == (pytest.approx(0.325), 1, 0.75)
    low = operating_point(Goal.SPECIFICITY, 0.85, positive, scores)
    assert (low.threshold, low.sensitivity, low.specificity) == (pytest.approx(0.85), 0.5, 1.0)
    assert low.target == 0.85


def test_an_operating_point_may_call_nothing_or_everything_positive():
    assert operating_point(Goal.SPECIFICITY, 1.0, np.array([0, 1]), np.array([0.9, 0.5])).sensitivity == 0
    everything = operating_point(Goal.SENSITIVITY, 1.0, np.array([0, 1]), np.array([0.5, 1e-9]))
    assert everything.sensitivity == 1 and everything.specificity == 0


@pytest.mark.parametrize("scores", [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
@pytest.mark.parametrize("goal", TARGETS)
def test_every_threshold_lies_above_0_and_below_1(goal, scores):
    assert 0 < operating_point(goal, 1.0, np.array([0, 1]), np.array(scores)).threshold < 1
    assert 0 < best_f1(np.array([0, 1]), np.array(scores)) < 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(1e-6, 1 - 1e-6)), min_size=2, max_size=30), st.floats(0, 1))
def test_operating_points_reach_their_target_at_the_least_cost(rows, target):
    positive, scores = np.array([0, 1, *(row[0] for row in rows)]), np.array([0.3, 0.6, *(row[1] for row in rows)])
    first = operating_point(Goal.SENSITIVITY, target, positive, scores)
    assert first.sensitivity >= target - 1e-12
    assert first.specificity == pytest.approx(classification.specificity_at_sensitivity(target)(positive, scores))
    second = operating_point(Goal.SPECIFICITY, target, positive, scores)
    assert second.specificity >= target - 1e-12
    assert second.sensitivity == pytest.approx(classification.sensitivity_at_specificity(target)(positive, scores))


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(classification.MetricError, match="target=1.2"):
        operating_point(Goal.SENSITIVITY, 1.2, np.array([0, 1]), np.array([0.1, 0.2]))
    with pytest.raises(classification.MetricError, match="both classes"):
        calibrate(validation(np.zeros((2, 3)), np.array([0, 1])))


def test_calibrate_fills_what_the_model_carries():
    predictions = drawn(2.0, images=200)
    found = calibrate(predictions)
    assert found.method is choose_method(predictions)
    assert found.calibration == fit_calibration(predictions, found.method)
    few = calibrate(drawn(2.0, images=9, seed=1))
    assert few.method is Method.TEMPERATURE and few.calibration.intercepts == (0, 0, 0)
    malignant, scores = malignancy(predictions, found.calibration)
    point = found.points_as_dict()["sensitivity"]
    assert set(found.points_as_dict()) == {"sensitivity", "specificity"}
    assert set(point) == {"threshold", "target", "sensitivity", "specificity"}
    assert point["sensitivity"] == sensitivity_at(point["threshold"])(malignant, scores) >= 0.9


def test_the_best_f1_by_hand():
    # Above 0.65 one hit of three positives; above 0.45 three hits and one false alarm: 6/7 is the highest.
    positive, scores = np.array([1, 0, 1, 1, 0, 0]), np.array([0.9, 0.6, 0.55, 0.5, 0.4, 0.1])
    assert best_f1(positive, scores) == pytest.approx(0.45)
    # 2/3 with one called and with three called: the fewest.
    assert best_f1(np.array([1, 0, 1]), np.array([0.9, 0.5, 0.2])) == pytest.approx(0.1)
    assert best_f1(np.array([1, 0, 0, 1]), np.array([0.9, 0.5, 0.4, 0.2])) == pytest.approx(0.7)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(1e-6, 1 - 1e-6)), min_size=2, max_size=30))
def test_no_threshold_has_a_higher_f1(rows):
    positive, scores = np.array([0, 1, *(row[0] for row in rows)]), np.array([0.3, 0.6, *(row[1] for row in rows)])
    best = f1_at(best_f1(positive, scores))(positive, scores)
    assert best == pytest.approx(max(f1_at(threshold)(positive, scores) for threshold in scores))


def exams(labels: list[int], breasts: list[str]) -> ValidationPredictions:
    names, patients = tuple(map(str, range(len(labels)))), tuple(name[0] for name in breasts)
    logits = np.random.default_rng(0).normal(0, 1, (len(labels), 3))
    return ValidationPredictions(names, patients, tuple(breasts), np.array(labels), logits)


def test_each_level_has_thresholds_of_its_own_scores():
    given_ = exams([2, 2, 0, 1, 0, 0, 2, 0], ["aL", "aL", "aR", "aR", "bL", "bL", "cR", "dL"])
    warm = Calibration(1.5, (0.3, 0.0, -0.3))
    found = fit_thresholds(given_, warm, BreastRule.MEAN)
    for level, cases in cases_of(given_, warm, BreastRule.MEAN).items():
        assert set(found[level]) == set(Goal)
        assert found[level][Goal.F1] == best_f1(cases.malignant, cases.scores)
        for goal, target in TARGETS.items():
            assert found[level][goal] == operating_point(goal, target, cases.malignant, cases.scores).threshold
    assert fit_thresholds(given_, warm, BreastRule.MAX)[Level.BREAST] != found[Level.BREAST]


def test_a_level_at_which_all_are_malignant_has_no_threshold():
    found = fit_thresholds(exams([2, 0, 2, 0], ["aL", "aR", "bL", "bR"]), Calibration(), BreastRule.MEAN)
    assert found[Level.PATIENT] == {} and set(found[Level.BREAST]) == set(Goal)


@pytest.mark.parametrize("function", [fit_temperature, calibrate, fit_thresholds])
def test_fitting_takes_validation_predictions_and_nothing_else(function):
    annotations = [parameter.annotation for parameter in inspect.signature(function).parameters.values()]
    assert annotations[0] is ValidationPredictions
    assert set(annotations[1:]) <= {Calibration, BreastRule}, "a calibration and a rule, no other predictions"


def test_a_comparison_has_the_calibration_and_the_thresholds_of_the_compared_logits():
    given_ = exams([2, 0, 0, 0, 0, 2, 2, 0, 1], ["aL", "aR", "bL", "bR", "cL", "cR", "dL", "eL", "eR"])
    kept, _ = compared(given_, 0.5)
    found = fit_comparison(given_, 0.5, BreastRule.MAX)
    assert found is not None and (found.weight, found.method) == (0.5, choose_method(kept))
    assert found.calibration == fit_calibration(kept, found.method)
    every = fit_thresholds(kept, found.calibration, BreastRule.MAX)
    assert found.thresholds == {level: every[level] for level in (Level.BREAST, Level.PATIENT)}
    assert fit_comparison(given_, 0.0, BreastRule.MAX) is None
    assert fit_comparison(exams([2, 0], ["aL", "bL"]), 0.5, BreastRule.MAX) is None, "no patient has both breasts"


def test_thresholds_of_test_predictions_are_refused_by_name():
    given_ = exams([2, 0, 0, 2], ["aL", "aR", "bL", "bR"])
    test = TestPredictions(given_.image_ids, given_.patients, given_.breasts, given_.labels, given_.logits)
    with pytest.raises(LeakError, match="^thresholds: "):
        fit_thresholds(test, Calibration(), BreastRule.MEAN)


def test_of_thresholds_with_equal_cost_the_one_with_the_higher_rate_is_taken():
    positive, scores = np.array([1, 1, 0]), np.array([0.9, 0.8, 0.5])
    assert operating_point(Goal.SENSITIVITY, 0.5, positive, scores).threshold == pytest.approx(0.65)
    assert operating_point(Goal.SPECIFICITY, 0.5, np.array([0, 0, 1]), scores).threshold == pytest.approx(0.95)
    # 1 - 9/10 is a little below 0.1 in floating point.
    ten = np.array([0] * 10 + [1])
    assert operating_point(Goal.SPECIFICITY, 0.1, ten, np.array([*np.linspace(0.1, 0.9, 10), 0.85])).sensitivity == 1
    for target in (0.0, 1.0):
        assert operating_point(Goal.SENSITIVITY, target, positive, scores).target == target
    with pytest.raises(
        classification.MetricError, match=r"^operating point specificity: target=-0.1 must lie in 0..1$"
    ):
        operating_point(Goal.SPECIFICITY, -0.1, positive, scores)


def test_a_threshold_separates_neighbouring_numbers():
    low = float(np.nextafter(0.5, 0))
    for high in (0.5, float(np.nextafter(0.5, 1))):
        assert low < best_f1(np.array([1, 0]), np.array([high, low])) <= high
    assert best_f1(np.array([0, 1]), np.array([0.8, 0.4])) == pytest.approx(0.2), "below the lowest score"
    assert operating_point(Goal.SPECIFICITY, 1.0, np.array([0, 1]), np.array([0.8, 0.4])).threshold == pytest.approx(
        0.9
    )
