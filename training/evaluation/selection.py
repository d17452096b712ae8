"""Everything that is decided about the candidates, decided on validation.

Nothing here can see the test split: the one way in is `ValidationPredictions`, and the evaluation job shows the test
films to the candidates only when it holds the `Choice`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mammopipe.training.evaluation.calibration import (
    Comparison,
    FittedCalibration,
    calibrate,
    fit_comparison,
    fit_thresholds,
)
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.scorecard import scorecard
from mammopipe.training.model.exam_scores import BreastRule, Level
from mammopipe.training.model.operating_points import Goal
from mammopipe.training.model.predictions import ValidationPredictions

RULE = "highest validation macro AUC"


@dataclass(frozen=True)
class Candidate:
    """A trained model as validation shows it."""

    fit: FittedCalibration
    """Calibration and operating points."""
    thresholds: Mapping[Level, Mapping[Goal, float]]
    """Of the calibrated score of an image, a breast and a patient."""
    validation: Mapping[str, Any]
    """Its scorecard, of calibrated probabilities."""
    comparison: Comparison | None = None
    """How its breasts are compared; `None` where they are not."""


@dataclass(frozen=True)
class Choice:
    """Every candidate, calibrated, and the name of the one that the rule takes."""

    candidates: Mapping[str, Candidate]
    selected: str


def choose(
    validation: Mapping[str, ValidationPredictions],
    *,
    classes: Sequence[str],
    resamples: Resamples,
    breast_rule: BreastRule,
    other_breast: float = 0.0,
) -> Choice:
    """Return the candidates calibrated and measured on validation, and the one with the highest macro AUC there.

    Of equals the first by name. `other_breast` is the weight of the comparison of breasts, which has no part in the
    choice: an image has to be judged alone, too. Raises `MetricError` for a validation split that lacks a class.
    """
    candidates = {}
    for name, predictions in sorted(validation.items()):
        fit = calibrate(predictions)
        probabilities = predictions.probabilities(fit.calibration)
        figures = scorecard(predictions.labels, probabilities, classes=classes, resamples=resamples)
        thresholds = fit_thresholds(predictions, fit.calibration, breast_rule)
        comparison = fit_comparison(predictions, other_breast, breast_rule)
        candidates[name] = Candidate(fit, thresholds, figures, comparison)
    return Choice(candidates, max(candidates, key=lambda name: _macro_auc(candidates[name])))


def _macro_auc(candidate: Candidate) -> float:
    return float(candidate.validation["macro_auc"]["value"])
