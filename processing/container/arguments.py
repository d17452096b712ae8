"""Makes the arguments of a job from the fields of its settings, so that both always agree."""

import argparse
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TypeVar

from mammopipe.processing.settings import Settings, range_of

Model = TypeVar("Model", bound=Settings)


def add_arguments(parser: argparse.ArgumentParser, model: type[Settings], names: Iterable[str] = ()) -> None:
    """Add an argument for each field of a settings model: its name, type, choices, default, meaning and range.

    Args:
        parser: The parser of the job.
        model: The settings; fields are enums, booleans (`true` or `false`), numbers or texts, and have defaults.
        names: The fields that are arguments; by default all.
    """
    for name in names or model.model_fields:
        field = model.model_fields[name]
        kind, default = field.annotation, field.get_default()
        how: dict[str, Any] = {"type": kind, "metavar": name.rpartition("_")[2].upper()}
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            how, default = {"choices": [str(choice) for choice in kind]}, str(default)
        elif kind is bool:
            how, default = {"choices": ["true", "false"]}, str(default).lower()
        facts = "; ".join(filter(None, (range_of(field), f"default: {default}")))
        text = f"{field.description} ({facts})".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, help=text, **how)


def settings_in(options: argparse.Namespace, model: type[Model], **more: Any) -> Model:
    """Return the settings that the arguments and further values give; raises `ConfigError` for a wrong value."""
    return model(**{name: value for name, value in vars(options).items() if name in model.model_fields}, **more)
