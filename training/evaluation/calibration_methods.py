"""Fits calibration methods on validation and chooses among them.

A network trained with balanced sampling predicts as if classes were equally frequent. `LOG_PRIOR` adds the logarithm of
the class frequencies to the scaled logits; `INTERCEPTS` instead fits a constant for each class. The method with the
lowest cross-fitted log loss is served: each image is calibrated by a fit without its patient.

Where images separate the classes, the likelihood has no maximum: it rises with 1 / temperature without end (Albert and
Anderson 1984), and probabilities would become 0 and 1. So each fit has a pseudo-observation of each class, of which
nothing is known but the class frequencies (`_with_pseudo_observations`).

Sources: Guo et al. 2017 (temperature, vector scaling); Zadrozny and Elkan 2002 (isotonic regression, one class against
the rest, then normalised); Varma and Simon 2006 (why reported metrics must nest the choice of the method).
"""

import hashlib
from collections.abc import Callable
from enum import StrEnum

import numpy as np

from mammopipe.training.metrics.bootstrap import MetricError
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.predictions import (
    Floats,
    Integers,
    Predictions,
    ValidationPredictions,
    pick,
    require_validation,
    softmax,
)

FOLDS = 5
"""Number of folds of validation, by patient."""
TEMPERATURES = (0.05, 20.0)
"""Bounds of the temperature of logits whose spread is 1; those of others are in proportion (`_scale`). On uninformative
logits the optimum would be infinity."""
LARGEST_SCALE = 50.0
"""Spread beyond which the bounds do not grow, so that `model.json` may hold every temperature: 0.001 to 1000."""
_CONSTANT = 1e-9
"""Spread up to which logits are constant but for rounding."""
PSEUDO_WEIGHT = 0.1
"""Weight of the pseudo-observation of a class; an image has weight 1."""
LARGEST_INTERCEPT = 10.0
"""Bound of each class's intercept beside logits whose mean is 0 for each class; e^10 is about 22,000 in odds. A class
without images would drive it to infinity."""


class Method(StrEnum):
    """A calibration method."""

    NONE = "none"
    """No calibration: the softmax of the logits."""
    TEMPERATURE = "temperature"
    """Divides the logits by one number."""
    LOG_PRIOR = "log_prior"
    """Divides the logits by one number and adds the logarithm of each class's frequency in validation."""
    INTERCEPTS = "intercepts"
    """Divides the logits by one number and adds a fitted constant for each class."""
    ISOTONIC = "isotonic"
    """Isotonic regression of each class's probability, then normalised; for comparison only, never served."""


SERVED = (Method.TEMPERATURE, Method.LOG_PRIOR, Method.INTERCEPTS)
"""Methods that may be served. They keep the order of the images for each pair of classes. Ties go to the first."""

Probabilities = Callable[[Predictions], Floats]


def fit(method: Method, validation: ValidationPredictions) -> Probabilities:
    """Fit a method on validation and return a function from predictions to probabilities, (images, classes)."""
    require_validation(validation, f"calibration by {method}")
    if method is Method.ISOTONIC:
        return _fit_isotonic(validation)
    calibration = fit_calibration(validation, method)
    return lambda predictions: predictions.probabilities(calibration)


def fit_calibration(validation: ValidationPredictions, method: Method) -> Calibration:
    """Return the calibration that minimises the negative log-likelihood of validation and the pseudo-observations.

    Args:
        validation: Validation predictions.
        method: Any method except `ISOTONIC`, which a `Calibration` cannot represent.

    Raises:
        LeakError: The predictions are not of validation.
    """
    require_validation(validation, f"calibration by {method}")
    labels, logits = validation.labels, validation.logits
    if method is Method.NONE:
        return Calibration(1.0, (0.0,) * logits.shape[1])
    if method is Method.INTERCEPTS:
        return _fit_intercepts(labels, logits)
    offsets = np.zeros(logits.shape[1]) if method is Method.TEMPERATURE else log_prior(labels, logits.shape[1])
    scale = _scale(logits)
    return Calibration(scale * _fit_temperature(labels, logits / scale, offsets), tuple(offsets.tolist()))


