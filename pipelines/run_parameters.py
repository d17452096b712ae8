"""The values of a definition's parameters for one run."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from mammopipe.processing.errors import ConfigError

_FROM_TEXT: Mapping[str, Callable[[str], Any]] = {
    "String": str,
    "Integer": int,
    "Float": float,
    "Boolean": lambda text: {"true": True, "false": False}[text.lower()],
}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "String": (str,),
    "Integer": (int,),
    "Float": (float, int),
    "Boolean": (bool,),
}


def resolve_parameters(definition: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every parameter's value: `given`, as values or as text, over the defaults.

    Raises `ConfigError` for a name that the definition does not declare, a value of another type or outside the
    enumerated ones, and a parameter left without any value.
    """
    declared = {item["Name"]: item for item in definition.get("Parameters", [])}
    for name in given:
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(declared)}"
            raise ConfigError(f"unknown pipeline parameter {name}; {hint}")
    return {name: _value(item, given.get(name, item.get("DefaultValue"))) for name, item in declared.items()}


def _value(declared: Mapping[str, Any], value: Any) -> Any:
    name, kind, choices = declared["Name"], declared["Type"], declared.get("EnumValues")
    if value is None:
        raise ConfigError(f"pipeline parameter {name} has no default and needs a value")
    try:
        typed = _FROM_TEXT[kind](value) if isinstance(value, str) else value
    except (ValueError, KeyError):
        raise ConfigError(f"pipeline parameter {name}={value!r} must be of type {kind}") from None
    if not isinstance(typed, _TYPES[kind]) or (isinstance(typed, bool) and kind != "Boolean"):
        raise ConfigError(f"pipeline parameter {name}={value!r} must be of type {kind}")
    if choices and typed not in choices:
        raise ConfigError(f"pipeline parameter {name}={value!r} must be one of {', '.join(choices)}")
    return float(typed) if isinstance(typed, int) and kind == "Float" else typed
