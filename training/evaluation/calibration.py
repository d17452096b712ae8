"""Fits calibration and decision thresholds, on validation only.

All functions take `ValidationPredictions` and reject anything else.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from mammopipe.training.evaluation.calibration_methods import Method, choose_method, fit_calibration
from mammopipe.training.evaluation.score_calibration import FittedMaps, fit_score_maps
from mammopipe.training.metrics.classification import MetricError, roc_curve
from mammopipe.training.metrics.thresholds import sensitivity_at, specificity_at
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Cases, Level, cases_of, compared, malignancy
from mammopipe.training.model.operating_points import TARGETS, Goal
from mammopipe.training.model.predictions import Floats, Integers, ValidationPredictions, require_validation

COMPARED = (Level.BREAST, Level.PATIENT)
"""Levels that are scored by comparison of the breasts, where breasts are compared."""
SMALLEST_THRESHOLD, LARGEST_THRESHOLD = float(np.finfo(np.float64).tiny), 1 - float(np.finfo(np.float64).epsneg)
"""Range of thresholds, above 0 and below 1. With a threshold of 0, every case would be called positive."""


@dataclass(frozen=True)
class FittedThreshold:
    """A threshold on the malignancy score; at or above it, an image is called positive."""

    threshold: float
    """Threshold on the calibrated probability of the malignant class."""
    target: float
    """Required rate on validation."""
    sensitivity: float
    """Sensitivity on validation."""
    specificity: float
    """Specificity on validation."""


@dataclass(frozen=True)
class FittedCalibration:
    """Calibration and operating points of a model, fitted on validation."""

    calibration: Calibration
    method: Method
    """Method of the calibration: the one with the lowest cross-fitted log loss."""
    operating_points: dict[Goal, FittedThreshold]
    """Operating points of images by goal."""

    def points_as_dict(self) -> dict[str, dict[str, float]]:
        """Return the operating points as JSON values by goal."""
        return {str(goal): asdict(point) for goal, point in self.operating_points.items()}


def calibrate(validation: ValidationPredictions) -> FittedCalibration:
    """Fit calibration and operating points on validation.

    Raises:
        MetricError: Validation lacks malignant images or other images.
    """
    method = choose_method(validation)
    calibration = fit_calibration(validation, method)
    malignant, scores = malignancy(validation, calibration)
    points = {goal: operating_point(goal, target, malignant, scores) for goal, target in TARGETS.items()}
    return FittedCalibration(calibration, method, points)


def fit_thresholds(
    validation: ValidationPredictions, calibration: Calibration, rule: BreastRule
) -> dict[Level, dict[Goal, float]]:
    """Fit the threshold of each goal on the calibrated score of each level, on validation.

    A level is empty where all its cases have the same truth. In a small set, every patient may have a malignant image.

    Args:
        validation: Validation predictions.
        calibration: Calibration of the logits.
        rule: How the scores of a breast's views are combined.
    """
    require_validation(validation, "thresholds")
    return {level: _thresholds(cases) for level, cases in cases_of(validation, calibration, rule).items()}


@dataclass(frozen=True)
class Comparison:
    """The comparison of breasts, fitted on validation."""

    weight: float
    """Factor, 0 to 1, of the other breast's mean logits, which are subtracted from each image's logits."""
    calibration: Calibration
    """Calibration of the resulting logits."""
    method: Method
    """Method of the calibration."""
    thresholds: Mapping[Level, Mapping[Goal, float]]
    """Thresholds on the calibrated score, for the levels in `COMPARED`."""
    maps: FittedMaps
    """Maps from the scores of compared breasts, and of their patients, to probabilities."""


def fit_comparison(validation: ValidationPredictions, weight: float, rule: BreastRule) -> Comparison | None:
    """Fit the comparison of breasts with its own calibration, thresholds and maps.

    Args:
        validation: Validation predictions.
        weight: Weight of the other breast.
        rule: How the scores of a breast's views are combined.

    Returns:
        The comparison; `None` if the weight is 0 or no patient has images of both breasts.

    Raises:
        LeakError: The predictions are not of validation.
    """
    if weight == 0:
        return None
    kept, places = compared(validation, weight)
    if len(places) == 0:
        return None
    method = choose_method(kept)
    calibration = fit_calibration(kept, method)
    thresholds = fit_thresholds(kept, calibration, rule)
    maps = fit_score_maps(kept, calibration, rule)
    return Comparison(weight, calibration, method, {level: thresholds[level] for level in COMPARED}, maps)


def _thresholds(cases: Cases) -> dict[Goal, float]:
    if len(np.unique(cases.malignant)) < 2:
        return {}
    points = {
        goal: operating_point(goal, target, cases.malignant, cases.scores).threshold for goal, target in TARGETS.items()
    }
    return {**points, Goal.F1: best_f1(cases.malignant, cases.scores)}


def best_f1(positive: Integers, scores: Floats) -> float:
    """Return the threshold with the highest F1, halfway between two scores.

    Ties go to the threshold that calls the fewest cases positive.

    Args:
        positive: (cases,) 0 or 1.
        scores: (cases,).

    Raises:
        MetricError: There are no positive or no negative cases.
    """
    false_positive, sensitivity = roc_curve(positive, scores)
    positives, negatives = int(positive.sum()), int((1 - positive).sum())
    # Back to whole numbers, so that equal F1 values compare as equal.
    hits, false_alarms = np.rint(sensitivity * positives), np.rint(false_positive * negatives)
    return float(_between(scores)[np.argmax(2 * hits / (hits + false_alarms + positives))])


def operating_point(goal: Goal, target: float, positive: Integers, scores: Floats) -> FittedThreshold:
    """Return the threshold that reaches `target` with the best other rate.

    The threshold lies halfway between two scores, so that rounding changes no decision.

    Args:
        goal: The rate that must reach the target: sensitivity or specificity.
        target: Required rate, 0 to 1.
        positive: (cases,) 0 or 1.
        scores: (cases,).

    Raises:
        MetricError: The target is out of range, or there are no positive or no negative cases.
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
    """Return thresholds from above the highest score to below the lowest, one between each two distinct scores."""
    levels = np.unique(scores)[::-1]
    above, below = np.append(1.0, levels), np.append(levels, 0.0)
    found = np.append(np.maximum((above + below)[:-1] / 2, np.nextafter(levels, 2.0)), levels[-1] / 2)
    thresholds: Floats = np.clip(found, SMALLEST_THRESHOLD, LARGEST_THRESHOLD)
    return thresholds
