"""Frozen dataclasses from TOML: every key known, every value of its type, errors that name key, value and rule."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mammopipe.processing.errors import ConfigError


def require(holds: bool, message: str) -> None:
    """Raise `ConfigError` with the message where the rule does not hold."""
    if not holds:
        raise ConfigError(message)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file; raises `ConfigError` when it is missing or broken."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above` over it, table by table."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = overlay(merged[key], value) if both else value
    return merged


def build(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """Return the dataclass `cls` made of `values`, every key known and every value of its field's type."""
    return cls(**fitted(cls, values, where))


def fitted(cls: type, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return some of the fields of the dataclass `cls`, every key known and every value of its field's type."""
    hints = get_type_hints(cls)
    names = [item.name for item in fields(cls)]
    for key in values:
        require(key in names, f"unknown key {where + key!r}{_near(key, names)}")
    return {key: convert(value, hints[key], where + key) for key, value in values.items()}


def convert(value: Any, kind: Any, where: str) -> Any:
    """Return `value` as the type `kind`, or raise `ConfigError` naming the key, the value and the type."""
    origin = get_origin(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        require(isinstance(value, Mapping), f"{where} = {value!r}: must be a table")
        return build(kind, value, f"{where}.")  # type: ignore[arg-type]
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{where} = {value!r}: must be a list")
        return tuple(convert(item, get_args(kind)[0], where) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        require(isinstance(value, Mapping), f"{where} = {value!r}: must be a table")
        return {str(key): convert(item, get_args(kind)[1], f"{where}.{key}") for key, item in value.items()}
    if issubclass(kind, StrEnum):
        choices = [str(item) for item in kind]
        require(value in choices, f"{where} = {value!r}: must be one of {', '.join(choices)}")
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    require(type(value) is kind, f"{where} = {value!r}: must be {_TYPE_NAMES[kind]}")
    return value


_TYPE_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _near(word: str, names: Iterable[str]) -> str:
    """Return `; did you mean ...?` with the names close to `word`, or the choices when none is close."""
    names = list(names)
    close = difflib.get_close_matches(word, names, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known: {', '.join(names)}"
