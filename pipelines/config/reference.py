"""Explains the configuration: a single key, all effective values, and the page docs/reference/configuration.md.

python -m mammopipe.pipelines.config.reference > docs/reference/configuration.md
"""

import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mammopipe.pipelines.config.pipeline import SET_ELSEWHERE, PipelineConfig
from mammopipe.pipelines.config.profiles import PROFILES
from mammopipe.pipelines.config.toml import keys, unknown_key
from mammopipe.processing.settings import field_at, range_of, table_of, type_of

HEAD = """# Configuration

Every key of a configuration file (`--config FILE`) and of `--set KEY=VALUE`. Values come from these sources, and each
overrides those before it: the defaults, the profile's values, a recipe (`--recipe`), the file, options of the command
line, `--set`.

`mammopipe config show` prints the effective values, `mammopipe config explain KEY` explains one key, and `mammopipe
config schema` prints a JSON Schema for editors. This page is generated from the settings' models:
`python -m mammopipe.pipelines.config.reference > docs/reference/configuration.md`.
"""


def explain(key: str) -> str:
    """Return a key's meaning, type, range and default, or a table's keys; `ConfigError` if the key is unknown."""
    field = field_at(PipelineConfig, key.split("."))
    if field is None:
        raise unknown_key(PipelineConfig, key)
    table = table_of(field.annotation)
    if table is not None:
        lines = [f"[{key}]  {field.description}", ""]
        lines += [f"  {name:<24} {item.description}" for name, item in table.model_fields.items()]
        return "\n".join(lines)
    lines = [key, f"  {field.description}", f"  type:     {_type(field)}"]
    lines += [f"  range:    {limits}"] if (limits := range_of(field)) else []
    lines.append(f"  default:  {_toml(_default(key))}")
    lines += [f"  profile {profile}: {_toml(value)}" for profile, value in _of_profiles(key)]
    if key in {f"training.{name}" for name in SET_ELSEWHERE}:
        lines.append(f"  set by {SET_ELSEWHERE[key.partition('.')[2]]}; a configuration file cannot set it here")
    return "\n".join(lines)


def show(config: PipelineConfig) -> str:
    """Return all effective values, as a TOML file that gives the same configuration."""
    return "\n".join(_tables(config, ())).strip() + "\n"


def schema() -> str:
    """Return the JSON Schema of a configuration file."""
    return json.dumps(PipelineConfig.model_json_schema(), indent=2)


def page() -> str:
    """Return docs/reference/configuration.md."""
    tables: dict[str, list[str]] = {"": []}
    heads = {"": "## Top level"}
    for key, field in keys(PipelineConfig):
        above, _, name = key.rpartition(".")
        if table_of(field.annotation) is not None:
            tables[key], heads[key] = [], f"## `[{key}]`: {field.description}"
        elif not (above == "training" and name in SET_ELSEWHERE):
            tables[above].append(_row(key, name, field))
    lines = [HEAD]
    for name, rows in tables.items():
        lines += [heads[name], "", "| key | meaning | type and range | default |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(key: str, name: str, field: FieldInfo) -> str:
    kind = ", ".join(filter(None, (_type(field), range_of(field))))
    values = [f"`{_toml(_default(key))}`"]
    values += [f"{profile}: `{_toml(value)}`" for profile, value in _of_profiles(key)]
    cells = (f"`{name}`", field.description or "", kind, "; ".join(dict.fromkeys(values)))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and isinstance(extra.get("enum"), list):
        return "one of " + ", ".join(map(str, extra["enum"]))  # type: ignore[arg-type]
    return type_of(field.annotation)


def _default(key: str) -> Any:
    value: Any = PipelineConfig()
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _of_profiles(key: str) -> Iterator[tuple[str, Any]]:
    table, _, name = key.partition(".")
    for profile, values in PROFILES.items():
        if name and name in values.get(table, {}):
            yield str(profile), values[table][name]


def _tables(model: BaseModel, place: tuple[str, ...]) -> Iterator[str]:
    # Tables come last: in TOML, a key after a table's head would belong to that table.
    inner: list[tuple[str, BaseModel | Mapping[str, Any]]] = []
    if place:
        yield f"\n[{'.'.join(place)}]"
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if place == ("training",) and name in SET_ELSEWHERE:
            continue
        if isinstance(value, BaseModel | Mapping):
            inner.append((name, value))
        else:
            for line in (field.description or "").splitlines():
                yield f"# {line}"
            yield f"{name} = {_toml(value)}"
    for name, table in inner:
        if isinstance(table, BaseModel):
            yield from _tables(table, (*place, name))
        else:
            yield from _mapping(table, (*place, name))


def _mapping(values: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    if not values:
        return
    yield f"\n[{'.'.join(place)}]"
    for name, value in values.items():
        if not isinstance(value, Mapping):
            yield f"{json.dumps(name)} = {_toml(value)}"
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _mapping(value, (*place, json.dumps(name)))


def _toml(value: Any) -> str:
    """Return a value in TOML syntax."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, StrEnum | str):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(name))} = {_toml(item)}" for name, item in value.items()) + "}"
    return str(value)


if __name__ == "__main__":
    print(page(), end="")
