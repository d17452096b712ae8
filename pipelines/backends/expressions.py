"""Resolves the expressions in a compiled definition: `Get`, `Std:Join`, `Std:JsonGet` and conditions.

Source: the pipeline definition JSON schema of SageMaker Pipelines, version 2020-12-01.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mammopipe.processing.errors import ConfigError

FUNCTIONS = ("Get", "Std:Join", "Std:JsonGet")
CONDITIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "Equals": lambda left, right: bool(left == right),
    "GreaterThan": lambda left, right: bool(left > right),
    "GreaterThanOrEqualTo": lambda left, right: bool(left >= right),
    "LessThan": lambda left, right: bool(left < right),
    "LessThanOrEqualTo": lambda left, right: bool(left <= right),
}
"""The comparisons of two values; `holds` evaluates `In`, `Not` and `Or`."""

_REFERENCE = re.compile(r"(?P<scope>Parameters|Execution|Steps)\.(?P<rest>.+)")
_KEY = re.compile(r"\.?([A-Za-z_][\w-]*)|\[(\d+)\]|\['([^']*)'\]")
_NAMES = ("OutputName", "InputName", "ChannelName", "Name")
"""The members that a reference such as `Outputs['model']` uses to find an element of a list."""


@dataclass
class Scope:
    """The values that references can name."""

    parameters: Mapping[str, Any]
    execution: Mapping[str, str]
    steps: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Properties of each step that has run."""
    documents: dict[tuple[str, str], Any] = field(default_factory=dict)
    """Property files that have been read, by step and name."""


def resolve(value: Any, scope: Scope) -> Any:
    """Return the JSON `value` with every expression replaced; raises `ConfigError` naming any that is undefined."""
    if isinstance(value, list):
        return [resolve(item, scope) for item in value]
    if not isinstance(value, dict):
        return value
    if not is_expression(value):
        return {key: resolve(item, scope) for key, item in value.items()}
    ((function, argument),) = value.items()
    if function == "Get":
        return _get(argument, scope)
    if function == "Std:Join":
        return argument["On"].join(_text(resolve(item, scope)) for item in argument["Values"])
    return _json_get(argument, scope)


def is_expression(value: Any) -> bool:
    """Return whether `value` is an expression, not plain JSON; raises `ConfigError` for an unknown function."""
    if not (isinstance(value, dict) and len(value) == 1):
        return False
    name = next(iter(value))
    if name.startswith("Std:") and name not in FUNCTIONS:
        raise ConfigError(f"the definition uses the function {name}, which this backend does not interpret")
    return name in FUNCTIONS


def holds(condition: Mapping[str, Any], scope: Scope) -> bool:
    """Return whether a condition of a ConditionStep is true."""
    kind = condition["Type"]
    if kind == "Not":
        return not holds(condition["Expression"], scope)
    if kind == "Or":
        return any(holds(item, scope) for item in condition["Conditions"])
    if kind == "In":
        return resolve(condition["QueryValue"], scope) in [resolve(item, scope) for item in condition["Values"]]
    left, right = (resolve(condition[side], scope) for side in ("LeftValue", "RightValue"))
    try:
        return CONDITIONS[kind](left, right)
    except TypeError:
        raise ConfigError(f"condition {kind} cannot compare {left!r} with {right!r}") from None


def condition_kinds(condition: Mapping[str, Any]) -> Iterator[str]:
    """Yield the type of a condition and of the conditions nested in it."""
    yield condition["Type"]
    for inner in [condition.get("Expression"), *condition.get("Conditions", [])]:
        if inner is not None:
            yield from condition_kinds(inner)


def references(value: Any) -> set[str]:
    """Return the names of the steps that expressions in `value` refer to."""
    return {reference.split(".")[1] for reference in all_references(value) if reference.startswith("Steps.")}


def all_references(value: Any) -> Iterator[str]:
    """Yield the argument of every `Get` in `value`, such as `Steps.Train.ModelArtifacts.S3ModelArtifacts`."""
    if isinstance(value, list):
        for item in value:
            yield from all_references(item)
    elif isinstance(value, dict):
        if is_expression(value) and "Get" in value:
            yield value["Get"]
        else:
            yield from all_references(list(value.values()))


def _get(reference: str, scope: Scope) -> Any:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(f"reference {reference!r} must begin with Parameters., Execution. or Steps.")
    rest = match["rest"]
    if match["scope"] != "Steps":
        table: Mapping[str, Any] = scope.parameters if match["scope"] == "Parameters" else scope.execution
        if rest not in table:
            raise ConfigError(f"reference {reference!r}: there is no such value; known: {', '.join(sorted(table))}")
        return table[rest]
    step, _, path = rest.partition(".")
    if step not in scope.steps:
        raise ConfigError(f"reference {reference!r}: step {step} has not run")
    return walk(scope.steps[step], path, reference)


def walk(value: Any, path: str, where: str) -> Any:
    """Return the part of a JSON value at a path.

    Args:
        value: The JSON value.
        path: Keys and indices, such as `a.b[0].c['name']`.
        where: The reference, for error messages.

    Raises:
        ConfigError: The path is malformed, or leads to nothing.
    """
    position = 0
    while position < len(path):
        match = _KEY.match(path, position)
        if match is None:
            raise ConfigError(f"reference {where!r}: cannot read the path {path!r}")
        position = match.end()
        name, index, key = match.groups()
        value = _step_into(value, int(index) if index else name or key, where)
    return value


def _step_into(value: Any, key: str | int, where: str) -> Any:
    # `Outputs['model']` names an element of a list by its name, which the JSON holds as a member of the element.
    if isinstance(value, list) and isinstance(key, str):
        value = {item[name]: item for item in value for name in _NAMES if name in item}
    try:
        return value[key]
    except (KeyError, IndexError, TypeError):
        raise ConfigError(f"reference {where!r}: there is no {key!r}") from None


def _json_get(argument: Mapping[str, Any], scope: Scope) -> Any:
    if "PropertyFile" not in argument:
        raise ConfigError("this backend cannot run Std:JsonGet with an S3 URI; use a property file")
    _, step, _, name = argument["PropertyFile"]["Get"].split(".")
    if (step, name) not in scope.documents:
        raise ConfigError(f"property file {name} of step {step}: the step has not written it")
    return walk(scope.documents[step, name], argument["Path"].removeprefix("$."), f"{name}: {argument['Path']}")


def _text(value: Any) -> str:
    """Return a value as text for a joined string; true and false are written as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)
