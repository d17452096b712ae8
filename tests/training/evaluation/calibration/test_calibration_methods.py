"""Calibration methods: cross-fitting leaves out the patient of each image, and the figures are right."""

import hashlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from mammopipe.training.evaluation.calibration import calibrate, fit_score_maps
from mammopipe.training.evaluation.calibration_figures import calibration_figures
from mammopipe.training.evaluation.calibration_methods import (
    FOLDS,
    LARGEST_INTERCEPT,
    TEMPERATURES,
    Method,
    choose_method,
    cross_fitted,
    fit,
    fit_calibration,
    fit_served,
    fit_temperature,
    log_prior,
    patient_folds,
)
from mammopipe.training.evaluation.selection import Candidate
from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import MetricError, Resamples
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule
from mammopipe.training.model.predictions import LeakError, TestPredictions, ValidationPredictions, pick, softmax

PATIENTS = 60


def made(kind, seed: int, sharpness: float = 4.0):
    """Return predictions of a model that is surer than it may be: its logits are `sharpness` times the true ones."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.2, (2 * PATIENTS, 3))
    labels = np.array([random.choice(3, p=row) for row in softmax(logits)])
    patients = tuple(f"{kind.split}-{index // 2}" for index in range(2 * PATIENTS))
    names = tuple(f"{patient}-{index % 2}" for index, patient in enumerate(patients))
    return kind(names, patients, names, labels, sharpness * logits)


def candidate(validation: ValidationPredictions) -> Candidate:
    fitted = calibrate(validation)
    return Candidate(fitted, {}, fit_score_maps(validation, fitted.calibration, BreastRule.MEAN), {}, {})


@pytest.fixture(scope="module")
def validation() -> ValidationPredictions:
    return made(ValidationPredictions, 0)


def test_both_images_of_a_patient_are_in_one_fold_and_folds_are_alike(validation):
    folds = patient_folds(validation)
    of_patient = {}
    for patient, fold in zip(validation.patients, folds.tolist(), strict=True):
        assert of_patient.setdefault(patient, fold) == fold
    sizes = np.bincount(list(of_patient.values()))
    assert len(sizes) == FOLDS and sizes.max() - sizes.min() <= 1
    shuffled = np.random.default_rng(1).permutation(len(folds))
    np.testing.assert_array_equal(patient_folds(pick(validation, shuffled)), folds[shuffled])


@pytest.mark.parametrize("method", Method)
def test_an_answer_does_not_depend_on_the_patients_own_labels(validation, method):
    folds, before = patient_folds(validation), cross_fitted(partial(fit, method), validation)
    changed = validation.labels.copy()
    changed[folds == 2] = np.roll(changed[folds == 2], 1)
    # The same worst labels by patient would be needed to keep the folds: they are pinned instead.
    other = ValidationPredictions(
        validation.image_ids, validation.patients, validation.breasts, changed, validation.logits
    )
    for number in range(FOLDS):
        inside, outside = np.flatnonzero(folds == number), np.flatnonzero(folds != number)
        after = fit(method, pick(other, outside))(pick(other, inside))
        same = np.allclose(after, before[inside])
        assert same == (number == 2 or method is Method.NONE)


def test_temperature_and_isotonic_help_an_overconfident_model(validation):
    test = made(TestPredictions, 5)
    draws = {kind.split: Resamples.draw(kind.patients, n=100, seed=0) for kind in (validation, test)}
    found = calibration_figures(validation, test, draws, candidate(validation), BreastRule.MEAN)
    assert found["served"] == str(choose_method(validation)) and found["folds"] == FOLDS
    for split in ("validation", "test"):
        for key in ("expected_calibration_error", "brier"):
            values = {method: found[split][method][key]["value"] for method in ("none", "temperature", "isotonic")}
            assert values["temperature"] < values["none"] and values["isotonic"] < values["none"], (split, key)
        assert found[split]["none"]["expected_calibration_error"]["low"] is None, "too few images"
        assert sum(item["images"] for item in found[split]["temperature"]["reliability"]) == 2 * PATIENTS
    assert found["test"]["temperature"]["brier"]["value"] == classification.brier(
        test.labels, test.probabilities(fit_calibration(validation, Method.TEMPERATURE))
    )


def test_isotonic_is_scikit_learns_of_each_class_normalised(validation):
    given, test = validation.probabilities(Calibration()), made(TestPredictions, 6)
    raw = test.probabilities(Calibration())
    steps = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        .fit(given[:, index], validation.labels == index)
        .predict(raw[:, index])
        for index in range(3)
    ]
    stacked = np.stack(steps, axis=1)
    known = stacked.sum(axis=1) > 0
    found = fit(Method.ISOTONIC, validation)(test)
    np.testing.assert_allclose(found[known], stacked[known] / stacked[known].sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.sum(axis=1), 1)


def predicted(kind, shares, labels=(0,)):
    """Return predictions of one image of each patient, whose uncalibrated probabilities are `shares`."""
    names = tuple(f"{index}" for index in range(len(shares)))
    return kind(names, names, names, np.array(labels), np.log(np.array(shares, np.float64)))


def test_an_image_that_every_class_is_denied_is_called_as_often_as_the_classes_occur():
    # Images with 0.45 of a class are never of it, so the regression of each class is 0 up to there.
    sure, unsure = (0.8, 0.1, 0.1), (0.45, 0.5, 0.05)
    rows = [np.roll(row, turn) for row in (sure, unsure) for turn in range(3)]
    validation = predicted(ValidationPredictions, [*rows, sure], (0, 1, 2, 1, 2, 0, 0))
    asked = predicted(TestPredictions, [(0.34, 0.33, 0.33)])
    np.testing.assert_allclose(fit(Method.ISOTONIC, validation)(asked), [[3 / 7, 2 / 7, 2 / 7]])
    two = predicted(ValidationPredictions, [sure, np.roll(sure, 1), unsure, (0.5, 0.45, 0.05)], (0, 1, 1, 0))
    both = predicted(TestPredictions, [(0.34, 0.33, 0.33), sure])
    np.testing.assert_allclose(fit(Method.ISOTONIC, two)(both), [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])


def test_the_temperature_of_logits_that_are_always_wrong_is_bounded_by_their_spread():
    labels = np.arange(30) % 3
    names = tuple(f"{index}" for index in range(30))
    given = ValidationPredictions(names, names, names, labels, -np.eye(3)[labels])
    for method in (Method.TEMPERATURE, Method.LOG_PRIOR, Method.INTERCEPTS):
        assert fit_calibration(given, method).temperature == pytest.approx(TEMPERATURES[1] * np.sqrt(2) / 3), method
        # A constant added to all logits of an image changes no probability.
        moved = replace(given, logits=given.logits + np.arange(30)[:, np.newaxis])
        assert fit_calibration(moved, method).temperature == pytest.approx(TEMPERATURES[1] * np.sqrt(2) / 3), method
    assert fit_temperature(given) == fit_calibration(given, Method.TEMPERATURE).temperature
    assert fit_calibration(given, Method.NONE) == Calibration(1.0, (0.0, 0.0, 0.0))


def errors_of(given: ValidationPredictions, found: Calibration):
    """Return the errors of the images and of the pseudo-observations, by weight, and the logits of both."""
    truth = np.eye(given.logits.shape[1])[given.labels]
    means = np.array([given.logits[given.labels == label].mean(axis=0) for label in np.unique(given.labels)])
    pseudo = 0.1 * (found.probabilities(means) - truth.mean(axis=0))
    errors = np.concatenate([found.probabilities(given.logits) - truth, pseudo])
    return errors / len(given.labels), np.concatenate([given.logits, means])


@pytest.mark.parametrize("method", [Method.TEMPERATURE, Method.LOG_PRIOR, Method.INTERCEPTS])
@pytest.mark.parametrize("rare", [1, 5])
def test_a_fit_balances_the_errors_of_images_and_pseudo_observations(method, rare):
    random = np.random.default_rng(rare)
    labels = np.array([2] * rare + [0] * 40 + [1] * 15)
    names = tuple(map(str, range(len(labels))))
    # The fourth class has no images. Its intercept would have no best value.
    classes = 3 if method is Method.INTERCEPTS else 4
    logits = 1.2 * np.eye(classes)[labels] + random.normal(0, 1, (len(labels), classes))
    given = ValidationPredictions(names, names, names, labels, logits)
    found = fit_calibration(given, method)
    errors, both = errors_of(given, found)
    assert (errors * both).sum() == pytest.approx(0, abs=1e-6 if method is Method.INTERCEPTS else 1e-12)
    if method is Method.INTERCEPTS:
        np.testing.assert_allclose(errors.sum(axis=0), 0, atol=1e-6)


def test_the_logarithm_of_the_frequencies_counts_half_an_image_where_there_is_none():
    found = log_prior(np.array([0, 0, 2, 2, 2, 2, 2, 2]), 3)
    expected = np.log([2, 0.5, 6])
    np.testing.assert_allclose(found, expected - expected.mean())
    assert len(log_prior(np.array([0]), 4)) == 4


def test_each_fold_has_as_many_patients_of_each_most_severe_label():
    # Every patient has a normal image; patient p has one of the class p % 3, too.
    owners = np.repeat(np.arange(30), 2)
    labels, images = np.where(np.arange(60) % 2, owners % 3, 0), tuple(map(str, range(60)))
    given = ValidationPredictions(images, tuple(map(str, owners)), images, labels, np.zeros((60, 3)))
    for folds in (5, 2):
        found = patient_folds(given, folds)[::2]
        counts = [np.bincount(found[np.arange(30) % 3 == label], minlength=folds).tolist() for label in range(3)]
        assert counts == [[10 // folds] * folds] * 3


def test_patients_with_the_same_label_are_in_the_order_of_their_hashes():
    given = predicted(ValidationPredictions, [(0.5, 0.5)] * 12, [0] * 12)
    order = sorted(given.patients, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert patient_folds(given).tolist() == [order.index(name) % 5 for name in given.patients]
    with pytest.raises(ValueError, match="shorter"):
        patient_folds(replace(given, labels=given.labels[1:]))


def test_each_fold_is_fitted_on_all_others():
    given = predicted(ValidationPredictions, [(0.5, 0.5)] * 6, [0, 1] * 3)

    def counting(part: ValidationPredictions):
        return lambda asked: np.full(asked.logits.shape, len(part.labels), float)

    assert cross_fitted(counting, given, folds=2).tolist() == [[3, 3]] * 6
    assert sorted(cross_fitted(counting, given)[:, 0].tolist()) == [4, 4, 5, 5, 5, 5]
    assert cross_fitted(counting, pick(given, np.arange(2))).tolist() == [[1, 1]] * 2, "two patients are enough"


def balanced(kind, seed: int, patients: int = 600):
    """Return predictions of a network that takes rare classes for as frequent as the others."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, 2 * patients, p=[0.65, 0.2, 0.15])
    logits = 1.2 * np.eye(3)[labels] + random.normal(0, 1, (2 * patients, 3))
    names = tuple(f"{kind.split}-{index}" for index in range(2 * patients))
    return kind(names, tuple(f"{index // 2}" for index in range(2 * patients)), names, labels, logits)


