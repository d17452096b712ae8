"""Calibration compared: what is cross-fitted sees no film of the patient it answers about, and figures are right."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from mammopipe.training.evaluation.calibration import fit_temperature
from mammopipe.training.evaluation.calibration_methods import FOLDS, Method, compare, cross_fitted, fit, patient_folds
from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.model.predictions import TestPredictions, ValidationPredictions, pick, softmax

PATIENTS = 60


def made(kind, seed: int, sharpness: float = 4.0):
    """Return predictions of a model that is surer than it may be: its logits are `sharpness` times the true ones."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.2, (2 * PATIENTS, 3))
    labels = np.array([random.choice(3, p=row) for row in softmax(logits)])
    patients = tuple(f"{kind.split}-{index // 2}" for index in range(2 * PATIENTS))
    names = tuple(f"{patient}-{index % 2}" for index, patient in enumerate(patients))
    return kind(names, patients, names, labels, sharpness * logits)


@pytest.fixture(scope="module")
def validation() -> ValidationPredictions:
    return made(ValidationPredictions, 0)


def test_both_films_of_a_patient_are_in_one_fold_and_folds_are_alike(validation):
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
    folds, before = patient_folds(validation), cross_fitted(method, validation)
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
    draws = {str(kind.split): Resamples.draw(kind.patients, n=100, seed=0) for kind in (validation, test)}
    found = compare(validation, test, draws)
    assert found["served"] == "temperature" and found["folds"] == FOLDS
    for split in ("validation", "test"):
        for key in ("expected_calibration_error", "brier"):
            values = {method: found[split][method][key]["value"] for method in ("none", "temperature", "isotonic")}
            assert values["temperature"] < values["none"] and values["isotonic"] < values["none"], (split, key)
        assert found[split]["none"]["expected_calibration_error"]["low"] is not None
        assert sum(item["images"] for item in found[split]["temperature"]["reliability"]) == 2 * PATIENTS
    assert found["test"]["temperature"]["brier"]["value"] == classification.brier(
        test.labels, test.probabilities(fit_temperature(validation))
    )


def test_isotonic_is_scikit_learns_of_each_class_normalised(validation):
    given, test = validation.probabilities(1.0), made(TestPredictions, 6)
    raw = test.probabilities(1.0)
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


def test_a_film_that_every_class_is_denied_is_called_as_often_as_the_classes_occur():
    logits = np.log(np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]))[[0, 1, 2, 0]]
    names = tuple("abcd")
    validation = ValidationPredictions(names, names, names, np.array([0, 1, 2, 0]), logits)
    asked = TestPredictions(names[:1], names[:1], names[:1], np.array([0]), np.log([[0.09, 0.09, 0.09]]) * 0 - 1.0)
    low = np.array([[1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(asked.probabilities(1.0), low)
    found = fit(Method.ISOTONIC, validation)(asked)
    np.testing.assert_allclose(found.sum(axis=1), 1)
