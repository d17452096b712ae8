"""Metrics of detecting malignant cases, by image, breast and patient, as JSON values for `evaluation.json`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mammopipe.training.metrics import calibration, classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.scorecard import figure, undefined
from mammopipe.training.metrics.thresholds import AT_A_THRESHOLD
from mammopipe.training.model.exam_scores import Cases, Level
from mammopipe.training.model.operating_points import TARGETS, Goal


def by_level(
    cases: Mapping[Level, Cases], thresholds: Mapping[Level, Mapping[Goal, float]], resamples: Resamples
) -> dict[str, Any]:
    """Return the metrics of each level.

    A level with as many cases as a previous level has the same cases, for example if each breast has one image. It gets
    no metrics of its own but names that level (`same_as`).

    Args:
        cases: Cases of each level.
        thresholds: Thresholds of each level, fixed on validation.
        resamples: Bootstrap draws of the images.
    """
    levels: dict[str, Any] = {}
    of_size: dict[int, Level] = {}
    for level, found in cases.items():
        same = of_size.setdefault(len(found.scores), level)
        levels[str(level)] = (
            detection(found, thresholds[level], resamples.of(found.images)) if same is level else {"same_as": str(same)}
        )
    return levels


def detection(cases: Cases, thresholds: Mapping[Goal, float], resamples: Resamples) -> dict[str, Any]:
    """Return all metrics of malignant against all other classes, with intervals by patient.

    `expected_over_observed` shows whether the scores of a level are calibrated probabilities: only those of the level
    that the model judges are.
    `pf1_floor` is the probabilistic F1 with a score of 1 for every case, a baseline without information.
    `sensitivity_at_specificity` and `specificity_at_sensitivity` come from the ROC curve of these cases; the metrics
    under `operating_points` use the given thresholds.

    Args:
        cases: Cases of one level.
        thresholds: Thresholds of the level, fixed on validation.
        resamples: Bootstrap draws of the cases.
    """
    malignant, scores = cases.malignant, cases.scores
    held = {
        "sensitivity_at_specificity": (classification.sensitivity_at_specificity, TARGETS[Goal.SPECIFICITY]),
        "specificity_at_sensitivity": (classification.specificity_at_sensitivity, TARGETS[Goal.SENSITIVITY]),
    }
    return {
        "cases": len(scores),
        "malignant": int(malignant.sum()),
        "patients": resamples.patients,
        "malignant_auc": figure(classification.roc_auc, malignant, scores, resamples),
        "expected_over_observed": figure(calibration.expected_over_observed, malignant, scores, resamples),
        "pf1": figure(classification.probabilistic_f1, malignant, scores, resamples),
        "pf1_floor": figure(classification.probabilistic_f1, malignant, np.ones_like(scores), resamples),
        **{
            name: {"target": target, **figure(rate(target), malignant, scores, resamples)}
            for name, (rate, target) in held.items()
        },
        "operating_points": {str(goal): _at(thresholds.get(goal), cases, resamples) for goal in Goal},
    }


def _at(threshold: float | None, cases: Cases, resamples: Resamples) -> dict[str, Any]:
    """Return the metrics of calling every case at or above the threshold malignant."""
    if threshold is None:
        reason = f"undefined: validation must have a {cases.level} with and one without the finding"
        return {"threshold": None, **{metric(0).name: undefined(reason) for metric in AT_A_THRESHOLD}}
    return {
        "threshold": threshold,
        **{
            metric.name: figure(metric, cases.malignant, cases.scores, resamples)
            for metric in (of(threshold) for of in AT_A_THRESHOLD)
        },
    }
