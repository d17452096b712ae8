"""Fits the maps from the scores of breasts and patients to probabilities, on validation, and measures them.

A breast's score is made of its images' calibrated probabilities by a rule, and a patient's score is the higher one of
both breasts: such scores rank, but are no probabilities. A logistic map of the log-odds of the score makes them
probabilities (Platt 1999). Its slope is at least 0, so it never changes a ranking. The targets are Platt's: (n1 + 1) /
(n1 + 2) for the n1 malignant cases and 1 / (n0 + 2) for the n0 others, so a fit exists where the scores separate both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mammopipe.training.evaluation.calibration_methods import choose_method, fit_calibration, patient_folds
from mammopipe.training.metrics import calibration as metrics
from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.scorecard import figure
from mammopipe.training.model.calibration import (
    LARGEST_INTERCEPT,
    MAPPED,
    STEEPEST_SLOPE,
    Calibration,
    ScoreMap,
    log_odds,
)
from mammopipe.training.model.exam_scores import BreastRule, Cases, Level, cases_of
from mammopipe.training.model.predictions import (
    Floats,
    Integers,
    Predictions,
    ValidationPredictions,
    pick,
    require_validation,
)

LEAST_PATIENTS = 10
"""A level with fewer patients who have a malignant case, or fewer who have another case, has no map."""
_CONSTANT = 1e-9
"""Spread of log-odds up to which scores are equal but for rounding."""


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


def cross_fitted_cases(validation: ValidationPredictions, rule: BreastRule) -> dict[Level, Floats]:
    """Return the probability of each breast and patient from fits without its patient.

    Calibration method, calibration and map of a fold's cases are fitted on the other folds' patients. The order is that
    of `cases_of`.
    """
    fold = patient_folds(validation)
    all_cases = cases_of(validation, Calibration(), rule)
    found = {level: np.empty(len(all_cases[level].scores)) for level in MAPPED}
    for number in np.unique(fold):
        inside, outside = (pick(validation, np.flatnonzero(chosen)) for chosen in (fold == number, fold != number))
        calibration = fit_calibration(outside, choose_method(outside))
        fitted_on, judged = cases_of(outside, calibration, rule), cases_of(inside, calibration, rule)
        for level in MAPPED:
            scores = judged[level].scores
            if len(all_cases[level].scores) < len(validation.labels):
                scores = fit_map(fitted_on[level].malignant, fitted_on[level].scores).probabilities(scores)
            found[level][fold[all_cases[level].images] == number] = scores
    return found


def score_figures(
    maps: FittedMaps, fitted: Calibration, rule: BreastRule, predictions: Predictions, draws: Resamples
) -> dict[str, Any]:
    """Return, for breasts and patients, the calibration of their probabilities and expected over observed of scores.

    Validation is judged cross-fitted; test is judged by the maps that were fitted on validation.

    Args:
        maps: The fitted maps.
        fitted: Calibration of the logits.
        rule: How the scores of a breast's views are combined.
        predictions: The predictions to judge.
        draws: Bootstrap draws of the predictions' images.

    Returns:
        {level: {"cases", "malignant", "patients", "log_loss", "log_loss_of_frequencies", "expected_over_observed",
        "calibration_intercept", "calibration_slope", "of_the_score": expected over observed}}; for a level without a
        map, {"reason"}.
    """
    cases = cases_of(predictions, fitted, rule)
    crossed: dict[Level, Floats] | None = None
    if isinstance(predictions, ValidationPredictions) and any(maps[level].map for level in MAPPED):
        crossed = cross_fitted_cases(predictions, rule)
    found: dict[str, Any] = {}
    for level in MAPPED:
        score_map = maps[level].map
        if score_map is None:
            found[str(level)] = {"reason": maps[level].reason}
            continue
        shown = score_map.probabilities(cases[level].scores) if crossed is None else crossed[level]
        found[str(level)] = _measured(cases[level], shown, score_map.prevalence, draws.of(cases[level].images))
    return found


def _measured(cases: Cases, probabilities: Floats, frequency: float, draws: Resamples) -> dict[str, Any]:
    malignant, always = cases.malignant, np.full(len(probabilities), frequency)
    return {
        "cases": len(malignant),
        "malignant": int(malignant.sum()),
        "patients": draws.patients,
        "log_loss": figure(classification.log_loss, malignant, _of_both(probabilities), draws),
        "log_loss_of_frequencies": figure(classification.log_loss, malignant, _of_both(always), draws),
        **{
            metric.name: figure(metric, malignant, probabilities, draws)
            for metric in (metrics.expected_over_observed, metrics.calibration_intercept, metrics.calibration_slope)
        },
        "of_the_score": figure(metrics.expected_over_observed, malignant, cases.scores, draws),
    }


def _of_both(probabilities: Floats) -> Floats:
    return np.stack([1 - probabilities, probabilities], axis=1)
