"""A small interpreter of the parts of the Amazon States Language that the stack's state machines use.

The emulator needs seconds for each run; a test with it (test_deployment.py) shows that both agree. Source: Amazon
States Language specification, https://states-language.net.
"""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

MOST_STATES = 500
CONTEXT = {"Execution": {"Name": "11111111-2222-3333-4444-555555555555"}}
"""The context object: EventBridge Scheduler gives an execution a name of this form."""


class Failed(Exception):
    """The machine ended in a Fail state, or a task failed after all retries."""


@dataclass
class Machine:
    """One execution; `call(service, operation, parameters)` replaces AWS."""

    call: Callable[[str, str, dict[str, Any]], Any]
    entered: list[str] = field(default_factory=list)

    def run(self, definition: Mapping[str, Any], given: Any) -> Any:
        """Return the output; raises `Failed`."""
        name, value = definition["StartAt"], given
        while name:
            self.entered.append(name)
            assert len(self.entered) < MOST_STATES, f"no end: {self.entered[-8:]}"
            name, value = self._enter(definition["States"][name], value)
        return value

    def _enter(self, state: Mapping[str, Any], value: Any) -> tuple[str, Any]:
        kind = state["Type"]
        following = "" if state.get("End") or kind == "Succeed" else state.get("Next", "")
        if kind == "Fail":
            raise Failed(f"{state['Error']}: {state['Cause']}")
        if kind == "Choice":
            rules = (rule for rule in state["Choices"] if holds(rule, value))
            return next((rule["Next"] for rule in rules), state["Default"]), value
        if kind == "Map":
            return following, [self.run(state["ItemProcessor"], item) for item in find(state["ItemsPath"], value)]
        if kind == "Task":
            return self._task(state, value, following)
        if kind == "Pass" and "Parameters" in state:
            value = fill(state["Parameters"], value)
        elif kind == "Pass":
            value = put(state["ResultPath"], value, state["Result"])
        return following, value

    def _task(self, state: Mapping[str, Any], value: Any, following: str) -> tuple[str, Any]:
        _, _, service, operation = state["Resource"].rsplit(":", 3)
        tries = 1 + sum(item["MaxAttempts"] for item in state.get("Retry", []))
        for left in reversed(range(tries)):
            try:
                result = self.call(service, operation[0].upper() + operation[1:], fill(state["Parameters"], value))
            except ClientError as error:
                if not left and not state.get("Catch"):
                    raise Failed(str(error)) from None
                if not left:
                    return state["Catch"][0]["Next"], value
            else:
                result = fill(state["ResultSelector"], result) if "ResultSelector" in state else result
                return following, put(state["ResultPath"], value, result)
        raise AssertionError("unreachable")


def put(path: str | None, value: Any, result: Any) -> Any:
    """Return the input with a result at a path; a null path drops the result."""
    return value if path is None else {**value, path.removeprefix("$."): result}


def find(path: str, value: Any) -> Any:
    """Return the value at a path; raises `KeyError` if there is none."""
    if path.startswith("$.."):
        return list(_all(path[3:], value))
    for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", path[1:]):
        try:
            value = value[int(index) if index else key]
        except (IndexError, KeyError, TypeError):
            raise KeyError(path) from None
    return value


def _all(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        if name in value:
            yield value[name]
        for item in value.values():
            yield from _all(name, item)
    elif isinstance(value, list):
        for item in value:
            yield from _all(name, item)


def fill(template: Any, value: Any) -> Any:
    """Return a payload template with its paths and intrinsic functions replaced."""
    if isinstance(template, list):
        return [fill(item, value) for item in template]
    if not isinstance(template, dict):
        return template
    return {
        key.removesuffix(".$"): evaluate(item, value) if key.endswith(".$") else fill(item, value)
        for key, item in template.items()
    }


def evaluate(text: str, value: Any) -> Any:
    """Return the value of a path or of an intrinsic function."""
    result, rest = _expression(text, value)
    assert not rest, rest
    return result


def _expression(text: str, value: Any) -> tuple[Any, str]:
    text = text.lstrip()
    if match := re.match(r"'([^']*)'|(-?\d+)", text):
        return match[1] if match[2] is None else int(match[2]), text[match.end() :]
    if match := re.match(r"\$(\$\.[\w.]+)", text):
        return find(match[1], CONTEXT), text[match.end() :]
    if match := re.match(r"\$[\w.\[\]]*", text):
        return find(match[0], value), text[match.end() :]
    match = re.match(r"States\.(\w+)\(", text)
    assert match is not None, text
    arguments, rest = [], text[match.end() :]
    while not rest.startswith(")"):
        argument, rest = _expression(rest.lstrip(","), value)
        arguments.append(argument)
    return FUNCTIONS[match[1]](*arguments), rest[1:]


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Format": lambda text, *words: text.format(*words),
    "Hash": lambda text, kind: hashlib.new(kind, text.encode()).hexdigest(),
    "StringSplit": lambda text, mark: [word for word in text.split(mark) if word],
    "ArrayGetItem": lambda items, index: items[index],
    "Array": lambda *items: list(items),
}


def holds(rule: Mapping[str, Any], value: Any) -> bool:
    """Return whether a choice rule is true."""
    if "And" in rule:
        return all(holds(item, value) for item in rule["And"])
    if "Not" in rule:
        return not holds(rule["Not"], value)
    try:
        found = find(rule["Variable"], value)
    except KeyError:
        assert "IsPresent" in rule, f"{rule['Variable']} is not there: AWS would end the execution"
        return not rule["IsPresent"]
    if "IsPresent" in rule:
        return bool(rule["IsPresent"])
    if "StringEquals" in rule:
        return bool(found == rule["StringEquals"])
    if "StringEqualsPath" in rule:
        return bool(found == find(rule["StringEqualsPath"], value))
    if "StringMatches" in rule:
        return fnmatch.fnmatchcase(found, rule["StringMatches"])
    return _time(found) < _time(find(rule["TimestampLessThanPath"], value))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
