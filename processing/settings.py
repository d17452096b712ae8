"""The base class of all settings models, and the translation of validation errors into one line for the user.

A model is frozen, refuses unknown keys, and describes each field with its range (`Field(description=...)`).
`mammopipe config explain`, docs/reference/configuration.md and the JSON Schema are generated from the models.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, Self, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from mammopipe.processing.errors import ConfigError

_TYPE_RULES = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be a string",
    "tuple": "must be a list",
    "list": "must be a list",
    "dict": "must be a table",
    "mapping": "must be a table",
    "model": "must be a table",
    "dataclass": "must be a table",
    "finite": "must be a finite number",
}
"""The rule that a value broke, by the first word of the type of pydantic's error."""


class Settings(BaseModel):
    """A frozen group of settings; a value that breaks a rule raises `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        """Check the values; raises `ConfigError` with key, value and rule for each value that breaks a rule."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explained(error, type(self))) from None

    # Pydantic calls a custom __init__ for nested models, too, and then loses their position in the file. This __init__
    # only translates errors, so it has the mark of pydantic's own __init__.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def replace(self, **changes: Any) -> Self:
        """Return the settings with some fields changed; all rules are checked again, and may raise `ConfigError`."""
        return type(self)(**{**dict(self), **changes})

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings in tables of a TOML or JSON file; raises `ConfigError` with key, value and rule.

        A value must have the type of the field: the text "3" is not a number.
        """
        try:
            # JSON has no enums and tuples, so strict validation of JSON accepts their values, but no other types.
            return cls.model_validate_json(json.dumps(values, default=str), strict=True)
        except ValidationError as error:
            raise ConfigError(explained(error, cls)) from None


def explained(error: ValidationError, model: type, *, above: str = "") -> str:
    """Return the errors of a model as one line with key, value and rule of each; `above` is prefixed to each key."""
    return "; ".join(_explained(item, model, above) for item in error.errors(include_url=False))


def _explained(item: Mapping[str, Any], model: type, above: str) -> str:
    place, value, kind = list(item["loc"]), item["input"], str(item["type"])
    key = above + dotted(place)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key!r}{suggestion(str(place[-1]), field_names(_model_at(model, place[:-1])))}"
    if kind == "missing":
        return f"{key}: is missing and has no default"
    field = field_at(model, place)
    rule = _TYPE_RULES.get(kind.partition("_")[0])
    if kind == "enum":
        rule = f"must be one of {item['ctx']['expected'].replace(' or ', ', ')}".replace("'", "")
    elif kind == "value_error":
        return f"{key}: {item['ctx']['error']}" if key else str(item["ctx"]["error"])
    elif field is not None and (not rule or kind == "finite_number"):
        rule = ", ".join(filter(None, (rule, range_of(field))))
    return f"{key} = {value!r}: {rule or item['msg'][:1].lower() + item['msg'][1:]}"


def dotted(place: Iterable[str | int]) -> str:
    """Return the dotted key of a place in nested settings, without positions in lists."""
    return ".".join(part for part in place if isinstance(part, str))


def close_to(word: str, names: Iterable[str]) -> list[str]:
    """Return at most two names that are similar to `word`, the most similar first."""
    return difflib.get_close_matches(word, list(names), n=2, cutoff=0.6)


def suggestion(word: str, names: Iterable[str]) -> str:
    """Return `; did you mean ...?` with the names similar to `word`, or `; known: ...` if none is similar."""
    known = list(names)
    close = close_to(word, known)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known: {', '.join(known)}"


def field_names(model: type | None) -> list[str]:
    """Return the names of a model's fields."""
    if model is not None and issubclass(model, BaseModel):
        return list(model.model_fields)
    return [item.name for item in fields(model)] if model is not None and is_dataclass(model) else []


def table_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field holds, `None` if it holds another type."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _model_at(model: type, place: Iterable[str | int]) -> type | None:
    current: Any = model
    for part in place:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[str(part)].annotation
        elif get_origin(current) is not None:
            current = get_args(current)[-1] if get_origin(current) is not tuple else get_args(current)[0]
        else:
            return None
    return current if isinstance(current, type) else None


def field_at(model: type, place: Iterable[str | int]) -> FieldInfo | None:
    """Return the field at a place in nested models, `None` if there is none."""
    *above, name = [part for part in place if isinstance(part, str)] or [""]
    owner = _model_at(model, above)
    return owner.model_fields.get(name) if owner is not None and issubclass(owner, BaseModel) else None


def range_of(field: FieldInfo) -> str:
    """Return the range of a field in words: `between 0 and 1`, `above 0 and at most 1`; "" without a limit."""
    low = high = ""
    more = []
    for rule in field.metadata:
        match rule:
            case Ge(ge=bound):
                low = f"{bound}"
            case Gt(gt=bound):
                low = f"above {bound}"
            case Le(le=bound):
                high = f"{bound}"
            case Lt(lt=bound):
                high = f"below {bound}"
            case MultipleOf(multiple_of=step):
                more.append(f"a multiple of {step}")
    if low and high:
        lower = low if low.startswith("above") else f"at least {low}"
        upper = high if high.startswith("below") else f"at most {high}"
        closed = not low.startswith("above") and not high.startswith("below")
        more.insert(0, f"between {low} and {high}" if closed else f"{lower} and {upper}")
    elif low:
        more.insert(0, low if low.startswith("above") else f"at least {low}")
    elif high:
        more.insert(0, high if high.startswith("below") else f"at most {high}")
    return ", ".join(more)


def type_of(annotation: Any) -> str:
    """Return a field's type in words, including the choices of an enum."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(type_of(item) for item in arguments if item is not type(None))
    if origin is tuple:
        return f"list of: {type_of(arguments[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"table of: {type_of(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return "one of " + ", ".join(annotation)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
    return names.get(annotation, "table")
