"""Views are combined into breasts and breasts into an exam, and decided by the thresholds of their level."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.contract.schema import (
    Decision,
    Finding,
    Prevalence,
    PrevalenceSource,
    Reason,
    Referral,
    ReferralCode,
)
from mammopipe.inference.prediction import exam
from mammopipe.inference.prediction.exam import ViewScore, combine_views
from mammopipe.inference.prediction.thresholds import Thresholds
from mammopipe.processing.datasets.manifest import Laterality
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Level, cases_of, compared
from mammopipe.training.model.operating_points import Goal
from mammopipe.training.model.predictions import ValidationPredictions, softmax
from tests.support.points import image_point, level_figures

L, R = Laterality.LEFT, Laterality.RIGHT
FINE = Referral(refer=False, reasons=[])
POOR = Referral(refer=True, reasons=[Reason(code=ReferralCode.SEGMENTATION, message="mirrored")])


def figures(sensitive: float | None, specific: float | None) -> dict[str, Any]:
    return level_figures(sensitivity=sensitive, specificity=specific, f1=0.5)


def described(rule: str | None = "mean", **validation: Any) -> dict[str, Any]:
    points = {"sensitivity": image_point(0.2, 0.91)}
    calibration = {"temperature": 1.0, "fitted_on": "validation"} | ({"breast_rule": rule} if rule else {})
    return {
        "classes": ["normal", "benign", "malignant"],
        "operating_points": points,
        "calibration": calibration,
        "metrics": {"validation": validation},
    }


def thresholds(rule: str | None = "mean", **validation: Any) -> Thresholds:
    return Thresholds.read(described(rule, **validation), "model.json")


WHOLE = thresholds(breast=figures(0.3, 0.6), patient=figures(0.4, 0.7))


def view(
    side: Laterality | None, probability: float, referral: Referral, logits: Sequence[float] = (0, 0, 0)
) -> ViewScore:
    return ViewScore(side, probability, referral, np.array(logits, np.float64))


@pytest.mark.parametrize(("rule", "left"), [("mean", 0.4), ("max", 0.6), ("noisy-or", 1 - 0.4 * 0.8)])
def test_breasts_follow_the_stored_rule_and_the_exam_its_worst_breast(rule: str, left: float) -> None:
    views = [view(R, 0.1, FINE), view(L, 0.6, FINE), view(L, 0.2, FINE), view(R, 0.1, FINE)]
    model = thresholds(rule, breast=figures(0.3, 0.6), patient=figures(0.4, 0.7))
    combined = combine_views(views, model, OperatingPoint.SENSITIVITY)
    assert [(breast.laterality, breast.images, breast.rule) for breast in combined.breasts] == [
        (L, [1, 2], BreastRule(rule)),
        (R, [0, 3], BreastRule(rule)),
    ]
    assert combined.breasts[0].malignancy_score == pytest.approx(100 * left)
    assert combined.exam.malignancy_score == pytest.approx(100 * left)
    assert combined.warnings == ()


def test_each_level_has_its_own_threshold() -> None:
    views = [view(L, 0.35, FINE), view(R, 0.1, FINE)]
    combined = combine_views(views, WHOLE, OperatingPoint.SENSITIVITY)
    assert [breast.decision and breast.decision.finding for breast in combined.breasts] == [
        Finding.SUSPICIOUS,
        Finding.NOT_SUSPICIOUS,
    ]
    assert combined.exam.decision == Decision(
        operating_point=OperatingPoint.SENSITIVITY,
        threshold=0.4,
        finding=Finding.NOT_SUSPICIOUS,
        level=Level.PATIENT,
        n=200,
        positives=20,
        sensitivity=0.9,
        sensitivity_interval=(0.8, 1.0),
        specificity=0.4,
        specificity_interval=(0.4 - 0.1, 0.4 + 0.1),
        recall_rate=0.6,
        recall_rate_interval=(0.6 - 0.1, 0.6 + 0.1),
        prevalence=0.1,
    )
    specific = combine_views(views, WHOLE, OperatingPoint.SPECIFICITY)
    assert specific.breasts[0].decision is not None and specific.breasts[0].decision.threshold == 0.6


def test_a_level_that_is_the_same_as_one_before_has_its_thresholds() -> None:
    model = thresholds(breast={"same_as": "image"}, patient=figures(0.4, None))
    assert model.points[Level.BREAST] == model.points[Level.IMAGE]
    assert set(model.points[Level.PATIENT]) == {Goal.SENSITIVITY, Goal.F1}


def test_a_probability_that_equals_the_threshold_is_suspicious() -> None:
    for probability, finding in ((0.3, Finding.SUSPICIOUS), (np.nextafter(0.3, 0), Finding.NOT_SUSPICIOUS)):
        decision = WHOLE.decide(Level.BREAST, float(probability), OperatingPoint.SENSITIVITY)
        assert decision is not None and decision.finding is finding


def test_a_point_that_found_no_cancer_is_not_offered() -> None:
    blind = figures(0.4, 0.7)
    blind["operating_points"]["specificity"]["sensitivity"] = {"value": 0.0, "low": 0.0, "high": 0.1}
    model = thresholds(breast=figures(0.3, 0.6), patient=blind)
    combined = combine_views([view(L, 0.9, FINE), view(R, 0.1, FINE)], model, OperatingPoint.SPECIFICITY)
    assert combined.exam.decision is None and combined.breasts[0].decision is not None
    assert "no-exam-operating-point" in {warning.code for warning in combined.warnings}


def test_a_stated_prevalence_moves_what_is_shown_and_no_decision() -> None:
    description = described(breast=figures(0.3, 0.6), patient=figures(0.4, 0.7))
    description["calibration"]["prevalence"] = {"image": 0.1, "breast": 0.15, "patient": 0.25}
    views = [view(L, 0.41, FINE), view(R, 0.29, FINE)]
    here = combine_views(views, Thresholds.read(description, "model.json"), OperatingPoint.SENSITIVITY)
    rare = Thresholds.read(description, "model.json", prevalence=0.01)
    there = combine_views(views, rare, OperatingPoint.SENSITIVITY)
    cases = [(here.exam, there.exam), *zip(here.breasts, there.breasts, strict=True)]
    for before, after in cases:
        assert before.decision is not None and after.decision is not None
        assert after.decision.finding is before.decision.finding
        assert after.malignancy_score < before.malignancy_score and after.decision.threshold < before.decision.threshold
        assert after.decision.prevalence == before.decision.prevalence == 0.1, "that of the validation cases"
    factor = (0.01 / 0.99) / (0.25 / 0.75)
    odds = 0.41 / 0.59 * factor
    assert there.exam.malignancy_score == pytest.approx(100 * odds / (1 + odds))
    assert there.exam.prevalence == Prevalence(value=0.01, of=PrevalenceSource.DEPLOYMENT, level=Level.PATIENT)
    assert here.exam.prevalence == Prevalence(value=0.25, of=PrevalenceSource.VALIDATION, level=Level.PATIENT)
    assert there.closest == here.closest


def test_a_model_that_does_not_state_its_prevalence_cannot_be_moved() -> None:
    with pytest.raises(ConfigError, match="prevalence"):
        Thresholds.read(described(), "model.json", prevalence=0.01)
    combined = combine_views([view(L, 0.5, FINE)], WHOLE, OperatingPoint.SENSITIVITY)
    assert combined.exam.prevalence is not None and combined.exam.prevalence.value is None


def test_without_thresholds_there_are_scores_and_warnings_but_no_decisions() -> None:
    combined = combine_views([view(L, 0.5, FINE), view(None, 0.9, FINE)], thresholds(None), OperatingPoint.SENSITIVITY)
    assert [breast.laterality for breast in combined.breasts] == [None, L]
    assert all(breast.decision is None for breast in combined.breasts) and combined.exam.decision is None
    assert {warning.code for warning in combined.warnings} == {
        "no-breast-rule",
        "no-breast-operating-point",
        "no-exam-operating-point",
        "laterality-missing",
    }


def test_one_breast_alone_is_warned_of() -> None:
    combined = combine_views([view(L, 0.5, FINE)], WHOLE, OperatingPoint.SENSITIVITY)
    assert [warning.code for warning in combined.warnings] == ["one-breast"]


def test_one_view_that_cannot_be_judged_refers_its_breast_and_the_exam() -> None:
    views = [view(L, 0.1, FINE), view(R, 0.1, FINE), view(R, 0.1, POOR)]
    combined = combine_views(views, WHOLE, OperatingPoint.SENSITIVITY)
    assert [breast.referral.refer for breast in combined.breasts] == [False, True]
    assert combined.exam.referral.refer
    assert [reason.message for reason in combined.exam.referral.reasons] == ["image 2: mirrored"]


# Breasts scored in comparison with each other


def comparing(weight: float = 0.5, temperature: float = 2.0, rule: str = "mean") -> Thresholds:
    """Return thresholds of a model that compares breasts, with different points for compared and uncompared breasts."""
    description = described(rule, breast=figures(0.3, 0.6), patient=figures(0.4, 0.7))
    description["calibration"]["comparison"] = {"weight": weight, "temperature": temperature}
    description["metrics"]["compared"] = {"validation": {"breast": figures(0.05, 0.8), "patient": figures(0.15, 0.9)}}
    return Thresholds.read(description, "model.json")


VIEWS = [view(R, 0.2, FINE, (1, 0, 0.5)), view(L, 0.6, FINE, (0, 0, 2)), view(L, 0.2, FINE, (1, 1, 1))]


def test_breasts_are_scored_beside_each_other_by_their_own_thresholds() -> None:
    combined = combine_views(VIEWS, comparing(), OperatingPoint.SENSITIVITY)
    left_mean, right_mean = np.array([0.5, 0.5, 1.5]), np.array([1, 0, 0.5])
    left = [softmax((own - 0.5 * right_mean)[None] / 2)[0, 2] for own in (np.array([0, 0, 2]), np.array([1, 1, 1]))]
    right = softmax((right_mean - 0.5 * left_mean)[None] / 2)[0, 2]
    assert [breast.malignancy_score for breast in combined.breasts] == pytest.approx([100 * np.mean(left), 100 * right])
    assert [breast.compared for breast in combined.breasts] == [True, True]
    assert [breast.decision.threshold for breast in combined.breasts if breast.decision] == [0.05, 0.05]
    assert combined.exam.decision is not None and combined.exam.decision.threshold == 0.15
    assert combined.warnings == ()


def test_a_case_is_held_against_the_points_of_its_level_and_kind() -> None:
    points, name = comparing(), OperatingPoint.SENSITIVITY
    for beside, threshold in ((False, 0.3), (True, 0.05)):
        decision = points.decide(Level.BREAST, threshold, name, compared=beside)
        assert decision is not None and decision.threshold == pytest.approx(threshold)
        assert decision.finding is Finding.SUSPICIOUS, "at the threshold itself"
        assert points.distance(Level.BREAST, 0.5, name, compared=beside) == pytest.approx(0.5 - threshold)
        assert points.distance(Level.BREAST, 0.0, name, compared=beside) == pytest.approx(threshold)
    # By default a case is not one of compared breasts.
    decision = points.decide(Level.PATIENT, 0.399, name)
    assert decision is not None and (decision.threshold, decision.finding) == (0.4, Finding.NOT_SUSPICIOUS)
    assert points.distance(Level.PATIENT, 0.4, name) == 0
    # A model without comparison uses its ordinary points for every case.
    assert WHOLE.decide(Level.BREAST, 0.3, name, compared=True) == WHOLE.decide(Level.BREAST, 0.3, name)
    assert WHOLE.distance(Level.BREAST, 0.3, name, compared=True) == 0
    assert thresholds().decide(Level.BREAST, 0.3, name) is None
    assert thresholds().distance(Level.BREAST, 0.3, name) == float("inf")


def test_a_decision_states_what_it_rests_on() -> None:
    decision = WHOLE.decide(Level.BREAST, 0.3, OperatingPoint.SENSITIVITY)
    assert decision is not None and (decision.level, decision.n, decision.positives) == (Level.BREAST, 200, 20)
    assert (decision.sensitivity, decision.specificity, decision.recall_rate) == (0.9, 0.4, 0.6)
    for interval, value in (
        (decision.sensitivity_interval, 0.9),
        (decision.specificity_interval, 0.4),
        (decision.recall_rate_interval, 0.6),
    ):
        assert interval == pytest.approx((value - 0.1, value + 0.1))
    assert decision.prevalence == pytest.approx(0.1)


def test_a_rate_without_an_interval_has_none() -> None:
    breast = figures(0.3, 0.6)
    breast["operating_points"]["sensitivity"]["specificity"] |= {"low": None, "high": None}
    decision = thresholds(breast=breast).decide(Level.BREAST, 0.3, OperatingPoint.SENSITIVITY)
    assert decision is not None and decision.specificity_interval is None and decision.sensitivity_interval


@pytest.mark.parametrize("missing", ["low", "high"])
def test_half_an_interval_is_refused(missing: str) -> None:
    breast = figures(0.3, 0.6)
    breast["operating_points"]["sensitivity"]["specificity"][missing] = None
    with pytest.raises(ConfigError, match=r"model.json: .*must have two bounds"):
        thresholds(breast=breast)


def test_breasts_that_look_alike_are_called_alike_whatever_they_look_like() -> None:
    alike = [view(side, 0.9, FINE, (0, 0, 5)) for side in (L, R)]
    combined = combine_views(alike, comparing(weight=1.0), OperatingPoint.SENSITIVITY)
    assert [breast.malignancy_score for breast in combined.breasts] == pytest.approx([100 / 3, 100 / 3])


@pytest.mark.parametrize("views", [VIEWS[1:], [*VIEWS, view(None, 0.5, FINE)], [VIEWS[0], view(None, 0.5, FINE)]])
def test_without_both_breasts_each_is_scored_by_itself_and_the_answer_says_so(views: list[ViewScore]) -> None:
    combined = combine_views(views, comparing(), OperatingPoint.SENSITIVITY)
    alone = combine_views(views, WHOLE, OperatingPoint.SENSITIVITY)
    assert combined.breasts == alone.breasts and combined.exam == alone.exam
    assert [one.code for one in combined.warnings] == [*[one.code for one in alone.warnings], "not-compared"]


@pytest.mark.parametrize("rule", list(BreastRule))
def test_the_endpoint_scores_an_exam_as_the_evaluation_scored_it(rule: BreastRule) -> None:
    random = np.random.default_rng(0)
    sides = ["L", "R", "L", "R", "R"]
    logits = random.normal(size=(len(sides), 3))
    predictions = ValidationPredictions(
        tuple("abcde"), ("p",) * 5, tuple(f"p-{side}" for side in sides), np.array([2, 0, 2, 0, 0]), logits
    )
    kept, _ = compared(predictions, 0.5)
    expected = cases_of(kept, Calibration(2.0), rule)[Level.BREAST].scores
    views = [view(Laterality(side), 0.5, FINE, row) for side, row in zip(sides, logits, strict=True)]
    combined = combine_views(views, comparing(rule=rule), OperatingPoint.SENSITIVITY)
    assert [breast.malignancy_score for breast in combined.breasts] == pytest.approx(list(100 * expected))


def test_a_model_that_compares_without_thresholds_for_it_is_refused() -> None:
    description = described(breast=figures(0.3, 0.6), patient=figures(0.4, 0.7))
    description["calibration"]["comparison"] = {"weight": 0.5, "temperature": 2.0}
    with pytest.raises(ConfigError, match="metrics.compared.validation"):
        Thresholds.read(description, "model.json")


@pytest.mark.parametrize(
    "wrong",
    [
        described("median"),
        described(breast={}),
        described(breast={"same_as": "lesion"}),
        described(patient={"operating_points": {"sensitivity": {"threshold": "high"}}}),
        described(breast=[]),
        {**described(), "operating_points": {"speed": image_point(0.5)}},
    ],
)
def test_malformed_thresholds_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="model.json"):
        Thresholds.read(wrong, "model.json")


def test_only_scores_near_a_threshold_are_close() -> None:
    views = [view(L, 0.31, FINE), view(L, 0.31, FINE)]
    combined = combine_views(views, WHOLE, OperatingPoint.SENSITIVITY)
    assert not exam.is_close(combined, 0) and not exam.is_close(combined, 0.009) and exam.is_close(combined, 0.011)
    noisy = thresholds("noisy-or", breast=figures(0.3, 0.6), patient=figures(0.4, 0.7))
    combined = combine_views([view(L, 0.158, FINE)] * 2, noisy, OperatingPoint.SENSITIVITY)
    assert exam.is_close(combined, 0.006) and not exam.is_close(combined, 0.004)
