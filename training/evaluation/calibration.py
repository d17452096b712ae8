"""From logits to probabilities that mean what they say, and the thresholds at which a score is called positive.

Everything here is fitted on validation alone: its functions take `ValidationPredictions` and refuse anything else.
Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (temperature scaling).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np

from mammopipe.training.metrics.classification import MetricError, roc_curve, sensitivity_at, specificity_at
from mammopipe.training.model.exam_scores import BreastRule, Cases, Level, cases_of, compared, malignancy
from mammopipe.training.model.predictions import Floats, Integers, ValidationPredictions, require_validation

TEMPERATURES = (0.05, 20.0)
"""The bounds of the search: a validation split that is separable, or not at all, would drive it to 0 or infinity."""

_HALVINGS = 50
"""Of the search interval; enough to reach the last digits of a float64."""


class Aim(StrEnum):
    """What an operating point holds; the other rate is what it costs."""

    SENSITIVITY = "sensitivity"
    SPECIFICITY = "specificity"


class Goal(StrEnum):
    """What a threshold was fixed for."""

    SENSITIVITY = "sensitivity"
    SPECIFICITY = "specificity"
    F1 = "f1"
    """The highest F1 on validation."""


TARGETS = {Aim.SENSITIVITY: 0.90, Aim.SPECIFICITY: 0.90}
"""The rate that each operating point must reach on validation, for malignant against the rest."""


COMPARED = (Level.BREAST, Level.PATIENT)
"""What is scored by comparison of breasts, where they are compared."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the malignancy score, at or above which an image is called positive."""

    threshold: float
    """On the calibrated probability of the malignant class."""
    target: float
    """The rate asked for on validation."""
    sensitivity: float
    """Reached on validation."""
    specificity: float
    """Reached on validation."""


@dataclass(frozen=True)
class Calibration:
    """What turns a model's logits into an answer; fitted on validation."""

    temperature: float
    operating_points: dict[Aim, OperatingPoint]

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return the operating points as JSON values, by their aim."""
        return {str(aim): asdict(point) for aim, point in self.operating_points.items()}


def fit_temperature(validation: ValidationPredictions) -> float:
    """Return the temperature, within `TEMPERATURES`, that minimises the negative log-likelihood of validation.

    The likelihood is convex in 1 / temperature, so halving the interval on the sign of its slope finds its one minimum.
    """
    require_validation(validation, "temperature")
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(validation, middle) > 0 else (middle, high)
    return 2 / (low + high)


def _slope(validation: ValidationPredictions, inverse: float) -> float:
    """Return how the mean negative log-likelihood changes with 1 / temperature: expected logit less true logit."""
    logits = validation.logits
    expected = (validation.probabilities(1 / inverse) * logits).sum(axis=1)
    return float((expected - logits[np.arange(len(logits)), validation.labels]).mean())


def calibrate(validation: ValidationPredictions) -> Calibration:
    """Return temperature and operating points, each fitted on validation; `MetricError` without both kinds of image."""
    temperature = fit_temperature(validation)
    malignant, scores = malignancy(validation, temperature)
    points = {aim: operating_point(aim, TARGETS[aim], malignant, scores) for aim in Aim}
    return Calibration(temperature, points)


def fit_thresholds(
    validation: ValidationPredictions, temperature: float, rule: BreastRule
) -> dict[Level, dict[Goal, float]]:
    """Return of each level the threshold of each goal on the calibrated score, fitted on validation.

    A level is left empty where validation has no case with, or none without, the finding: small sets can have a
    malignant film of every patient.
    """
    require_validation(validation, "thresholds")
    return {level: _thresholds(cases) for level, cases in cases_of(validation, temperature, rule).items()}


@dataclass(frozen=True)
class Comparison:
    """How breasts are compared, fitted on validation."""

    weight: float
    """Share of the mean logits of the other breast's images that is taken off, 0 to 1."""
    temperature: float
    """Of the logits that are left."""
    thresholds: Mapping[Level, Mapping[Goal, float]]
    """Of `COMPARED`, on the calibrated score."""


def fit_comparison(validation: ValidationPredictions, weight: float, rule: BreastRule) -> Comparison | None:
    """Return the comparison with its own temperature and thresholds; `None` for no weight, or no patient to compare.

    Raises `LeakError` for predictions that are not of validation.
    """
    if weight == 0:
        return None
    kept, places = compared(validation, weight)
    if len(places) == 0:
        return None
    temperature = fit_temperature(kept)
    thresholds = fit_thresholds(kept, temperature, rule)
    return Comparison(weight, temperature, {level: thresholds[level] for level in COMPARED})


def _thresholds(cases: Cases) -> dict[Goal, float]:
    if len(np.unique(cases.malignant)) < 2:
        return {}
    points = {Goal(aim): operating_point(aim, TARGETS[aim], cases.malignant, cases.scores).threshold for aim in Aim}
    return {**points, Goal.F1: best_f1(cases.malignant, cases.scores)}


def best_f1(positive: Integers, scores: Floats) -> float:
    """Return the threshold with the highest F1, halfway between two scores; of equals the one that calls the fewest.

    Raises `MetricError` without both positive and negative cases.
    """
    false_positive, sensitivity = roc_curve(positive, scores)
    positives, negatives = int(positive.sum()), int((1 - positive).sum())
    # Whole numbers again, so that equal F1 are equal to the last digit.
    hits, false_alarms = np.rint(sensitivity * positives), np.rint(false_positive * negatives)
    return float(_between(scores)[np.argmax(2 * hits / (hits + false_alarms + positives))])


def operating_point(aim: Aim, target: float, positive: Integers, scores: Floats) -> OperatingPoint:
    """Return the threshold that reaches `target` at the least cost, halfway between two scores: rounding cannot tip it.

    Raises `MetricError` for a target outside 0..1, and without both positive and negative images.
    """
    if not 0 <= target <= 1:
        raise MetricError(f"operating point {aim}: target={target} must lie in 0..1")
    false_positive, sensitivity = roc_curve(positive, scores)
    held, cost = (sensitivity, 1 - false_positive) if aim is Aim.SENSITIVITY else (1 - false_positive, sensitivity)
    reached = np.flatnonzero(held >= target - 1e-12)
    best = reached[np.lexsort((held[reached], cost[reached]))[-1]]
    threshold = float(_between(scores)[best])
    return OperatingPoint(
        threshold, target, sensitivity_at(threshold)(positive, scores), specificity_at(threshold)(positive, scores)
    )


def _between(scores: Floats) -> Floats:
    """Return thresholds from above the highest score to below the lowest, one between each two neighbours."""
    levels = np.unique(scores)[::-1]
    above, below = np.append(1.0, levels), np.append(levels, 0.0)
    return np.append(np.maximum((above + below)[:-1] / 2, np.nextafter(levels, 2.0)), levels[-1] / 2)
