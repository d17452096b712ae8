"""What calibration does to a model's probabilities: none, temperature and isotonic regression side by side.

On validation every film is judged by what was fitted without its patient (cross-fitting by patient), on test by what
was fitted on all of validation. Sources: Guo et al. 2017 (temperature), Zadrozny and Elkan 2002 (isotonic regression,
one class against the rest, then normalised).
"""

import hashlib
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import numpy as np

from mammopipe.training.evaluation.calibration import fit_temperature
from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.scorecard import figure
from mammopipe.training.model.predictions import (
    Floats,
    Integers,
    Predictions,
    TestPredictions,
    ValidationPredictions,
    pick,
    require_validation,
)

FOLDS = 5
"""Parts of validation, by patient."""


class Method(StrEnum):
    """What is done to the probabilities."""

    NONE = "none"
    """The softmax of the logits."""
    TEMPERATURE = "temperature"
    """The logits divided by one number first; what is served."""
    ISOTONIC = "isotonic"
    """Each class's probability through a rising step function, then normalised."""


Probabilities = Callable[[Predictions], Floats]
MEASURED = (classification.expected_calibration_error, classification.brier, classification.log_loss)


def fit(method: Method, validation: ValidationPredictions) -> Probabilities:
    """Return what makes probabilities (images, classes) of predictions, fitted on validation."""
    require_validation(validation, f"calibration by {method}")
    if method is Method.NONE:
        return lambda predictions: predictions.probabilities(1.0)
    if method is Method.TEMPERATURE:
        temperature = fit_temperature(validation)
        return lambda predictions: predictions.probabilities(temperature)
    return _fit_isotonic(validation)


def _fit_isotonic(validation: ValidationPredictions) -> Probabilities:
    from sklearn.isotonic import IsotonicRegression  # imported where it is used: scikit-learn takes a second

    given = validation.probabilities(1.0)
    steps = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(given[:, index], validation.labels == index)
        for index in range(given.shape[1])
    ]
    frequencies = np.bincount(validation.labels, minlength=given.shape[1]) / len(validation.labels)

    def answer(predictions: Predictions) -> Floats:
        """Return probabilities (images, classes), each class's through its own steps."""
        raw = predictions.probabilities(1.0)
        found = np.stack([step.predict(raw[:, index]) for index, step in enumerate(steps)], axis=1).astype(np.float64)
        # A film that every class is denied is called as often as the classes occur.
        found[found.sum(axis=1) == 0] = frequencies
        shares: Floats = found / found.sum(axis=1, keepdims=True)
        return shares

    return answer


def patient_folds(predictions: Predictions, folds: int = FOLDS) -> Integers:
    """Return of each image the fold of its patient, (images,): stratified by worst label, in the order of a hash."""
    worst: dict[str, int] = {}
    for patient, label in zip(predictions.patients, predictions.labels.tolist(), strict=True):
        worst[patient] = max(worst.get(patient, 0), label)
    order = sorted(worst, key=lambda patient: (worst[patient], hashlib.sha256(patient.encode()).hexdigest()))
    of_patient = {patient: place % folds for place, patient in enumerate(order)}
    return np.array([of_patient[patient] for patient in predictions.patients], np.int64)


def cross_fitted(method: Method, validation: ValidationPredictions, folds: int = FOLDS) -> Floats:
    """Return the probabilities (images, classes) of validation, each film's fitted on the other folds' patients."""
    fold = patient_folds(validation, folds)
    found = np.empty_like(validation.logits)
    for number in np.unique(fold):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        found[inside] = fit(method, pick(validation, outside))(pick(validation, inside))
    return found


def compare(validation: ValidationPredictions, test: TestPredictions, draws: Mapping[str, Resamples]) -> dict[str, Any]:
    """Return {"served", "folds", "validation" and "test": {method: calibration error, Brier, log loss, reliability}}.

    `draws` are those of either split, by its name.
    """
    on_validation = {
        str(method): _measured(validation.labels, cross_fitted(method, validation), draws["validation"])
        for method in Method
    }
    on_test = {str(method): _measured(test.labels, fit(method, validation)(test), draws["test"]) for method in Method}
    return {
        "served": str(Method.TEMPERATURE),
        "folds": int(patient_folds(validation).max()) + 1,
        "validation": on_validation,
        "test": on_test,
    }


def _measured(labels: Integers, probabilities: Floats, draws: Resamples) -> dict[str, Any]:
    figures: dict[str, Any] = {metric.name: figure(metric, labels, probabilities, draws) for metric in MEASURED}
    return {"images": len(labels), **figures, "reliability": classification.calibration_bins(labels, probabilities)}
