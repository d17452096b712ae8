"""Combines views into breasts and breasts into an exam, by the rule and the thresholds stored with the model.

The arithmetic is that of training (`mammopipe.training.model.exam_scores.combine`). The stored rule combines the
scores of a breast's views; the exam's score is that of its most suspicious breast. A model that compares breasts
(`mammopipe.training.model.exam_scores`) scores the two breasts of an exam against each other. If an exam does not
show both, it is scored without comparison.

Such scores rank. The stored maps (`mammopipe.training.model.calibration.ScoreMap`) convert them to probabilities.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.contract.schema import (
    BreastAnswer,
    ExamResult,
    Prevalence,
    PrevalenceSource,
    QualityWarning,
    Reason,
    Referral,
    ReferralCode,
    ViewsRule,
)
from mammopipe.inference.prediction import referral
from mammopipe.inference.prediction.thresholds import Thresholds
from mammopipe.processing.datasets.manifest import UNKNOWN_SIDE, Laterality
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Cases, Level, beside_other, both_breasts, combine
from mammopipe.training.model.predictions import Floats
from mammopipe.training.model.views.attention import ViewAttention, ViewMask

_TEXTS = {
    "no-breast-rule": "the model does not state how the views of a breast are combined; their mean is used",
    "no-breast-operating-point": "the model has no such threshold for breasts; it gives scores but no decisions",
    "no-exam-operating-point": "the model has no such threshold for exams; it gives a score but no decision",
    "laterality-missing": "the laterality of some images is unknown; they are treated as one breast",
    "one-breast": "the exam shows one breast; its answer says nothing about the other",
    "not-compared": "the model scores a breast beside the other one, which this exam does not allow; each was scored "
    "alone, with other thresholds",
}


@dataclass(frozen=True)
class ViewScore:
    """The facts about one view that its breast's score needs."""

    laterality: Laterality | None
    probability: float
    """Calibrated probability of malignant at validation's prevalence, 0 to 1."""
    referral: Referral
    logits: Floats
    """(classes,), in the order of the model's classes. The comparison of breasts and the attention use them."""
    features: Floats | None = None
    """(channels,), the means of the last feature maps; a model that judges breasts needs them."""


@dataclass(frozen=True)
class BreastModel:
    """How a model that judges breasts scores a breast from all its views."""

    attention: ViewAttention
    calibration: Calibration
    """Calibration of the logits of a breast."""


@dataclass(frozen=True)
class LeftOut:
    """A view of the exam that was refused: its breast and its exam are not judged completely."""

    index: int
    """Index of the view in the request."""
    laterality: Laterality | None
    """`None` if unknown; it may then show either breast."""
    referral: Referral


def left_out(index: int, laterality: Laterality | None, message: str) -> LeftOut:
    """Return a view that was refused, with the referral of its breast and its exam."""
    reason = Reason(code=ReferralCode.EXCLUDED, message=f"not judged: {message}")
    return LeftOut(index, laterality, Referral(refer=True, reasons=[reason]))


def unseen_breasts(judged: Iterable[Laterality | None]) -> set[Laterality]:
    """Return the breasts without a judged view; an image left out may be the only one of its breast."""
    return set(Laterality) - set(judged)


def of_unseen_breast(index: int, judged: Iterable[Laterality | None], message: str) -> LeftOut | None:
    """Return an image that does not show one whole breast, if the exam may show that breast nowhere else.

    Args:
        index: Index of the image in the request.
        judged: The sides of the judged views.
        message: Why the image is not judged.

    Returns:
        The image with the referral of its exam; `None` if views of both breasts are judged.
    """
    unseen = unseen_breasts(judged)
    return left_out(index, unseen.pop() if len(unseen) == 1 else None, message) if unseen else None


@dataclass(frozen=True)
class Combined:
    """The answers for the breasts and the exam."""

    breasts: tuple[BreastAnswer, ...]
    exam: ExamResult
    warnings: tuple[QualityWarning, ...]
    closest: float = np.inf
    """Smallest change of all views' scores, 0 to 1, that could change a decision; infinite without decisions."""


def combine_views(
    views: Sequence[ViewScore],
    thresholds: Thresholds,
    name: OperatingPoint,
    indices: Sequence[int] | None = None,
    left_out: Sequence[LeftOut] = (),
    model: BreastModel | None = None,
) -> Combined:
    """Return the answers for the breasts and the exam.

    Args:
        views: One or more views of one patient, in the order of the request.
        thresholds: The model's thresholds.
        name: The operating point that decides.
        indices: Indices of the views in the request, which breasts and reasons refer to; `None` counts from 0.
        left_out: Refused views of the exam, which are in no score; their breast and the exam are referred.
        model: How a model that judges breasts scores a breast; `None` for other models.
    """
    # Breasts and reasons name images by their indices in the request, which have gaps if files were skipped.
    named = list(zip(range(len(views)) if indices is None else indices, views, strict=True))
    sides = [view.laterality or "" for view in views]
    scores, rule, compared = _breast_scores(views, sides, thresholds, model)
    breasts = tuple(
        _breast(float(score), rule, side, named, left_out, thresholds, name, compared=compared)
        for score, side in zip(scores, sorted(set(sides)), strict=True)
    )
    highest = float(scores.max())
    exam = ExamResult(
        prevalence=shown_for(Level.PATIENT, thresholds),
        malignancy_score=100 * thresholds.shift.malignancy(Level.PATIENT, highest),
        probability=thresholds.probability(Level.PATIENT, highest, compared=compared),
        decision=thresholds.decide(Level.PATIENT, highest, name, compared=compared),
        referral=referral.of_images([*((index, view.referral) for index, view in named), *_referrals(left_out)]),
    )
    distances = [
        thresholds.distance(Level.BREAST, float(score), name, compared=compared) / _spread(breast)
        for score, breast in zip(scores, breasts, strict=True)
    ]
    of_exam = thresholds.distance(Level.PATIENT, highest, name, compared=compared)
    closest = min(*distances, of_exam / max(map(_spread, breasts)))
    return Combined(breasts, exam, _warnings(breasts, exam, thresholds), closest)


