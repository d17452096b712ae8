"""A small evaluator of IAM's policies, since the emulator ignores conditions."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "Bool": lambda have, want: have.lower() == want.lower(),
    "StringEquals": lambda have, want: have == want,
    "StringLike": lambda have, want: fnmatch.fnmatchcase(have, want),
    "ArnEquals": lambda have, want: fnmatch.fnmatchcase(have, want),
    "ArnLike": lambda have, want: fnmatch.fnmatchcase(have, want),
    "NumericLessThan": lambda have, want: float(have) < float(want),
}


def allowed(documents: Iterable[Mapping[str, Any]], action: str, resource: str, **context: str) -> bool:
    """Return whether policies allow `action`; in the names of `context`, `__` stands for the colon of a key."""
    facts = {key.replace("__", ":"): value for key, value in context.items()}
    effects = [
        statement["Effect"]
        for document in documents
        for statement in listed(document["Statement"])
        if _applies(statement, action, resource, facts)
    ]
    return "Deny" not in effects and "Allow" in effects


def denied(document: Mapping[str, Any], action: str, resource: str, **context: str) -> bool:
    """Return whether the policy denies `action`, which no other policy can then allow."""
    everything = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    return not allowed([document, everything], action, resource, **context)


def listed(value: Any) -> list[Any]:
    """Return a list as it is, anything else as a list of one."""
    return list(value) if isinstance(value, list) else [value]


def _applies(statement: Mapping[str, Any], action: str, resource: str, facts: Mapping[str, str]) -> bool:
    assert not statement.keys() - {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}, statement
    return (
        any(fnmatch.fnmatch(action.lower(), pattern.lower()) for pattern in listed(statement["Action"]))
        and any(fnmatch.fnmatchcase(resource, pattern) for pattern in listed(statement["Resource"]))
        and all(
            _holds(operator, key, listed(values), facts)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _holds(operator: str, key: str, values: list[str], facts: Mapping[str, str]) -> bool:
    if operator == "Null":
        return (key not in facts) == (str(values[0]).lower() == "true")
    lenient = operator.endswith("IfExists")
    name = operator.removesuffix("IfExists")
    negative = name == "StringNotEquals"
    if key not in facts:
        return lenient or negative
    compare = OPERATORS["StringEquals" if negative else name]
    return any(compare(facts[key], str(value)) for value in values) != negative
