import json
from typing import Any

import pytest

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.processing.errors import ConfigError

DEFINITION = {
    "Parameters": [
        {"Name": "Epochs", "Type": "Integer", "DefaultValue": 4},
        {"Name": "MinMacroAuc", "Type": "Float", "DefaultValue": 0.0},
        {"Name": "Deploy", "Type": "Boolean", "DefaultValue": False},
        {"Name": "Distribution", "Type": "String", "DefaultValue": "A", "EnumValues": ["A", "B"]},
    ]
}


def test_defaults_stand_where_nothing_is_given() -> None:
    assert resolve_parameters(DEFINITION, {}) == {
        "Epochs": 4,
        "MinMacroAuc": 0.0,
        "Deploy": False,
        "Distribution": "A",
    }


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("Epochs", "7", 7),
        ("Epochs", 7, 7),
        ("MinMacroAuc", "0.6", 0.6),
        ("MinMacroAuc", 1, 1.0),
        ("Deploy", "True", True),
        ("Distribution", "B", "B"),
    ],
)
def test_values_and_their_text_mean_the_same(name: str, given: Any, value: Any) -> None:
    found = resolve_parameters(DEFINITION, {name: given})[name]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"Epoch": "3"}, "unknown pipeline parameter Epoch; did you mean Epochs?"),
        ({"Xyz": "3"}, "known: Epochs, MinMacroAuc"),
        ({"Epochs": "three"}, "Epochs='three' must be of type Integer"),
        ({"Epochs": 2.5}, "Epochs=2.5 must be of type Integer"),
        ({"Epochs": True}, "Epochs=True must be of type Integer"),
        ({"Deploy": "yes"}, "Deploy='yes' must be of type Boolean"),
        ({"Distribution": "C"}, "Distribution='C' must be one of A, B"),
        ({"Distribution": 3}, "Distribution=3 must be of type String"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        resolve_parameters(DEFINITION, given)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("cache", ["", "P30D"])
def test_with_the_step_cache_a_start_must_state_the_digest_of_its_data(cache: str) -> None:
    config = PipelineConfig.load(cnns=["alexnet"], pretrained=True, compute={"cache": cache})
    definition = json.loads(build_pipeline(config).definition())
    parameters = {item["Name"]: item for item in definition["Parameters"]}
    for name in ("DataDigest", "WeightsDigest"):
        assert ("DefaultValue" in parameters[name]) is not bool(cache), "a schedule would start with the default"
    assert resolve_parameters(definition, {})["DataDigest"] == "unknown", "a run computes it"


def test_a_parameter_without_default_needs_a_value() -> None:
    with pytest.raises(ConfigError, match="P has no default"):
        resolve_parameters({"Parameters": [{"Name": "P", "Type": "String"}]}, {})
