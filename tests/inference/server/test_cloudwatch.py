import json
from typing import Any

import jsonschema
import pytest

from mammopipe.inference.server.cloudwatch import UNITS, embedded

TEXT = {"type": "string", "minLength": 1}
UNIT_NAMES = ["Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "None"]
SCHEMA = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "additionalProperties": False,
                        "properties": {
                            "Namespace": {**TEXT, "maxLength": 1024},
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {"type": "array", "maxItems": 30, "items": {**TEXT, "maxLength": 250}},
                            },
                            "Metrics": {
                                "type": "array",
                                "maxItems": 100,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "additionalProperties": False,
                                    "properties": {"Name": {**TEXT, "maxLength": 1024}, "Unit": {"enum": UNIT_NAMES}},
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}
"""The part that is used here of the schema in "Specification: Embedded metric format" (CloudWatch User Guide)."""


def check(line: dict[str, Any]) -> dict[str, float]:
    """Return a document's metrics, each of whose names must be a member of its root."""
    jsonschema.validate(line, SCHEMA)
    found = {}
    for directive in line["_aws"]["CloudWatchMetrics"]:
        for metric in directive["Metrics"]:
            value = line[metric["Name"]]
            assert isinstance(value, int | float) and not isinstance(value, bool)
            found[metric["Name"]] = value
        for name in (name for names in directive["Dimensions"] for name in names):
            assert isinstance(line[name], str) and 1 <= len(line[name]) <= 1024
    return found


def test_request_lines_are_documents_of_metrics(server: Any, phantom: Any) -> None:
    good, bad = server.invoke(phantom.pgm), server.invoke(b"P5")
    lines = {line["request_id"]: line for line in server.lines() if line["event"] == "request"}
    metrics = check(lines[good.json["request_id"]])
    assert metrics["Latency"] >= lines[good.json["request_id"]]["ms"]["infer"]
    assert metrics["MalignancyScore"] == pytest.approx(good.json["malignancy_score"], abs=1e-3)
    assert (metrics["Requests"], metrics["ClientErrors"], metrics["ServerErrors"], metrics["Busy"]) == (1, 0, 0, 0)
    assert lines[good.json["request_id"]]["Model"] == "package/7"
    assert check(lines[bad.headers["x-amzn-requestid"]])["ClientErrors"] == 1
    assert all(check(line) for line in lines.values())


def test_no_metrics_on_a_laptop(narrow_server: Any, phantom: Any) -> None:
    assert narrow_server.invoke(phantom.pgm).status == 200
    assert not any("_aws" in line for line in narrow_server.lines())


@pytest.mark.parametrize(
    ("status", "counted"),
    [
        (200, set()),
        (422, {"ClientErrors"}),
        (500, {"ServerErrors"}),
        (504, {"ServerErrors"}),
        (503, {"Busy"}),
    ],
)
def test_each_answer_counts_in_one_class(status: int, counted: set[str]) -> None:
    metrics = check(embedded({}, status=status, total_ms=3.5, time_s=1.5, model=""))
    assert {name for name in ("ClientErrors", "ServerErrors", "Busy") if metrics[name]} == counted


def test_referrals_and_units() -> None:
    line = embedded({"refer": True, "wait_ms": 1.0, "score": 25.0}, status=200, total_ms=3.5, time_s=1.5, model="m")
    assert check(json.loads(json.dumps(line))) == {
        "Requests": 1,
        "ClientErrors": 0,
        "ServerErrors": 0,
        "Busy": 0,
        "Latency": 3.5,
        "WaitTime": 1.0,
        "MalignancyScore": 25.0,
        "Referrals": 1,
    }
    assert line["_aws"]["Timestamp"] == 1500 and set(UNITS.values()) <= set(UNIT_NAMES)