def test_intercepts_undo_what_balanced_classes_do_to_the_prior():
    given, test = balanced(ValidationPredictions, 0), balanced(TestPredictions, 1)
    malignant, losses, promised = test.labels == 2, {}, {}
    for method in (Method.TEMPERATURE, Method.LOG_PRIOR, Method.INTERCEPTS):
        shares = fit(method, given)(test)
        losses[method] = classification.log_loss(test.labels, shares)
        promised[method] = shares[:, 2].sum() / malignant.sum()
    assert promised[Method.TEMPERATURE] > 1.4
    for method in (Method.LOG_PRIOR, Method.INTERCEPTS):
        assert promised[method] == pytest.approx(1, abs=0.2)
        assert losses[method] < losses[Method.TEMPERATURE] - 0.05
    assert choose_method(given) in (Method.LOG_PRIOR, Method.INTERCEPTS)


def test_intercepts_are_those_of_the_highest_likelihood_and_right_on_average():
    given = balanced(ValidationPredictions, 2)
    found = fit_calibration(given, Method.INTERCEPTS)
    shares = found.probabilities(given.logits)
    np.testing.assert_allclose(shares.mean(axis=0), np.bincount(given.labels) / len(given.labels), atol=5e-5)
    assert sum(found.intercepts) == pytest.approx(0)
    best = classification.log_loss(given.labels, shares)
    for temperature, step in ((1.02, 0), (0.98, 0), (1, 0.02), (1, -0.02)):
        moved = Calibration(found.temperature * temperature, tuple(np.add(found.intercepts, [step, 0, -step])))
        assert classification.log_loss(given.labels, moved.probabilities(given.logits)) > best