def shown_for(level: Level, thresholds: Thresholds) -> Prevalence:
    """Return the prevalence that the probabilities of a level assume."""
    source = PrevalenceSource.VALIDATION if thresholds.shift.stated is None else PrevalenceSource.DEPLOYMENT
    return Prevalence(value=thresholds.shift.prevalence.get(level), of=source, level=level)


def _breast_scores(
    views: Sequence[ViewScore], sides: Sequence[str], thresholds: Thresholds, model: BreastModel | None
) -> tuple[Floats, ViewsRule, bool]:
    """Return the breasts' scores of malignant, sorted by side, their rule, and whether breasts were compared."""
    if model is not None:
        scores = [_by_attention(views, sides, side, thresholds, model) for side in sorted(set(sides))]
        beside = model.attention.other is not None and {str(side) for side in Laterality} == set(sides)
        return np.array(scores), ViewsRule.ATTENTION, beside
    rule = thresholds.breast_rule or BreastRule.MEAN
    compared = _beside_each_other(views, sides, thresholds)
    alone = np.array([view.probability for view in views]) if compared is None else compared
    # The truth is not known here: 0 for every image. Only the scores of the result are used.
    images = Cases(Level.IMAGE, np.zeros(len(views), np.int64), alone, np.arange(len(views)))
    found = combine(images, np.array(sides), Level.BREAST, rule)
    return found.scores, ViewsRule(rule), compared is not None


def _by_attention(
    views: Sequence[ViewScore], sides: Sequence[str], side: str, thresholds: Thresholds, model: BreastModel
) -> float:
    """Return the probability of malignant of the breast of a side, from all views of the exam.

    Images of unknown laterality form a breast of their own, which is not compared with any other.
    """
    shown = [ViewMask.OWN if each == side else ViewMask.OTHER if each and side else ViewMask.ABSENT for each in sides]
    logits = np.array([view.logits for view in views], np.float64)
    features = np.array([view.features for view in views], np.float64)
    breast = model.attention.breast_logits(logits, features, shown)
    return float(model.calibration.probabilities(breast[None])[0, thresholds.malignant])


def _beside_each_other(views: Sequence[ViewScore], sides: Sequence[str], thresholds: Thresholds) -> Floats | None:
    """Return (views,) probabilities of malignant with breasts compared; `None` if model or exam do not allow it."""
    breasts, exam = [f"-{side or UNKNOWN_SIDE}" for side in sides], [""] * len(sides)
    if thresholds.compared is None or not both_breasts(exam, breasts).all():
        return None
    logits = np.array([view.logits for view in views], np.float64)
    compared = beside_other(logits, exam, breasts, thresholds.compared.weight)
    probabilities: Floats = thresholds.compared.calibration.probabilities(compared)[:, thresholds.malignant]
    return probabilities


def _breast(
    score: float,
    rule: ViewsRule,
    side: str,
    views: Sequence[tuple[int, ViewScore]],
    left_out: Sequence[LeftOut],
    thresholds: Thresholds,
    name: OperatingPoint,
    *,
    compared: bool,
) -> BreastAnswer:
    own = [(index, view) for index, view in views if (view.laterality or "") == side]
    of_breast = [view for view in left_out if not (view.laterality and side) or view.laterality == side]
    return BreastAnswer(
        laterality=Laterality(side) if side else None,
        images=[index for index, _ in own],
        rule=rule,
        compared=compared,
        prevalence=shown_for(Level.BREAST, thresholds),
        malignancy_score=100 * thresholds.shift.malignancy(Level.BREAST, score),
        probability=thresholds.probability(Level.BREAST, score, compared=compared),
        decision=thresholds.decide(Level.BREAST, score, name, compared=compared),
        referral=referral.of_images([*((index, view.referral) for index, view in own), *_referrals(of_breast)]),
    )


def _referrals(left_out: Sequence[LeftOut]) -> list[tuple[int, Referral]]:
    return [(view.index, view.referral) for view in left_out]


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
    """Return whether an error of up to `margin` (0 to 1) in each view's score could change a decision.

    The error of the mean and of the maximum is at most that of a view. The error of 1 - product of (1 - score) is at
    most the sum of the views' errors.
    """
    return margin > 0 and combined.closest <= margin


def _spread(breast: BreastAnswer) -> int:
    return len(breast.images) if breast.rule is ViewsRule.NOISY_OR else 1
