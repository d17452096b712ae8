"""Reads a CloudFormation template as Python values, for resources that the emulator does not create."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

STACK = Path(__file__).parents[2] / "infra" / "stack.yaml"
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Region": "eu-central-1",
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
}


class _Loader(yaml.CSafeLoader):
    """Reads `!Sub x` as {"Fn::Sub": x}."""


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        raise AssertionError(f"!{suffix} of a mapping")
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _tagged)


@cache
def load() -> dict[str, Any]:
    """Return the template, with short tags as functions; cached, since reading it takes a second."""
    return dict(yaml.load(STACK.read_text(encoding="utf-8"), _Loader))


class Template:
    """The template with values for its parameters and names for its resources."""

    def __init__(self, parameters: Mapping[str, Any], names: Mapping[str, str]):
        self.raw = load()
        self.values = PSEUDO | {key: item["Default"] for key, item in self.raw["Parameters"].items()} | dict(parameters)
        self.names = names

    def resources(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the properties of every resource of a type whose condition holds."""
        found = {name: item for name, item in self.raw["Resources"].items() if item["Type"] == kind}
        return {
            name: self.resolve(item["Properties"])
            for name, item in found.items()
            if "Condition" not in item or self.holds(self.raw["Conditions"][item["Condition"]])
        }

    def resolve(self, value: Any) -> Any:
        """Return `value` with every function in it replaced."""
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref":
                return self.values.get(argument) if argument in self.values else self.names[argument]
            if name.startswith("Fn::"):
                return getattr(self, f"_{name.removeprefix('Fn::').lower()}")(argument)
        return {key: self.resolve(item) for key, item in value.items()}

    def holds(self, condition: Mapping[str, Any]) -> bool:
        """Return whether a condition is true."""
        ((name, argument),) = condition.items()
        if name == "Fn::Not":
            return not self.holds(argument[0])
        if name == "Fn::And":
            return all(self.holds(item) for item in argument)
        assert name == "Fn::Equals", name
        left, right = (self.resolve(item) for item in argument)
        return str(left) == str(right)

    def _getatt(self, argument: list[str]) -> str:
        return self.names.get(".".join(argument), ".".join(argument))

    def _if(self, argument: list[Any]) -> Any:
        return self.resolve(argument[1] if self.holds(self.raw["Conditions"][argument[0]]) else argument[2])

    def _join(self, argument: list[Any]) -> str:
        return str(argument[0]).join(str(item) for item in self.resolve(argument[1]))

    def _sub(self, argument: Any) -> str:
        text, own = argument if isinstance(argument, list) else (argument, {})
        known = {key: self.resolve(item) for key, item in own.items()}

        def put(match: re.Match[str]) -> str:
            name = match[1]
            return str(known.get(name, self.values.get(name, self.names.get(name, match[0]))))

        return re.sub(r"\$\{([\w:.]+)\}", put, text)
