"""Operating points as `model.json` holds them: what is read, and each message for what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.operating_points import (
    RATES,
    DecisionThreshold,
    Goal,
    Points,
    Rate,
    check_prevalence,
    read_compared_points,
    read_operating_points,
)

POINT = DecisionThreshold(
    0.3, 0.9, Rate(0.9, 0.8, 0.95), Rate(0.6, 0.5, 0.7), Rate(0.5, None, None), Rate(None, None, None), 200, 20, 100
)
COUNTS = {"cases": 50, "malignant": 10, "patients": 40}


def of_level(**thresholds: float | None) -> dict[str, Any]:
    """Return the figures of breasts or patients with a point for each goal."""
    figures = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in RATES}
    points = {goal: {"threshold": threshold, **figures} for goal, threshold in thresholds.items()}
    return {**COUNTS, "operating_points": points}


def read(points: Any = None, validation: Any = None) -> Points:
    return read_operating_points({"operating_points": points or {}, "metrics": {"validation": validation}}, "m.json")


def refused(points: Any = None, validation: Any = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(points, validation)
    return str(caught.value)


# --- rates


@pytest.mark.parametrize("values", [(0, 0, 0), (1, 1.0, 1), (0.5, None, None), (None, None, None), (0.5, 0.5, 0.5)])
def test_shares_in_their_intervals_are_rates(values: tuple[Any, ...]) -> None:
    assert Rate(*values) == Rate.of(dict(zip(("value", "low", "high"), values, strict=True)))


def test_a_share_may_pass_its_interval_by_rounding_alone() -> None:
    assert Rate(0.4 - 1e-10, 0.4, 0.6).value == 0.4 - 1e-10
    assert Rate(0.6 + 1e-10, 0.4, 0.6).high == 0.6
    for value in (0.4 - 1e-9, 0.6 + 1e-9):
        assert Rate(value, 0.4, 0.6).value == value, "the largest difference that counts as equal"
    for value in (0.4 - 1e-8, 0.6 + 1e-8):
        with pytest.raises(ValueError, match=f"^{value} must lie in its interval, 0.4 to 0.6$"):
            Rate(value, 0.4, 0.6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1.01, None, None), "^1.01 must be a share, from 0 to 1$"),
        ((-0.01, None, None), "^-0.01 must be a share"),
        ((True, None, None), "^True must be a share"),
        (("0.5", None, None), "^'0.5' must be a share"),
        ((0.5, 0.4, 1.01), "^1.01 must be a share"),
        ((0.5, -0.1, 0.6), "^-0.1 must be a share"),
        ((0.5, 0.6, 0.4), "^the interval 0.6 to 0.4 must have two bounds, the lower one first$"),
        ((0.5, None, 0.6), "^the interval None to 0.6 must have two bounds"),
        ((0.5, 0.4, None), "^the interval 0.4 to None must have two bounds"),
        ((None, 0.4, 0.6), "^None must lie in its interval, 0.4 to 0.6$"),
    ],
)
def test_what_is_no_rate_is_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rate(*values)


# --- points of images


def test_a_written_point_is_read_again() -> None:
    written = POINT.as_dict()
    assert written == {
        "threshold": 0.3,
        "target": 0.9,
        "sensitivity": 0.9,
        "specificity": 0.6,
        "recall_rate": 0.5,
        "ppv": None,
        "intervals": {"sensitivity": [0.8, 0.95], "specificity": [0.5, 0.7], "recall_rate": None, "ppv": None},
        "cases": 200,
        "malignant": 20,
        "patients": 100,
        "prevalence": 0.1,
    }
    empty = {Level.BREAST: {}, Level.PATIENT: {}}
    assert read({"sensitivity": written}) == {Level.IMAGE: {Goal.SENSITIVITY: POINT}, **empty}
    assert read({"f1": written}) == {Level.IMAGE: {Goal.F1: replace(POINT, target=None)}, **empty}
    assert read() == {Level.IMAGE: {}, **empty} == read_operating_points({"operating_points": {}, "metrics": {}}, "")
    assert read(validation=["breast"]) == {Level.IMAGE: {}, **empty}
    assert POINT.prevalence == 0.1


def test_a_point_that_finds_no_cancer_is_not_offered() -> None:
    assert POINT.offered is True
    assert replace(POINT, sensitivity=Rate(0.0, None, None)).offered is False
    assert replace(POINT, sensitivity=Rate(None, None, None)).offered is False


@pytest.mark.parametrize(
    "changes",
    [{"threshold": 1e-9}, {"threshold": 1 - 1e-9}, {"cases": 20, "patients": 20, "prevalence": 1.0},
     {"malignant": 1, "prevalence": 1 / 200}, {"patients": 1}, {"patients": 200}, {"prevalence": 0.1 + 9e-10}],
)  # fmt: skip
def test_the_least_and_the_greatest_values_are_accepted(changes: dict[str, Any]) -> None:
    point = read({"specificity": {**POINT.as_dict(), **changes}})[Level.IMAGE][Goal.SPECIFICITY]
    assert all(getattr(point, name) == pytest.approx(value) for name, value in changes.items())


COUNTS_RULE = "must be whole numbers, patients and malignant from 1 to the number of cases"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0}, ".threshold=0 must be a number above 0 and below 1"),
        ({"threshold": 1}, ".threshold=1 must be a number above 0 and below 1"),
        ({"threshold": True}, ".threshold=True must be a number above 0 and below 1"),
        ({"threshold": "0.3"}, ".threshold='0.3' must be a number above 0 and below 1"),
        ({"cases": 19}, f": {{'cases': 19, 'malignant': 20, 'patients': 100}} {COUNTS_RULE}"),
        ({"malignant": 0}, f": {{'cases': 200, 'malignant': 0, 'patients': 100}} {COUNTS_RULE}"),
        ({"patients": 0}, f": {{'cases': 200, 'malignant': 20, 'patients': 0}} {COUNTS_RULE}"),
        ({"patients": 201}, f": {{'cases': 200, 'malignant': 20, 'patients': 201}} {COUNTS_RULE}"),
        ({"cases": 200.0}, f": {{'cases': 200.0, 'malignant': 20, 'patients': 100}} {COUNTS_RULE}"),
        ({"malignant": True}, f": {{'cases': 200, 'malignant': True, 'patients': 100}} {COUNTS_RULE}"),
        ({"prevalence": 0.1 + 2e-9}, f".prevalence={0.1 + 2e-9!r} must be malignant / cases, 0.1"),
    ],
)
def test_a_contradiction_is_named_with_its_key(changes: dict[str, Any], message: str) -> None:
    assert refused({"f1": {**POINT.as_dict(), **changes}}) == f"m.json: operating_points.f1{message}"


@pytest.mark.parametrize(
    ("removed", "missing"),
    [("threshold", "'threshold'"), ("patients", "'patients'"), ("ppv", "'ppv'"), ("intervals", "'intervals'")],
)
def test_a_point_that_lacks_a_key_is_named_with_what_it_must_have(removed: str, missing: str) -> None:
    values = {name: value for name, value in POINT.as_dict().items() if name != removed}
    assert refused({"f1": values}) == (
        f"m.json: operating_points.f1={values!r} must have threshold, cases, malignant, patients, sensitivity, "
        f"specificity, recall_rate, ppv and the interval of each: {missing}"
    )
    assert refused({"f1": 3}).startswith("m.json: operating_points.f1=3 must have threshold")


def test_an_unknown_goal_is_refused() -> None:
    assert refused({"best": POINT.as_dict()}) == (
        "m.json: operating_points has 'best'; a point is one of sensitivity, specificity, f1"
    )


# --- points of breasts and patients


def test_the_points_of_breasts_and_patients_have_the_counts_of_their_level() -> None:
    found = read(validation={"breast": of_level(sensitivity=0.2, f1=None), "patient": of_level(f1=0.4)})
    rate = Rate(0.5, 0.4, 0.6)
    breast = DecisionThreshold(0.2, 0.9, rate, rate, rate, rate, 50, 10, 40)
    assert found == {
        Level.IMAGE: {},
        Level.BREAST: {Goal.SENSITIVITY: breast},
        Level.PATIENT: {Goal.F1: replace(breast, threshold=0.4, target=None)},
    }
    assert read(validation={"patient": of_level()}) == {Level.IMAGE: {}, Level.BREAST: {}, Level.PATIENT: {}}


def test_a_level_with_the_cases_of_another_has_its_points() -> None:
    images = {"specificity": POINT.as_dict()}
    found = read(images, {"breast": {"same_as": "image"}, "patient": {"same_as": "breast"}})
    assert found[Level.IMAGE] == found[Level.BREAST] == found[Level.PATIENT] == {Goal.SPECIFICITY: POINT}
    assert read(validation={"breast": {"same_as": "patient"}, "patient": of_level(f1=0.4)})[Level.BREAST] == {}
    assert refused(validation={"breast": {"same_as": "woman"}}) == (
        "m.json: metrics.validation.breast.same_as='woman' must be one of image, breast, patient"
    )


def test_a_level_that_cannot_be_read_is_named() -> None:
    held = "must hold operating_points, cases, malignant and patients, or same_as"
    for removed in ("operating_points", "cases", "malignant", "patients"):
        values = {name: value for name, value in of_level(f1=0.4).items() if name != removed}
        assert refused(validation={"patient": values}) == f"m.json: metrics.validation.patient {held}"
    wrong = of_level(f1=2.0)
    assert refused(validation={"breast": wrong}) == (
        "m.json: metrics.validation.breast.operating_points.f1.threshold=2.0 must be a number above 0 and below 1"
    )
    del wrong["operating_points"]["f1"]["threshold"]
    assert refused(validation={"breast": wrong}).startswith("m.json: metrics.validation.breast.operating_points.f1={")


# --- compared breasts


def compared(metrics: Any) -> Points:
    return read_compared_points({"calibration": {"comparison": {"temperature": 1.0}}, "metrics": metrics}, "m.json")


def test_compared_breasts_have_points_of_their_own() -> None:
    validation = {"breast": of_level(f1=0.3), "patient": {"same_as": "breast"}}
    found = compared({"compared": {"validation": validation}})
    assert set(found) == {Level.BREAST, Level.PATIENT} and found[Level.BREAST][Goal.F1].threshold == 0.3
    assert found[Level.PATIENT] == found[Level.BREAST]
    for calibration in ({}, {"comparison": None}):
        assert read_compared_points({"calibration": calibration, "metrics": {}}, "m.json") == {}
    same = compared({"compared": {"validation": {"breast": {"same_as": "image"}, "patient": of_level(f1=0.3)}}})
    assert same[Level.BREAST] == {}, "images are not compared"


@pytest.mark.parametrize(
    "metrics",
    [{}, {"compared": None}, {"compared": {}}, {"compared": {"validation": []}}, {"compared": {"validation": None}},
     {"compared": {"validation": {"breast": of_level()}}}, {"compared": {"validation": {"patient": of_level()}}}],
)  # fmt: skip
def test_a_comparison_without_its_figures_is_refused(metrics: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        compared(metrics)
    assert str(caught.value) == (
        "m.json: metrics.compared.validation must hold the levels breast and patient, because "
        "calibration.comparison states that breasts are compared"
    )


def test_a_wrong_point_of_compared_breasts_is_named() -> None:
    with pytest.raises(ConfigError, match="^m.json: metrics.compared.validation.patient.operating_points.f1.thres"):
        compared({"compared": {"validation": {"breast": of_level(), "patient": of_level(f1=1.0)}}})


# --- prevalence


def test_a_prevalence_that_is_not_that_of_the_cases_is_refused() -> None:
    points = {Level.IMAGE: {Goal.F1: POINT}, Level.BREAST: {}, Level.PATIENT: {Goal.F1: replace(POINT, malignant=40)}}
    for shares in ({}, {"image": 0.1, "breast": 0.7, "patient": 0.2 + 9e-10}):
        check_prevalence(shares, points, "m.json")
    rare = replace(POINT, malignant=1, cases=10**9)
    check_prevalence({"image": 0.0}, {Level.IMAGE: {Goal.F1: rare}}, "m.json")
    assert read({"f1": {**rare.as_dict(), "prevalence": 0.0}})[Level.IMAGE][Goal.F1] == replace(rare, target=None)
    for share in (0.1, 0.2 + 2e-9, 0.2 - 2e-9):
        with pytest.raises(ConfigError) as caught:
            check_prevalence({"image": 0.1, "patient": share}, points, "m.json")
        assert str(caught.value) == (
            f"m.json: calibration.prevalence.patient={share!r} must be malignant / cases of the operating point f1, 0.2"
        )