def test_a_class_without_images_leaves_everything_finite():
    given = balanced(ValidationPredictions, 3)
    two = pick(given, np.flatnonzero(given.labels < 2))
    for method in (Method.LOG_PRIOR, Method.INTERCEPTS):
        found = fit_calibration(two, method)
        assert np.isfinite(found.intercepts).all() and max(map(abs, found.intercepts)) <= 2 * LARGEST_INTERCEPT
        assert sum(found.intercepts) == pytest.approx(0, abs=1e-9)


def test_what_a_model_that_is_right_needs_is_the_temperature_alone():
    assert choose_method(made(ValidationPredictions, 0, sharpness=3.0)) is Method.TEMPERATURE


def test_the_choice_of_the_method_is_nested():
    given = balanced(ValidationPredictions, 4, patients=60)
    folds, found = patient_folds(given), cross_fitted(fit_served, given)
    for number in range(FOLDS):
        inside, outside = np.flatnonzero(folds == number), np.flatnonzero(folds != number)
        part = pick(given, outside)
        np.testing.assert_allclose(found[inside], fit(choose_method(part), part)(pick(given, inside)))


@pytest.mark.parametrize("fitting", [choose_method, partial(fit_calibration, method=Method.INTERCEPTS)])
def test_nothing_is_fitted_on_test(fitting):
    with pytest.raises(LeakError):
        fitting(balanced(TestPredictions, 0))


