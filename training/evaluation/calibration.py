"""From logits to probabilities that mean what they say, and the thresholds at which a score is called positive.

Everything here is fitted on validation alone: its functions take `ValidationPredictions` and refuse anything else.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from mammopipe.training.evaluation.calibration_methods import Method, choose_method, fit_calibration
from mammopipe.training.metrics.classification import MetricError, roc_curve
from mammopipe.training.metrics.thresholds import sensitivity_at, specificity_at
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Cases, Level, cases_of, compared, malignancy
from mammopipe.training.model.operating_points import TARGETS, Goal
from mammopipe.training.model.predictions import Floats, Integers, ValidationPredictions, require_validation

COMPARED = (Level.BREAST, Level.PATIENT)
"""What is scored by comparison of breasts, where they are compared."""
SMALLEST_THRESHOLD, LARGEST_THRESHOLD = float(np.finfo(np.float64).tiny), 1 - float(np.finfo(np.float64).epsneg)
"""Thresholds lie above 0 and below 1: at 0 every case would be called positive whatever its score."""


@dataclass(frozen=True)
class FittedThreshold:
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
class FittedCalibration:
    """What turns a model's logits into an answer; fitted on validation."""

    calibration: Calibration
    method: Method
    """How it was fitted: the one with the lowest cross-fitted log loss."""
    operating_points: dict[Goal, FittedThreshold]
    """Of images, by the rate that they hold."""

    def points_as_dict(self) -> dict[str, dict[str, float]]:
        """Return the operating points as JSON values, by their goal."""
        return {str(goal): asdict(point) for goal, point in self.operating_points.items()}


def calibrate(validation: ValidationPredictions) -> FittedCalibration:
    """Return calibration and operating points, each fitted on validation; `MetricError` without both kinds of image."""
    method = choose_method(validation)
    calibration = fit_calibration(validation, method)
    malignant, scores = malignancy(validation, calibration)
    points = {goal: operating_point(goal, target, malignant, scores) for goal, target in TARGETS.items()}
    return FittedCalibration(calibration, method, points)


def fit_thresholds(
    validation: ValidationPredictions, calibration: Calibration, rule: BreastRule
) -> dict[Level, dict[Goal, float]]:
    """Return of each level the threshold of each goal on the calibrated score, fitted on validation.

    A level is left empty where validation has no case with, or none without, the finding: small sets can have a
    malignant film of every patient.
    """
    require_validation(validation, "thresholds")
    return {level: _thresholds(cases) for level, cases in cases_of(validation, calibration, rule).items()}


@dataclass(frozen=True)
class Comparison:
    """How breasts are compared, fitted on validation."""

    weight: float
    """Share of the mean logits of the other breast's images that is taken off, 0 to 1."""
    calibration: Calibration
    """Of the logits that are left."""
    method: Method
    """How it was fitted."""
    thresholds: Mapping[Level, Mapping[Goal, float]]
    """Of `COMPARED`, on the calibrated score."""


def fit_comparison(validation: ValidationPredictions, weight: float, rule: BreastRule) -> Comparison | None:
    """Return the comparison with its own calibration and thresholds; `None` for no weight, or no patient to compare.

    Raises `LeakError` for predictions that are not of validation.
    """
    if weight == 0:
        return None
    kept, places = compared(validation, weight)
    if len(places) == 0:
        return None
    method = choose_method(kept)
    calibration = fit_calibration(kept, method)
    thresholds = fit_thresholds(kept, calibration, rule)
    return Comparison(weight, calibration, method, {level: thresholds[level] for level in COMPARED})


def _thresholds(cases: Cases) -> dict[Goal, float]:
    if len(np.unique(cases.malignant)) < 2:
        return {}
    points = {
        goal: operating_point(goal, target, cases.malignant, cases.scores).threshold for goal, target in TARGETS.items()
    }
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


def operating_point(goal: Goal, target: float, positive: Integers, scores: Floats) -> FittedThreshold:
    """Return the threshold that reaches `target` at the least cost, halfway between two scores: rounding cannot tip it.

    Raises `MetricError` for a target outside 0..1, and without both positive and negative images.
    """
    if not 0 <= target <= 1:
        raise MetricError(f"operating point {goal}: target={target} must lie in 0..1")
    false_positive, sensitivity = roc_curve(positive, scores)
    held, cost = (sensitivity, 1 - false_positive) if goal is Goal.SENSITIVITY else (1 - false_positive, sensitivity)
    reached = np.flatnonzero(held >= target - 1e-12)
    best = reached[np.lexsort((held[reached], cost[reached]))[-1]]
    threshold = float(_between(scores)[best])
    return FittedThreshold(
        threshold, target, sensitivity_at(threshold)(positive, scores), specificity_at(threshold)(positive, scores)
    )


def _between(scores: Floats) -> Floats:
    """Return thresholds from above the highest score to below the lowest, one between each two neighbours."""
    levels = np.unique(scores)[::-1]
    above, below = np.append(1.0, levels), np.append(levels, 0.0)
    found = np.append(np.maximum((above + below)[:-1] / 2, np.nextafter(levels, 2.0)), levels[-1] / 2)
    thresholds: Floats = np.clip(found, SMALLEST_THRESHOLD, LARGEST_THRESHOLD)
    return thresholds
