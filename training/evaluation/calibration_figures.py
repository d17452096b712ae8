"""Compares the calibration methods for the selected model and measures its calibration of malignant, at every level.

On validation, each image uses a calibration that was fitted, and its method chosen, without the image's patient
(cross-fitting by patient). On test, the calibration is fitted on all of validation.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from mammopipe.processing.datasets.manifest import Split
from mammopipe.training.evaluation.calibration import FittedMaps, fit_map
from mammopipe.training.evaluation.calibration_methods import (
    SERVED,
    Method,
    choose_method,
    cross_fitted,
    fit,
    fit_calibration,
    fit_served,
    patient_folds,
)
from mammopipe.training.evaluation.selection import Candidate
from mammopipe.training.metrics import calibration, classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.scorecard import figure
from mammopipe.training.model.calibration import MAPPED, Calibration
from mammopipe.training.model.exam_scores import BreastRule, Cases, Level, cases_of, compared
from mammopipe.training.model.predictions import (
    Floats,
    Integers,
    Predictions,
    TestPredictions,
    ValidationPredictions,
    pick,
)

MEASURED = (classification.expected_calibration_error, classification.brier, classification.log_loss)

OF_CASES = (calibration.expected_over_observed, calibration.calibration_intercept, calibration.calibration_slope)
"""The metrics of the probabilities of breasts and patients, beside their log loss."""


def calibration_figures(
    validation: ValidationPredictions,
    test: TestPredictions,
    draws: Mapping[Split, Resamples],
    judged: Candidate,
    rule: BreastRule,
) -> dict[str, Any]:
    """Return `calibration` of `evaluation.json`.

    Args:
        validation: Predictions that the calibration is fitted on.
        test: Predictions that the calibration is measured on.
        draws: Bootstrap draws of each split.
        judged: The selected candidate with its fits.
        rule: How the scores of a breast's views are combined.

    Returns:
        {"served": the served method, "may_be_served", "folds", "validation" and "test": {method: calibration error,
        Brier score, log loss, reliability}, "of_malignant": {split: see `_of_malignant`}, "scores" and
        "compared_scores": {split: see `score_figures`}, the second of compared breasts}.
    """
    served = choose_method(validation)
    on_validation = {
        str(method): _measured(
            validation.labels, cross_fitted(partial(fit, method), validation), draws[Split.VALIDATION]
        )
        for method in Method
    }
    # The class frequencies of the other folds, on which an image's calibration was fitted.
    frequencies = cross_fitted(lambda part: partial(_frequencies, part), validation)
    on_test = {
        str(method): _measured(test.labels, fit(method, validation)(test), draws[Split.TEST]) for method in Method
    }
    return {
        "served": str(served),
        "may_be_served": [str(method) for method in SERVED],
        "folds": int(patient_folds(validation).max()) + 1,
        "validation": on_validation,
        "test": on_test,
        "of_malignant": {
            "validation": _of_malignant(
                validation, cross_fitted(fit_served, validation), frequencies, draws[Split.VALIDATION]
            ),
            "test": _of_malignant(
                test, fit(served, validation)(test), _frequencies(validation, test), draws[Split.TEST]
            ),
        },
        "scores": {
            str(each.split): score_figures(judged.maps, judged.fit.calibration, rule, each, draws[each.split])
            for each in (validation, test)
        },
        "compared_scores": {str(each.split): _compared(judged, rule, each, draws) for each in (validation, test)},
    }


def _compared(
    judged: Candidate, rule: BreastRule, predictions: Predictions, draws: Mapping[Split, Resamples]
) -> dict[str, Any]:
    """Return the figures of compared breasts and their patients; empty where breasts are not compared."""
    if judged.comparison is None:
        return {}
    kept, places = compared(predictions, judged.comparison.weight)
    if len(places) == 0:
        return {}
    drawn = draws[kept.split].of(places)
    return score_figures(judged.comparison.maps, judged.comparison.calibration, rule, kept, drawn)


def _measured(labels: Integers, probabilities: Floats, draws: Resamples) -> dict[str, Any]:
    figures: dict[str, Any] = {metric.name: figure(metric, labels, probabilities, draws) for metric in MEASURED}
    malignant = probabilities.shape[1] - 1
    return {
        "images": len(labels),
        **figures,
        "reliability": classification.calibration_bins(labels, probabilities),
        "reliability_of_malignant": calibration.reliability_of_malignant(
            (labels == malignant).astype(np.int64), probabilities[:, malignant]
        ),
    }


def _of_malignant(
    predictions: Predictions, probabilities: Floats, frequencies: Floats, draws: Resamples
) -> dict[str, Any]:
    """Return the calibration metrics and the net benefit of the served probability of malignant.

    Args:
        predictions: Predictions of the images.
        probabilities: Served probabilities, (images, classes).
        frequencies: Class frequencies as predictions, (images, classes), for comparison.
        draws: Bootstrap draws of the images.

    Returns:
        With intervals: log loss, log loss of the class frequencies, expected over observed, calibration intercept and
        slope, average precision. Without intervals: the data of the plots and the decomposition of the Brier score.
    """
    malignant = (predictions.labels == predictions.malignant_index).astype(np.int64)
    scores = probabilities[:, predictions.malignant_index]
    return {
        "images": len(malignant),
        "malignant": int(malignant.sum()),
        "prevalence": float(malignant.mean()),
        "log_loss": figure(classification.log_loss, predictions.labels, probabilities, draws),
        "log_loss_of_frequencies": figure(classification.log_loss, predictions.labels, frequencies, draws),
        **{metric.name: figure(metric, malignant, scores, draws) for metric in calibration.OF_MALIGNANT},
        **calibration.of_malignant(malignant, scores),
    }


def _frequencies(fitted_on: ValidationPredictions, predictions: Predictions) -> Floats:
    """Return the class frequencies of validation for each image, (images, classes)."""
    classes = predictions.logits.shape[1]
    shares = np.bincount(fitted_on.labels, minlength=classes) / len(fitted_on.labels)
    return np.tile(shares, (len(predictions.labels), 1))


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
        fitted = fit_calibration(outside, choose_method(outside))
        fitted_on, judged = cases_of(outside, fitted, rule), cases_of(inside, fitted, rule)
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
        found[str(level)] = _case_figures(cases[level], shown, score_map.prevalence, draws.of(cases[level].images))
    return found


def _case_figures(cases: Cases, probabilities: Floats, frequency: float, draws: Resamples) -> dict[str, Any]:
    malignant, always = cases.malignant, np.full(len(probabilities), frequency)
    return {
        "cases": len(malignant),
        "malignant": int(malignant.sum()),
        "patients": draws.patients,
        "log_loss": figure(classification.log_loss, malignant, _of_both(probabilities), draws),
        "log_loss_of_frequencies": figure(classification.log_loss, malignant, _of_both(always), draws),
        **{metric.name: figure(metric, malignant, probabilities, draws) for metric in OF_CASES},
        "of_the_score": figure(calibration.expected_over_observed, malignant, cases.scores, draws),
    }


def _of_both(probabilities: Floats) -> Floats:
    return np.stack([1 - probabilities, probabilities], axis=1)
