"""The arguments that several commands of `mammopipe` share."""

import argparse
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import suggestion

Choice = TypeVar("Choice", bound=StrEnum)

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # the only name that argparse gives its type


def command(subparsers: "Subparsers", name: str, text: str, example: str) -> argparse.ArgumentParser:
    """Add the parser of a command, with one line on what it does and an example, and return it."""
    return subparsers.add_parser(
        name, help=text, description=text, epilog=f"example: mammopipe {example}", allow_abbrev=False
    )


def refuse(options: argparse.Namespace, *names: str, rule: str) -> None:
    """Raise `ConfigError` for the first of these options that was given, where it would do nothing."""
    for name in names:
        if getattr(options, name):
            raise ConfigError(f"--{name.replace('_', '-')}: {rule}")


def in_runs(parser: argparse.ArgumentParser) -> None:
    """Add `--runs`."""
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of all runs (default: runs)"
    )


def as_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print the same facts as JSON")


def one_of(choices: type[Choice], word: str, name: str) -> Choice:
    """Return the member of an enum that a word names; raises `ConfigError` with the option's name and the choices."""
    if word not in list(choices):
        raise ConfigError(f"{name} {word!r}: must be one of {', '.join(choices)}{suggestion(word, choices)}")
    return choices(word)
