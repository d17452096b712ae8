"""From views to breasts to the exam, by the rule and the thresholds that the model's training stored.

The arithmetic is that of training (`training.exams.combine`): a breast's score is made of its views' by the stored
rule, the exam's is that of its most suspicious breast.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference import referral
from inference.schema import BreastAnswer, ExamResult, OperatingPoint, QualityWarning, Referral
from inference.thresholds import Thresholds
from processing.records import Laterality
from training.exams import Cases, combine
from training.levels import BreastRule, Level

_TEXTS = {
    "no-breast-rule": "the model does not say how views become breasts; their mean is given",
    "no-breast-operating-point": "the model has no such threshold for breasts; it gives scores but no decisions",
    "no-exam-operating-point": "the model has no such threshold for exams; it gives a score but no decision",
    "laterality-missing": "some images do not show which breast they are of; they are taken as one breast",
    "one-breast": "the exam shows one breast; its answer says nothing of the other",
}


@dataclass(frozen=True)
class ViewScore:
    """What a breast needs to know of one of its views."""

    laterality: Laterality | None
    probability: float
    """Of malignant, calibrated, 0 to 1."""
    referral: Referral


@dataclass(frozen=True)
class Combined:
    """The upper two levels of an exam."""

    breasts: tuple[BreastAnswer, ...]
    exam: ExamResult
    warnings: tuple[QualityWarning, ...]


def combine_views(views: Sequence[ViewScore], thresholds: Thresholds, name: OperatingPoint) -> Combined:
    """Return breasts and exam of one or more views, in the order of the request, at the named operating point."""
    rule = thresholds.breast_rule or BreastRule.MEAN
    sides = np.array([view.laterality or "" for view in views])
    images = Cases(Level.IMAGE, np.zeros(len(views), np.int64), np.array([view.probability for view in views]),
                   np.arange(len(views)))
    by_breast = combine(images, sides, Level.BREAST, rule)
    breasts = tuple(_breast(score, side, views, thresholds, name, rule)
                    for score, side in zip(by_breast.scores, np.unique(sides), strict=True))
    highest = float(by_breast.scores.max())
    exam = ExamResult(malignancy_score=100 * highest, decision=thresholds.decide(Level.PATIENT, highest, name),
                      referral=referral.of_images([(index, view.referral) for index, view in enumerate(views)]))
    return Combined(breasts, exam, _warnings(breasts, exam, thresholds))


def _breast(score: float, side: str, views: Sequence[ViewScore], thresholds: Thresholds, name: OperatingPoint,
            rule: BreastRule) -> BreastAnswer:
    indices = [index for index, view in enumerate(views) if (view.laterality or "") == side]
    probability = float(score)
    return BreastAnswer(
        laterality=Laterality(side) if side else None,
        images=indices,
        rule=rule,
        malignancy_score=100 * probability,
        decision=thresholds.decide(Level.BREAST, probability, name),
        referral=referral.of_images([(index, views[index].referral) for index in indices]),
    )


def _warnings(breasts: Sequence[BreastAnswer], exam: ExamResult, thresholds: Thresholds) -> tuple[QualityWarning, ...]:
    sides = {breast.laterality for breast in breasts}
    conditions = {
        "no-breast-rule": thresholds.breast_rule is None,
        "no-breast-operating-point": any(breast.decision is None for breast in breasts),
        "no-exam-operating-point": exam.decision is None,
        "laterality-missing": None in sides,
        "one-breast": len(sides) == 1 and None not in sides,
    }
    return tuple(QualityWarning(code=code, message=_TEXTS[code]) for code, holds in conditions.items() if holds)


def is_close(combined: Combined, margin: float) -> bool:
    """Return whether scores that are each off by up to `margin` (0 to 1) could change a decision on several views.

    Mean and maximum are off by no more than their views, 1 - product of (1 - score) by no more than the views' sum.
    """
    if margin == 0:
        return False
    widest = margin * max(map(_spread, combined.breasts))
    return _distance(combined.exam) <= widest or any(_distance(breast) <= margin * _spread(breast)
                                                     for breast in combined.breasts)


def _distance(case: BreastAnswer | ExamResult) -> float:
    """Return how far a score, 0 to 1, lies from the threshold that decided."""
    return abs(case.malignancy_score / 100 - case.decision.threshold) if case.decision else np.inf


def _spread(breast: BreastAnswer) -> int:
    return len(breast.images) if breast.rule is BreastRule.NOISY_OR else 1
