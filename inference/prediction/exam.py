"""From views to breasts to the exam, by the rule and the thresholds that the model's training stored.

The arithmetic is that of training (`mammopipe.training.model.exam_scores.combine`): a breast's score is made of its
views' by the stored rule, the exam's is that of its most suspicious breast. A model that compares breasts
(`mammopipe.training.comparison`) scores the
two of an exam beside each other; an exam that does not show both is scored as by a model that does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mammopipe.inference.contract.schema import (
    BreastAnswer,
    ExamResult,
    OperatingPoint,
    Prevalence,
    PrevalenceSource,
    QualityWarning,
    Referral,
)
from mammopipe.inference.prediction import referral
from mammopipe.inference.prediction.thresholds import Thresholds
from mammopipe.processing.datasets.manifest import UNKNOWN_SIDE, Laterality
from mammopipe.training.model.exam_scores import BreastRule, Cases, Level, beside_other, both_breasts, combine
from mammopipe.training.model.predictions import Floats

_TEXTS = {
    "no-breast-rule": "the model does not say how views become breasts; their mean is given",
    "no-breast-operating-point": "the model has no such threshold for breasts; it gives scores but no decisions",
    "no-exam-operating-point": "the model has no such threshold for exams; it gives a score but no decision",
    "laterality-missing": "some images do not show which breast they are of; they are taken as one breast",
    "one-breast": "the exam shows one breast; its answer says nothing of the other",
    "not-compared": "the model scores a breast beside the other one, which this exam does not allow; each was scored "
    "by itself, by other thresholds",
}


@dataclass(frozen=True)
class ViewScore:
    """What a breast needs to know of one of its views."""

    laterality: Laterality | None
    probability: float
    """Of malignant, calibrated, at validation's prevalence, 0 to 1."""
    referral: Referral
    logits: Floats
    """(classes,), in the order of the model's classes: what breasts are compared by."""


@dataclass(frozen=True)
class Combined:
    """The upper two levels of an exam."""

    breasts: tuple[BreastAnswer, ...]
    exam: ExamResult
    warnings: tuple[QualityWarning, ...]
    closest: float = np.inf
    """Least change of every view's score, 0 to 1, that could change a decision; infinite where none decides."""


def combine_views(
    views: Sequence[ViewScore], thresholds: Thresholds, name: OperatingPoint, indices: Sequence[int] | None = None
) -> Combined:
    """Return breasts and exam of one or more views, in the order of the request, at the named operating point.

    `indices` are the views' places in the request, by which breasts and reasons name them; 0, 1, ... where not given.
    """
    named = list(zip(range(len(views)) if indices is None else indices, views, strict=True))
    rule = thresholds.breast_rule or BreastRule.MEAN
    sides = [view.laterality or "" for view in views]
    compared = _beside_each_other(views, sides, thresholds)
    scores = np.array([view.probability for view in views]) if compared is None else compared
    images = Cases(Level.IMAGE, np.zeros(len(views), np.int64), scores, np.arange(len(views)))
    by_breast = combine(images, np.array(sides), Level.BREAST, rule)
    breasts = tuple(
        _breast(score, side, named, thresholds, name, compared=compared is not None)
        for score, side in zip(by_breast.scores, sorted(set(sides)), strict=True)
    )
    highest = float(by_breast.scores.max())
    exam = ExamResult(
        prevalence=shown_for(Level.PATIENT, thresholds),
        malignancy_score=100 * thresholds.shift.malignancy(Level.PATIENT, highest),
        decision=thresholds.decide(Level.PATIENT, highest, name, compared=compared is not None),
        referral=referral.of_images([(index, view.referral) for index, view in named]),
    )
    distances = [
        thresholds.distance(Level.BREAST, float(score), name, compared=compared is not None) / _spread(breast)
        for score, breast in zip(by_breast.scores, breasts, strict=True)
    ]
    of_exam = thresholds.distance(Level.PATIENT, highest, name, compared=compared is not None)
    closest = min(*distances, of_exam / max(map(_spread, breasts)))
    return Combined(breasts, exam, _warnings(breasts, exam, thresholds), closest)


def shown_for(level: Level, thresholds: Thresholds) -> Prevalence:
    """Return which prevalence the probabilities of a level are shown for."""
    source = PrevalenceSource.VALIDATION if thresholds.shift.stated is None else PrevalenceSource.DEPLOYMENT
    return Prevalence(value=thresholds.shift.prevalence.get(level), of=source, level=level)


def _beside_each_other(views: Sequence[ViewScore], sides: Sequence[str], thresholds: Thresholds) -> Floats | None:
    """Return the (views,) probabilities of malignant, each breast beside the other; `None` where that cannot be."""
    breasts, exam = [f"-{side or UNKNOWN_SIDE}" for side in sides], [""] * len(sides)
    if thresholds.compared is None or not both_breasts(exam, breasts).all():
        return None
    logits = np.array([view.logits for view in views], np.float64)
    compared = beside_other(logits, exam, breasts, thresholds.compared.weight)
    probabilities: Floats = thresholds.compared.calibration.probabilities(compared)[:, thresholds.malignant]
    return probabilities


def _breast(
    score: float,
    side: str,
    views: Sequence[tuple[int, ViewScore]],
    thresholds: Thresholds,
    name: OperatingPoint,
    *,
    compared: bool,
) -> BreastAnswer:
    own = [(index, view) for index, view in views if (view.laterality or "") == side]
    probability = float(score)
    return BreastAnswer(
        laterality=Laterality(side) if side else None,
        images=[index for index, _ in own],
        rule=thresholds.breast_rule or BreastRule.MEAN,
        compared=compared,
        prevalence=shown_for(Level.BREAST, thresholds),
        malignancy_score=100 * thresholds.shift.malignancy(Level.BREAST, probability),
        decision=thresholds.decide(Level.BREAST, probability, name, compared=compared),
        referral=referral.of_images([(index, view.referral) for index, view in own]),
    )


def _warnings(breasts: Sequence[BreastAnswer], exam: ExamResult, thresholds: Thresholds) -> tuple[QualityWarning, ...]:
    sides = {breast.laterality for breast in breasts}
    conditions = {
        "no-breast-rule": thresholds.breast_rule is None,
        "no-breast-operating-point": any(breast.decision is None for breast in breasts),
        "no-exam-operating-point": exam.decision is None,
        "laterality-missing": None in sides,
        "one-breast": len(sides) == 1 and None not in sides,
        "not-compared": thresholds.compared is not None and not breasts[0].compared,
    }
    return tuple(QualityWarning(code=code, message=_TEXTS[code]) for code, holds in conditions.items() if holds)


def is_close(combined: Combined, margin: float) -> bool:
    """Return whether scores that are each off by up to `margin` (0 to 1) could change a decision on several views.

    Mean and maximum are off by no more than their views, 1 - product of (1 - score) by no more than the views' sum.
    """
    return margin > 0 and combined.closest <= margin


def _spread(breast: BreastAnswer) -> int:
    return len(breast.images) if breast.rule is BreastRule.NOISY_OR else 1