def fit_temperature(validation: ValidationPredictions) -> float:
    """Return the temperature of the calibration by temperature alone."""
    return fit_calibration(validation, Method.TEMPERATURE).temperature


def log_prior(labels: Integers, classes: int) -> Floats:
    """Return the logarithms of the class frequencies, (classes,), centred; a class without images counts as 0.5."""
    logarithms = np.log(np.maximum(np.bincount(labels, minlength=classes), 0.5))
    centred: Floats = logarithms - logarithms.mean()
    return centred


def _scale(logits: Floats) -> float:
    """Return what to divide logits by before a fit: their spread. Larger logits then get the same probabilities."""
    spread = float((logits - logits.mean(axis=1, keepdims=True)).std())
    # Constant logits say nothing: the largest scale keeps the intercepts that undo them small.
    return float(np.clip(spread, 1 / LARGEST_SCALE, LARGEST_SCALE)) if spread > _CONSTANT else LARGEST_SCALE


def _with_pseudo_observations(labels: Integers, logits: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the images and a pseudo-observation of each class that occurs.

    A pseudo-observation has the mean logits of its class, and the class frequencies for its targets. Together they
    limit how certain the fit becomes, and leave the expected number of images of each class as it is. Classes that
    overlap have similar means, and are hardly affected.

    Returns:
        (images + classes, classes) logits; target probabilities of the same shape; (images + classes,) weights, whose
        sum is 1.
    """
    truth = np.eye(logits.shape[1])[labels]
    counts = truth.sum(axis=0)
    means = (truth.T @ logits)[counts > 0] / counts[counts > 0, np.newaxis]
    frequencies = np.tile(counts / len(labels), (len(means), 1))
    weights = np.concatenate([np.ones(len(labels)), np.full(len(means), PSEUDO_WEIGHT)])
    return np.concatenate([logits, means]), np.concatenate([truth, frequencies]), weights / weights.sum()


def _fit_temperature(labels: Integers, logits: Floats, offsets: Floats) -> float:
    """Return the best temperature; the loss is convex in 1 / temperature, so its derivative has at most one root."""
    from scipy.optimize import brentq

    logits, targets, weights = _with_pseudo_observations(labels, logits)

    def slope(inverse: float) -> float:
        """Return the derivative of the mean negative log-likelihood with respect to 1 / temperature."""
        return float(weights @ ((softmax(logits * inverse + offsets) - targets) * logits).sum(axis=1))

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slope(low) >= 0:
        return 1 / low
    if slope(high) <= 0:
        return 1 / high
    return 1 / float(brentq(slope, low, high, xtol=1e-15, rtol=1e-14))


def _fit_intercepts(labels: Integers, logits: Floats) -> Calibration:
    """Return the best temperature and intercepts of mean 0.

    The loss is convex in 1 / temperature and intercepts. An intercept can undo a constant of its class, however large.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    classes, means = logits.shape[1], (logits - logits.mean(axis=1, keepdims=True)).mean(axis=0)
    scale = _scale(logits - means)
    logits, targets, weights = _with_pseudo_observations(labels, (logits - means) / scale)
    true, truth = weights @ (targets * logits).sum(axis=1), weights @ targets

    def loss(values: Floats) -> tuple[float, Floats]:
        """Return the mean negative log-likelihood and its gradient at 1 / temperature and intercepts."""
        scaled = logits * values[0] + values[1:]
        likelihood = logsumexp(scaled, axis=1)
        shares = np.exp(scaled - likelihood[:, np.newaxis])
        value = weights @ likelihood - values[0] * true - truth @ values[1:]
        slope = weights @ (shares * logits).sum(axis=1) - true
        return float(value), np.concatenate([[slope], weights @ shares - truth])

    start = np.concatenate([[1.0], log_prior(labels, classes)])
    bounds = [(1 / TEMPERATURES[1], 1 / TEMPERATURES[0]), *[(-LARGEST_INTERCEPT, LARGEST_INTERCEPT)] * classes]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    intercepts = found[1:] - means * found[0] / scale
    return Calibration(scale / float(found[0]), tuple((intercepts - intercepts.mean()).tolist()))


def _fit_isotonic(validation: ValidationPredictions) -> Probabilities:
    from sklearn.isotonic import IsotonicRegression

    given = softmax(validation.logits)
    steps = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(given[:, index], validation.labels == index)
        for index in range(given.shape[1])
    ]
    frequencies = np.bincount(validation.labels, minlength=given.shape[1]) / len(validation.labels)

    def answer(predictions: Predictions) -> Floats:
        """Return probabilities, (images, classes), with each class's own isotonic regression."""
        raw = softmax(predictions.logits)
        found = np.stack([step.predict(raw[:, index]) for index, step in enumerate(steps)], axis=1).astype(np.float64)
        # If all classes have probability 0, the image gets the class frequencies.
        found[found.sum(axis=1) == 0] = frequencies
        shares: Floats = found / found.sum(axis=1, keepdims=True)
        return shares

    return answer


