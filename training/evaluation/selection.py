"""Calibrates the candidates and selects one, on validation only.

This module cannot see the test split: it accepts only `ValidationPredictions`. The evaluation job computes predictions
on test images only after it has the `Choice`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mammopipe.training.evaluation.calibration import (
    Comparison,
    FittedCalibration,
    FittedMaps,
    calibrate,
    fit_comparison,
    fit_score_maps,
    fit_thresholds,
)
from mammopipe.training.metrics.bootstrap import MetricError, Resamples
from mammopipe.training.metrics.choice import ChoiceFigure
from mammopipe.training.metrics.scorecard import scorecard
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.operating_points import Goal
from mammopipe.training.model.predictions import ValidationPredictions


@dataclass(frozen=True)
class Candidate:
    """A trained model with everything that was fitted and measured on validation."""

    fit: FittedCalibration
    """Calibration and operating points."""
    thresholds: Mapping[Level, Mapping[Goal, float]]
    """Thresholds on the calibrated score of images, breasts and patients."""
    maps: FittedMaps
    """Maps from the scores of breasts and patients to probabilities."""
    validation: Mapping[str, Any]
    """Scorecard of the calibrated probabilities."""
    choice: Mapping[str, Any]
    """The figure `choose_by`, with its name, level, value and interval."""
    comparison: Comparison | None = None
    """The fitted comparison of breasts; `None` where breasts are not compared."""


@dataclass(frozen=True)
class Choice:
    """All calibrated candidates and the name of the selected one."""

    candidates: Mapping[str, Candidate]
    selected: str


def choose(
    validation: Mapping[str, ValidationPredictions],
    *,
    classes: Sequence[str],
    resamples: Resamples,
    choice: ChoiceFigure,
    other_breast: float = 0.0,
) -> Choice:
    """Calibrate and measure all candidates on validation, and select the one with the highest figure.

    Ties go to the first name. The comparison of breasts does not influence the selection, because the model must also
    judge single images.

    Args:
        validation: Validation predictions of each candidate by name.
        classes: Names of the classes.
        resamples: Bootstrap draws of the images' patients.
        choice: The figure that selects the network, and how the scores of a breast's views are combined.
        other_breast: Weight of the other breast in the comparison; 0 turns the comparison off.

    Raises:
        MetricError: Validation lacks a class, or the figure is undefined.
    """
    candidates = {}
    for name, predictions in sorted(validation.items()):
        fit = calibrate(predictions)
        probabilities = predictions.probabilities(fit.calibration)
        figures = scorecard(predictions.labels, probabilities, classes=classes, resamples=resamples)
        thresholds = fit_thresholds(predictions, fit.calibration, choice.rule)
        maps = fit_score_maps(predictions, fit.calibration, choice.rule)
        comparison = fit_comparison(predictions, other_breast, choice.rule)
        measured = choice.measured(predictions, fit.calibration, resamples)
        if measured["value"] is None:
            raise MetricError(f"{name}: the network is chosen by its {choice.words}, which is {measured['reason']}")
        candidates[name] = Candidate(fit, thresholds, maps, figures, measured, comparison)
    # max returns the first of equal values, so ties go to the first name.
    selected = max(candidates, key=lambda name: float(candidates[name].choice["value"]))
    return Choice(candidates, selected)