def test_the_refusal_names_the_method():
    for fitting in (fit, lambda method, given: fit_calibration(given, method)):
        with pytest.raises(LeakError, match="^calibration by isotonic: "):
            fitting(Method.ISOTONIC, predicted(TestPredictions, [(0.5, 0.5)]))
    with pytest.raises(LeakError, match="^choice of the calibration: "):
        choose_method(predicted(TestPredictions, [(0.5, 0.5)]))


def test_two_patients_a_fold_are_enough_to_choose():
    # The logits say nothing, and 18 of 20 images are normal: the frequencies say more than any temperature.
    labels, names = np.array([0] * 17 + [1, 0, 2]), tuple(map(str, range(20)))
    patients = tuple(str(index // 2) for index in range(20))
    logits = np.random.default_rng(0).normal(size=(20, 3))
    given = ValidationPredictions(names, patients, names, labels, logits)
    assert choose_method(given) is not Method.TEMPERATURE
    assert choose_method(pick(given, np.arange(18))) is Method.TEMPERATURE
    # An image whose true class has probability 0 has a finite loss, and leaves the choice to the others.
    logits[0] = [-1e6, 1e6, 0]
    assert choose_method(given) is not Method.TEMPERATURE


def test_figures_say_whether_the_probability_of_malignant_means_what_it_says():
    given, test = balanced(ValidationPredictions, 0), balanced(TestPredictions, 1)
    draws = {kind.split: Resamples.draw(kind.patients, n=100, seed=0) for kind in (given, test)}
    found = calibration_figures(given, test, draws, candidate(given), BreastRule.MEAN)["of_malignant"]
    for split in ("validation", "test"):
        assert found[split]["log_loss"]["value"] < found[split]["log_loss_of_frequencies"]["value"]
        assert found[split]["expected_over_observed"]["value"] == pytest.approx(1, abs=0.25)
        assert found[split]["calibration_slope"]["low"] < 1 < found[split]["calibration_slope"]["high"]
        assert found[split]["calibration_intercept"]["low"] < 0 < found[split]["calibration_intercept"]["high"]
        assert found[split]["malignant"] == sum(point["malignant"] for point in found[split]["reliability"])


def test_one_patient_cannot_be_cross_fitted():
    alone = pick(made(ValidationPredictions, 0), np.arange(2))
    assert len(set(alone.patients)) == 1
    needed = "cross-fitting by patient needs at least two patients"
    with pytest.raises(MetricError, match=f"^calibration: validation has 2 images of one patient; {needed}$"):
        cross_fitted(fit_served, alone)


@pytest.mark.parametrize("method", [Method.TEMPERATURE, Method.LOG_PRIOR, Method.INTERCEPTS])
@pytest.mark.parametrize("factor", [0.05, 20.0, 200.0])
def test_larger_and_smaller_logits_get_the_same_probabilities(method, factor):
    plain = balanced(ValidationPredictions, 0, patients=60)
    other = replace(plain, logits=factor * plain.logits)
    expected = fit_calibration(plain, method).probabilities(plain.logits)
    found = fit_calibration(other, method)
    np.testing.assert_allclose(found.probabilities(other.logits), expected, atol=1e-6)
    assert 1e-3 <= found.temperature <= 1e3, "the bounds of model.json"


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_intercepts_undo_any_constant_of_a_class(spread):
    plain = balanced(ValidationPredictions, 0, patients=60)
    other = replace(plain, logits=spread * plain.logits + np.array([1000.0, 2.0, -500.0]))
    found = fit_calibration(other, Method.INTERCEPTS)
    shares = found.probabilities(other.logits)
    np.testing.assert_allclose(shares.mean(axis=0), np.bincount(plain.labels) / len(plain.labels), atol=5e-4)
    expected = fit_calibration(replace(plain, logits=spread * plain.logits), Method.INTERCEPTS)
    np.testing.assert_allclose(shares, expected.probabilities(spread * plain.logits), atol=1e-5)
    assert max(map(abs, found.intercepts)) <= 1e3, "the bound of model.json"
