"""The client's types against the server's own schema."""

import json
from typing import Any

import pytest

from mammopipe.inference.client.answers import Answer, Finding
from mammopipe.inference.client.errors import EndpointFaultError
from mammopipe.inference.client.exam_answers import ExamAnswer
from tests.support.standin import exam_json, image_json


def test_an_image_s_answer_is_typed() -> None:
    answer = Answer.from_json(json.loads(image_json()))
    assert (answer.malignancy_score, answer.decile, answer.entropy) == (70.0, 9, 0.8018)
    assert answer.probabilities == {"normal": 0.1, "benign": 0.2, "malignant": 0.7}
    assert answer.decision is not None and answer.decision.finding is Finding.SUSPICIOUS
    assert (answer.decision.threshold, answer.decision.sensitivity) == (0.31, 0.92)
    assert (answer.decision.sensitivity_interval, answer.decision.recall_rate) == ((0.71, 0.98), 0.25)
    assert (answer.decision.n, answer.decision.positives, answer.decision.prevalence) == (52, 8, 0.154)
    assert not answer.referral.refer and answer.referral.reasons == ()
    assert [warning.code for warning in answer.warnings] == ["laterality-inferred"]
    assert (answer.laterality, answer.view, answer.model, answer.request_id) == ("R", "MLO", "model-1", "r-1")
    assert answer.heatmap_png == b"\x89PNG\r\n\x1a\n"
    (region,) = answer.regions
    assert (region.left, region.top, region.right, region.bottom, region.strength) == (10, 20, 60, 90, 0.75)
    assert answer.raw["model"]["architecture"] == "resnet50"


def test_an_exam_s_answer_is_typed() -> None:
    answer = ExamAnswer.from_json(json.loads(exam_json()))
    assert [(image.index, image.laterality, image.referral.refer) for image in answer.images] == [
        (0, "L", False),
        (1, "R", True),
    ]
    assert [reason.code for reason in answer.images[1].referral.reasons] == ["uncertain"]
    assert [(breast.laterality, breast.images, breast.rule) for breast in answer.breasts] == [
        ("L", (0,), "mean"),
        ("R", (1,), "mean"),
    ]
    assert answer.breasts[0].decision is None and answer.breasts[1].decision is not None
    assert answer.exam.malignancy_score == 71.0 and answer.exam.referral.refer
    assert [warning.code for warning in answer.warnings] == ["one-view"]


def test_a_model_without_reference_or_operating_points_and_an_answer_without_heatmap() -> None:
    answer = Answer.from_json(json.loads(image_json(decile=None, decision=None, heatmap=None)))
    assert (answer.decile, answer.decision, answer.heatmap_png, answer.regions) == (None, None, None, ())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schema_version": 1}, "unknown_schema: schema_version=1; this client reads 2"),
        ({}, "unknown_schema: schema_version=None"),
        ({"schema_version": 2}, "unreadable_answer: the answer has no 'image'"),
        (
            json.loads(image_json()) | {"decision": {**json.loads(image_json())["decision"], "finding": "maybe"}},
            "unreadable_answer: the answer breaks its schema: 'maybe' is not a valid Finding",
        ),
        (json.loads(image_json()) | {"warnings": None}, "unreadable_answer: the answer breaks its schema"),
    ],
)
def test_an_answer_that_cannot_be_understood_is_named(values: Any, message: str) -> None:
    with pytest.raises(EndpointFaultError) as caught:
        Answer.from_json(values)
    assert str(caught.value).startswith(message)


def test_what_a_later_server_adds_is_left_alone() -> None:
    assert Answer.from_json({**json.loads(image_json()), "more": 1}).raw["more"] == 1
