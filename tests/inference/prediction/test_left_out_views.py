"""Refused views of an exam, breasts judged by attention, and the texts of warnings, by the rules of `combine_views`."""

from dataclasses import replace

import numpy as np
import pytest

from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.contract.schema import Prevalence, PrevalenceSource, ViewsRule
from mammopipe.inference.prediction.exam import (
    BreastModel,
    LeftOut,
    ViewScore,
    combine_views,
    is_close,
    left_out,
    of_unseen_breast,
    unseen_breasts,
)
from mammopipe.inference.prediction.thresholds import Thresholds
from mammopipe.processing.datasets.manifest import Laterality
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.predictions import softmax
from mammopipe.training.model.views.attention import ViewAttention, ViewMask
from tests.inference.prediction.test_exam import FINE, WHOLE, comparing, described, figures, thresholds, view

L, R = Laterality.LEFT, Laterality.RIGHT
POINT = OperatingPoint.SENSITIVITY


def refused(index: int, side: Laterality | None) -> LeftOut:
    return left_out(index, side, f"text {index}")


# Breasts of which only a refused image may exist


@pytest.mark.parametrize(
    ("judged", "unseen"), [([], {L, R}), ([L], {R}), ([R, R], {L}), ([L, None], {R}), ([None], {L, R}), ([R, L], set())]
)
def test_a_breast_of_which_no_view_is_judged_is_unseen(
    judged: list[Laterality | None], unseen: set[Laterality]
) -> None:
    assert unseen_breasts(judged) == unseen
    found = of_unseen_breast(3, judged, "a magnification view")
    if not unseen:
        assert found is None, "both breasts are judged without it"
        return
    assert found is not None and found.index == 3
    assert found.laterality == (next(iter(unseen)) if len(unseen) == 1 else None)
    [reason] = found.referral.reasons
    assert found.referral.refer and (reason.code, reason.message) == ("excluded", "not judged: a magnification view")


@pytest.mark.parametrize(
    ("side", "referred"),
    [(L, {L: True, R: False}), (R, {L: False, R: True}), (None, {L: True, R: True})],
)
def test_a_refused_view_refers_the_breast_that_it_may_show(
    side: Laterality | None, referred: dict[Laterality, bool]
) -> None:
    views = [view(L, 0.1, FINE), view(R, 0.1, FINE)]
    combined = combine_views(views, WHOLE, POINT, indices=[0, 2], left_out=[refused(1, side)])
    assert {breast.laterality: breast.referral.refer for breast in combined.breasts} == referred
    assert [breast.images for breast in combined.breasts] == [[0], [2]]
    assert [reason.message for reason in combined.exam.referral.reasons] == ["image 1: not judged: text 1"]
    for breast in combined.breasts:
        expected = ["image 1: not judged: text 1"] if breast.referral.refer else []
        assert [reason.message for reason in breast.referral.reasons] == expected


def test_a_breast_of_unknown_side_is_referred_for_every_refused_view() -> None:
    combined = combine_views([view(None, 0.1, FINE)], WHOLE, POINT, indices=[1], left_out=[refused(0, L)])
    assert [breast.referral.refer for breast in combined.breasts] == [True]


# A model that judges breasts


def attention(*, other: bool) -> ViewAttention:
    """Return an attention that weighs the views of a breast by their first feature."""
    one, none = np.ones(1), np.zeros(1)
    channels = np.array([[1.0, 0.0]])
    return ViewAttention(channels, none, np.zeros((1, 2)), none, 2 * one, 0.5 * np.eye(3) if other else None)


def seen(side: Laterality | None, logits: tuple[float, ...], features: tuple[float, float]) -> ViewScore:
    return replace(view(side, 0.5, FINE, logits), features=np.array(features))


EXAM = [
    seen(R, (1, 0, 0.5), (0.2, 1)),
    seen(L, (0, 0, 2), (1.5, 0)),
    seen(L, (1, 1, 1), (-0.5, 0)),
    seen(None, (0, 1, 0), (0, 0)),
]