def patient_folds(predictions: Predictions, folds: int = FOLDS) -> Integers:
    """Return the fold of each image's patient, (images,); stratified by the most severe label, ordered by a hash."""
    worst: dict[str, int] = {}
    for patient, label in zip(predictions.patients, predictions.labels.tolist(), strict=True):
        worst[patient] = max(worst.get(patient, 0), label)
    order = sorted(worst, key=lambda patient: (worst[patient], hashlib.sha256(patient.encode()).hexdigest()))
    of_patient = {patient: place % folds for place, patient in enumerate(order)}
    return np.array([of_patient[patient] for patient in predictions.patients], np.int64)


def cross_fitted(
    fitting: Callable[[ValidationPredictions], Probabilities], validation: ValidationPredictions, folds: int = FOLDS
) -> Floats:
    """Return cross-fitted probabilities of validation, (images, classes).

    Args:
        fitting: Fits on validation predictions and returns a function from predictions to probabilities.
        validation: Validation predictions.
        folds: Number of folds. Each image's probabilities come from a fit on the other folds' patients.

    Raises:
        MetricError: All images are of one patient, so that no other patient remains to fit on.
    """
    if len(set(validation.patients)) < 2:
        raise MetricError(
            f"calibration: validation has {len(validation.labels)} images of one patient; cross-fitting by patient "
            "needs at least two patients"
        )
    fold = patient_folds(validation, folds)
    found = np.empty_like(validation.logits)
    for number in np.unique(fold):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        found[inside] = fitting(pick(validation, outside))(pick(validation, inside))
    return found


def choose_method(validation: ValidationPredictions) -> Method:
    """Return the method of `SERVED` with the lowest cross-fitted log loss; ties go to the first.

    With fewer than two patients per fold, there is too little data to compare, and the temperature is chosen.
    """
    require_validation(validation, "choice of the calibration")
    if len(set(validation.patients)) < 2 * FOLDS:
        return Method.TEMPERATURE
    losses = {method: _log_loss(validation, method) for method in SERVED}
    return min(SERVED, key=lambda method: (losses[method], SERVED.index(method)))


def _log_loss(validation: ValidationPredictions, method: Method) -> float:
    shares = cross_fitted(lambda part: fit(method, part), validation)
    true = shares[np.arange(len(validation.labels)), validation.labels]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())


def fit_served(validation: ValidationPredictions) -> Probabilities:
    """Choose a method by `choose_method`, fit it on the same images, and return a function to probabilities.

    With `cross_fitted`, this nests the choice, so that the metrics of the served method are not biased by the choice.
    """
    return fit(choose_method(validation), validation)
