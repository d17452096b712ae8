"""Reads settings from TOML files and `KEY=VALUE` texts, merges them, and finds them by their dotted key."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import close_to, field_at, table_of


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file; raises `ConfigError` if it is missing or malformed."""
    try:
        return read_toml_text(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None


def read_toml_text(text: str, where: str) -> dict[str, Any]:
    """Return the tables of a TOML text; `where` names the text in the `ConfigError` for malformed TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not a readable TOML file: {error}") from None


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with its values overridden by those of `above`, table by table."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = overlay(merged[key], value) if both else value
    return merged


def keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key of a model with its field; a table comes before its keys."""
    for name, field in model.model_fields.items():
        yield above + name, field
        table = table_of(field.annotation)
        if table is not None:
            yield from keys(table, f"{above}{name}.")


def unknown_key(model: type[BaseModel], key: str) -> ConfigError:
    """Return the error for an unknown key, with similar keys."""
    known = [name for name, _ in keys(model)]
    last = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == last]
    close = same[:3] or close_to(key, known) or close_to(last, [name.rpartition(".")[2] for name in known])
    hint = f"; did you mean {' or '.join(close)}?" if close else "; mammopipe config show lists all keys"
    return ConfigError(f"unknown key {key!r}{hint}")


def assigned(model: type[BaseModel], assignments: Sequence[str]) -> dict[str, Any]:
    """Return the tables that `KEY=VALUE` texts set; later ones override earlier ones.

    The field's type decides how a value is read: as the text itself, as a TOML value, or, for a list, as words
    separated by commas. Raises `ConfigError` for an unknown key and a text without a value.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not (equals and all(key.split("."))):
            raise ConfigError(f"--set {text}: must be KEY=VALUE")
        place = key.split(".")
        table: dict[str, Any] = {place[-1]: _value(model, place, value.strip())}
        for part in reversed(place[:-1]):
            table = {part: table}
        values = overlay(values, table)
    return values


def _value(model: type[BaseModel], place: Sequence[str], text: str) -> Any:
    field = field_at(model, place)
    if field is not None:
        if table_of(field.annotation) is not None:
            name = ".".join(place)
            raise ConfigError(f"{name}: is a table; set one of its keys: --set {name}.KEY=VALUE")
        return typed(field.annotation, text)
    # A key inside a mapping, such as per_cnn.alexnet.epochs, has no field; the mapping's type gives the value's type.
    for depth in range(len(place) - 1, 0, -1):
        above = field_at(model, place[:depth])
        annotation: Any = above.annotation if above is not None else None
        if get_origin(annotation) is not None and issubclass(get_origin(annotation), Mapping):
            for _ in range(len(place) - depth):
                annotation = get_args(annotation)[1] if get_origin(annotation) is not None else Any
            return typed(annotation, text)
    raise unknown_key(model, ".".join(place))


def typed(annotation: Any, text: str) -> Any:
    """Return a text as the value that a TOML file would hold for a field of this type."""
    if annotation is str or (isinstance(annotation, type) and issubclass(annotation, StrEnum)):
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
    if get_origin(annotation) is tuple and not text.startswith("["):
        return [typed(get_args(annotation)[0], word.strip()) for word in text.split(",") if word.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # pydantic refuses it, and names key, value and rule