@pytest.mark.parametrize("other", [True, False])
@pytest.mark.parametrize("views", [EXAM[:3], EXAM[1:3], EXAM, [EXAM[0], EXAM[3]]])
def test_a_breast_is_scored_from_all_views_of_the_exam(views: list[ViewScore], other: bool) -> None:
    model = BreastModel(attention(other=other), Calibration(2.0, (0.1, 0.0, -0.2)))
    combined = combine_views(views, WHOLE, POINT, model=model)
    sides = [each.laterality for each in views]
    for breast in combined.breasts:
        shown = [
            ViewMask.OWN
            if side is breast.laterality
            else ViewMask.OTHER
            if side and breast.laterality
            else ViewMask.ABSENT
            for side in sides
        ]
        logits = model.attention.breast_logits(
            np.array([each.logits for each in views], float), np.array([each.features for each in views]), shown
        )
        expected = softmax((logits / 2 + [0.1, 0.0, -0.2])[None])[0, 2]
        assert breast.malignancy_score == pytest.approx(100 * expected)
        assert breast.rule is ViewsRule.ATTENTION
        assert breast.compared == (other and set(sides) == {L, R}), "only an exam of both breasts and nothing else"
        assert breast.images == [index for index, side in enumerate(sides) if side is breast.laterality]
    highest = max(breast.malignancy_score for breast in combined.breasts)
    assert combined.exam.malignancy_score == pytest.approx(highest)


# The distance of scores from thresholds


def test_the_margin_includes_its_end_and_a_margin_of_0_holds_nothing() -> None:
    model = thresholds(breast=figures(0.25, 0.6), patient=figures(0.5, 0.7))
    combined = combine_views([view(L, 0.375, FINE), view(R, 0.375, FINE)], model, POINT)
    assert combined.closest == 0.125
    assert is_close(combined, 0.125) and not is_close(combined, 0.1249)
    at_it = combine_views([view(L, 0.25, FINE), view(R, 0.25, FINE)], model, POINT)
    assert at_it.closest == 0 and not is_close(at_it, 0) and is_close(at_it, 1e-9)


def test_the_errors_of_a_breasts_views_may_add_up_in_the_score_of_the_exam() -> None:
    model = thresholds("noisy-or", breast=figures(0.1, 0.9), patient=figures(0.65, 0.9))
    combined = combine_views([view(L, 0.4, FINE), view(L, 0.4, FINE), view(R, 0.5, FINE)], model, POINT)
    assert combined.closest == pytest.approx((0.65 - 0.64) / 2), "two views, 1 - 0.6 * 0.6 = 0.64"


def test_the_exam_of_compared_breasts_may_be_nearest_to_its_own_threshold() -> None:
    views = [view(side, 0.5, FINE, (3, 0, 0)) for side in (L, R)]
    combined = combine_views(views, comparing(), POINT)
    of_exam = abs(combined.exam.malignancy_score / 100 - 0.15)
    assert of_exam < min(abs(breast.malignancy_score / 100 - 0.05) for breast in combined.breasts)
    assert combined.closest == pytest.approx(of_exam)


def test_the_margin_of_compared_breasts_is_that_of_their_own_thresholds() -> None:
    views = [view(R, 0.2, FINE, (1, 0, 0.5)), view(L, 0.6, FINE, (0, 0, 2))]
    combined = combine_views(views, comparing(), POINT)
    scores = [breast.malignancy_score / 100 for breast in combined.breasts]
    breasts, exam = [abs(score - 0.05) for score in scores], abs(max(scores) - 0.15)
    assert combined.closest == pytest.approx(min([*breasts, exam]))


def test_each_breast_states_the_prevalence_that_its_score_assumes() -> None:
    description = described(breast=figures(0.3, 0.6), patient=figures(0.4, 0.7))
    description["calibration"]["prevalence"] = {"image": 0.1, "breast": 0.15, "patient": 0.25}
    views = [view(L, 0.1, FINE), view(R, 0.1, FINE)]
    combined = combine_views(views, Thresholds.read(description, "model.json"), POINT)
    stated = Prevalence(value=0.15, of=PrevalenceSource.VALIDATION, level=Level.BREAST)
    assert [breast.prevalence for breast in combined.breasts] == [stated, stated]


# The texts of warnings


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("no-breast-rule", "the model does not state how the views of a breast are combined; their mean is used"),
        (
            "no-breast-operating-point",
            "the model has no such threshold for breasts; it gives scores but no decisions",
        ),
        ("no-exam-operating-point", "the model has no such threshold for exams; it gives a score but no decision"),
        ("laterality-missing", "the laterality of some images is unknown; they are treated as one breast"),
        ("one-breast", "the exam shows one breast; its answer says nothing about the other"),
        (
            "not-compared",
            "the model scores a breast beside the other one, which this exam does not allow; each was scored "
            "alone, with other thresholds",
        ),
    ],
)
def test_a_warning_says_what_the_answer_lacks(code: str, text: str) -> None:
    bare = combine_views([view(None, 0.1, FINE)], thresholds(None), POINT)
    one = combine_views([view(L, 0.1, FINE)], comparing(), POINT)
    assert {each.code: each.message for each in (*bare.warnings, *one.warnings)}[code] == text
