from typing import Any

import pytest

from mammopipe.pipelines.backends.expressions import Scope, all_references, holds, references, resolve
from mammopipe.processing.errors import ConfigError


@pytest.fixture
def scope() -> Scope:
    outputs = [
        {"OutputName": "a", "S3Output": {"S3Uri": "s3://b/a"}},
        {"OutputName": "b.c", "S3Output": {"S3Uri": "s3://b/c"}},
    ]
    return Scope(
        parameters={"Name": "x", "Count": 3, "Limit": 0.6, "Flag": True},
        execution={"PipelineExecutionId": "id-1"},
        steps={"Make-1": {"ProcessingOutputConfig": {"Outputs": outputs}, "Items": [{"v": 1}, {"v": 2}]}},
        documents={("Make-1", "Report"): {"passed": True, "best": {"auc": 0.512}, "list": [5, 10]}},
    )


def from_report(path: str) -> dict[str, Any]:
    return {"Std:JsonGet": {"PropertyFile": {"Get": "Steps.Make-1.PropertyFiles.Report"}, "Path": path}}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ({"Get": "Parameters.Count"}, 3),
        ({"Get": "Execution.PipelineExecutionId"}, "id-1"),
        ({"Get": "Steps.Make-1.ProcessingOutputConfig.Outputs['a'].S3Output.S3Uri"}, "s3://b/a"),
        ({"Get": "Steps.Make-1.ProcessingOutputConfig.Outputs['b.c'].S3Output.S3Uri"}, "s3://b/c"),
        ({"Get": "Steps.Make-1.Items[1].v"}, 2),
        (
            {"Std:Join": {"On": "/", "Values": ["s3:/", {"Get": "Parameters.Name"}, {"Get": "Parameters.Count"}]}},
            "s3://x/3",
        ),
        (
            {
                "Std:Join": {
                    "On": "",
                    "Values": [{"Std:Join": {"On": "-", "Values": ["a", "b"]}}, from_report("passed")],
                }
            },
            "a-btrue",
        ),
        (from_report("best.auc"), 0.512),
        (from_report("$.list[1]"), 10),
        ([{"k": {"Get": "Parameters.Limit"}}, None, 1], [{"k": 0.6}, None, 1]),
        ({"Got": "Parameters.Name"}, {"Got": "Parameters.Name"}),
    ],
)
def test_expressions_become_values(scope: Scope, expression: Any, value: Any) -> None:
    assert resolve(expression, scope) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ({"Get": "Parameters.Coutn"}, "Parameters.Coutn"),
        ({"Get": "Somewhere.Else"}, "must begin with Parameters., Execution. or Steps."),
        ({"Get": "Steps.Later.Name"}, "step Later has not run"),
        ({"Get": "Steps.Make-1.ProcessingOutputConfig.Outputs['z'].S3Output"}, "there is no 'z'"),
        ({"Get": "Steps.Make-1.Items[7].v"}, "there is no 7"),
        (from_report("best.accuracy"), "there is no 'accuracy'"),
        ({"Std:JsonGet": {"S3Uri": "s3://b/x.json", "Path": "a"}}, "S3 URI"),
        ({"Std:Split": {}}, "Std:Split"),
    ],
)
def test_what_cannot_be_resolved_is_named(scope: Scope, expression: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(expression, scope)


@pytest.mark.parametrize(
    ("kind", "right", "outcome"),
    [
        ("Equals", 0.512, True),
        ("GreaterThan", 0.512, False),
        ("GreaterThanOrEqualTo", 0.512, True),
        ("GreaterThanOrEqualTo", {"Get": "Parameters.Limit"}, False),
        ("LessThan", {"Get": "Parameters.Limit"}, True),
        ("LessThanOrEqualTo", 0.5, False),
    ],
)
def test_comparisons(scope: Scope, kind: str, right: Any, outcome: bool) -> None:
    condition = {"Type": kind, "LeftValue": from_report("best.auc"), "RightValue": right}
    assert holds(condition, scope) is outcome
    assert holds({"Type": "Not", "Expression": condition}, scope) is not outcome
    assert holds({"Type": "Or", "Conditions": [condition, {"Type": "Not", "Expression": condition}]}, scope)


def test_membership(scope: Scope) -> None:
    condition = {"Type": "In", "QueryValue": {"Get": "Parameters.Name"}, "Values": ["y", {"Get": "Parameters.Name"}]}
    assert holds(condition, scope)
    assert not holds({**condition, "Values": ["y"]}, scope)


def test_values_that_cannot_be_compared_are_named(scope: Scope) -> None:
    with pytest.raises(ConfigError, match="cannot compare 'x' with 3"):
        holds({"Type": "LessThan", "LeftValue": {"Get": "Parameters.Name"}, "RightValue": 3}, scope)


def test_references_are_found_wherever_they_stand() -> None:
    value = {
        "a": [from_report("x"), {"Std:Join": {"On": "", "Values": [{"Get": "Steps.Other.Name"}]}}],
        "b": {"Get": "Parameters.P"},
    }
    assert references(value) == {"Make-1", "Other"}
    assert sorted(all_references(value)) == ["Parameters.P", "Steps.Make-1.PropertyFiles.Report", "Steps.Other.Name"]
