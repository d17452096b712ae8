"""Fits calibration, decision thresholds, and maps from the scores of breasts and patients to probabilities.

All is fitted on validation: functions take `ValidationPredictions` and reject anything else.

A breast's score is made of its images' calibrated probabilities by a rule, and a patient's score is the higher one of
both breasts: such scores rank, but are no probabilities. A logistic map of the log-odds of the score makes them
probabilities (Platt 1999). Its slope is at least 0, so it never changes a ranking. The targets are Platt's: (n1 + 1) /
(n1 + 2) for the n1 malignant cases and 1 / (n0 + 2) for the n0 others, so a fit exists where the scores separate both.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mammopipe.training.evaluation.calibration_methods import Method, choose_method, fit_calibration
from mammopipe.training.metrics.classification import MetricError, roc_curve
from mammopipe.training.metrics.thresholds import sensitivity_at, specificity_at
from mammopipe.training.model.calibration import (
    LARGEST_INTERCEPT,
    MAPPED,
    STEEPEST_SLOPE,
    Calibration,
    ScoreMap,
    log_odds,
)
from mammopipe.training.model.exam_scores import BreastRule, Cases, Level, cases_of, compared, malignancy
from mammopipe.training.model.operating_points import TARGETS, Goal
from mammopipe.training.model.predictions import Floats, Integers, ValidationPredictions, require_validation

COMPARED = (Level.BREAST, Level.PATIENT)
"""Levels that are scored by comparison of the breasts, where breasts are compared."""
SMALLEST_THRESHOLD, LARGEST_THRESHOLD = float(np.finfo(np.float64).tiny), 1 - float(np.finfo(np.float64).epsneg)
"""Range of thresholds, above 0 and below 1. With a threshold of 0, every case would be called positive."""
LEAST_PATIENTS = 10
"""A level with fewer patients who have a malignant case, or fewer who have another case, has no map."""
_CONSTANT = 1e-9
"""Spread of log-odds up to which scores are equal but for rounding."""


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
class FittedMap:
    """The map of one level, or the reason why there is none."""

    map: ScoreMap | None
    reason: str = ""
    """Why there is no map; empty if there is one."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON values for `model.json`."""
        return {"reason": self.reason} if self.map is None else self.map.as_dict()


FittedMaps = Mapping[Level, FittedMap]


def fit_score_maps(validation: ValidationPredictions, calibration: Calibration, rule: BreastRule) -> FittedMaps:
    """Fit the maps of breasts and patients on the cases that their thresholds are fitted on.

    The cases of a level may be those that the calibration was fitted on: every breast has one image, or the model
    judged breasts by all their views. Their scores are calibrated already, and the map changes nothing.

    Args:
        validation: Validation predictions, out-of-fold where the model is cross-validated.
        calibration: Calibration of the logits.
        rule: How the scores of a breast's views are combined.

    Raises:
        LeakError: The predictions are not of validation.
    """
    require_validation(validation, "probabilities of breasts and patients")
    cases = cases_of(validation, calibration, rule)
    patients = np.array(validation.patients)
    return {level: _fitted(cases[level], patients[cases[level].images], len(validation.labels)) for level in MAPPED}


def _fitted(cases: Cases, patients: np.ndarray[tuple[int], np.dtype[np.str_]], rows: int) -> FittedMap:
    for kind, words in ((1, "with a malignant"), (0, "with another")):
        found = len(set(patients[cases.malignant == kind].tolist()))
        if found < LEAST_PATIENTS:
            return FittedMap(None, f"{found} patients {words} {cases.level}; a fit needs {LEAST_PATIENTS}")
    if len(cases.scores) == rows:
        return FittedMap(ScoreMap(1.0, 0.0, rows, int(cases.malignant.sum())))
    return FittedMap(fit_map(cases.malignant, cases.scores))


def fit_map(malignant: Integers, scores: Floats) -> ScoreMap:
    """Return the logistic map with the lowest log loss against Platt's targets; its slope is at least 0.

    Args:
        malignant: (cases,) 0 or 1.
        scores: (cases,) in 0..1.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    number, positives = len(malignant), int(malignant.sum())
    targets = np.where(malignant == 1, (positives + 1) / (positives + 2), 1 / (number - positives + 2))
    odds = log_odds(scores)
    mean, spread = float(odds.mean()), float(odds.std())
    alone = float(np.log(targets.mean() / (1 - targets.mean())))
    if spread <= _CONSTANT:
        return ScoreMap(0.0, alone, number, positives)
    scaled = (odds - mean) / spread

    def loss(values: Floats) -> tuple[float, Floats]:
        """Return the mean log loss and its gradient at slope and intercept of the scaled log-odds."""
        found = values[0] * scaled + values[1]
        error = expit(found) - targets
        gradient = np.array([(error * scaled).mean(), error.mean()])
        return float((np.logaddexp(0.0, found) - targets * found).mean()), gradient

    bounds = [(0.0, STEEPEST_SLOPE * spread), (None, None)]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    slope, constant = minimize(loss, [1.0, alone], jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    slope = min(float(slope) / spread, STEEPEST_SLOPE)
    intercept = float(np.clip(constant - slope * mean, -LARGEST_INTERCEPT, LARGEST_INTERCEPT))
    return ScoreMap(slope, intercept, number, positives)


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
