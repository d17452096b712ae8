"""How well malignant is told from the rest, by image, by breast and by patient, as `evaluation.json` holds it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.scorecard import figure, undefined
from mammopipe.training.metrics.thresholds import AT_A_THRESHOLD
from mammopipe.training.model.exam_scores import Cases, Level
from mammopipe.training.model.operating_points import TARGETS, Goal


def by_level(
    cases: Mapping[Level, Cases], thresholds: Mapping[Level, Mapping[Goal, float]], resamples: Resamples
) -> dict[str, Any]:
    """Return the figures of each level; one whose cases are those of a level before it only names that level.

    `thresholds` were fixed on validation; `resamples` are draws of the images.
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
    """Return every figure of malignant against the rest over the cases, with its interval by patient.

    `pf1_floor` is the probabilistic F1 of the score 1 for all: what no score at all reaches. The two rates at a fixed
    other rate are read off these cases' own ROC curve; those under `operating_points` come from given thresholds.
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
        "pf1": figure(classification.probabilistic_f1, malignant, scores, resamples),
        "pf1_floor": figure(classification.probabilistic_f1, malignant, np.ones_like(scores), resamples),
        **{
            name: {"target": target, **figure(rate(target), malignant, scores, resamples)}
            for name, (rate, target) in held.items()
        },
        "operating_points": {str(goal): _at(thresholds.get(goal), cases, resamples) for goal in Goal},
    }


def _at(threshold: float | None, cases: Cases, resamples: Resamples) -> dict[str, Any]:
    """Return what calling every case at or above the threshold malignant does."""
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
