"""Generates the reference pages: all commands, and the public names in Python.

python -m mammopipe.pipelines.commands.reference
"""

import argparse
import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import mammopipe
from mammopipe.processing.files import write_bytes
from mammopipe.processing.settings import Settings

COMMANDS = """# Commands

`mammopipe COMMAND --help` shows the same. A user's error is reported in one line that names file, value and rule.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the run failed, its gate refused the model, or `doctor` or `monitor` found something |
| 2 | arguments, configuration, data or S3 cannot be used |
| 3 | a fault of this program, with its traceback |
| 4 | the AWS credentials have expired; a run on AWS continues |
| 130 | interrupted |

This page is generated: `python -m mammopipe.pipelines.commands.reference`.
"""
PYTHON = """# Python

The public names of `mammopipe`. They are loaded when they are first used, and are typed (`py.typed`).

This page is generated from their docstrings: `python -m mammopipe.pipelines.commands.reference`.
"""


def commands_page() -> str:
    """Return docs/reference/commands.md, generated from the parsers of all commands."""
    from mammopipe.pipelines.cli import build_parser

    return "\n".join([COMMANDS, *_commands(build_parser(), "mammopipe")])


def _commands(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from _command(below, f"{name} {word}")


def _command(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    yield f"## `{name}`\n"
    yield f"{(parser.description or '').strip().capitalize()[:1]}{(parser.description or '').strip()[1:]}.\n"
    if parser.epilog:
        yield f"    {parser.epilog.strip().removeprefix('example: ')}\n"
    rows = [row for action in parser._actions if (row := _row(action)) is not None]
    if rows:
        yield "\n".join(["| argument | meaning |", "|---|---|", *rows]) + "\n"
    yield from _commands(parser, name)


def _row(action: argparse.Action) -> str | None:
    if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)) or action.help == argparse.SUPPRESS:
        return None
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices:
        value = "|".join(str(choice) for choice in action.choices)
    if not action.option_strings:
        words = value if action.choices or action.metavar else action.dest
    else:
        takes = "" if action.nargs == 0 else f" {value}"
        words = f"{', '.join(action.option_strings)}{takes}"
    text = (action.help or "").replace("%%", "%").replace("|", "\\|").replace("\n", " ")
    return f"| `{words.replace('|', chr(92) + '|')}` | {text} |"


def python_page() -> str:
    """Return docs/reference/python.md, generated from the docstrings of the public names."""
    parts = [PYTHON]
    for name in mammopipe.__all__:
        if not name.startswith("__"):
            parts.extend(_described(f"mammopipe.{name}", getattr(mammopipe, name), "##"))
    return "\n".join(parts)


def _described(name: str, thing: Any, level: str) -> Iterator[str]:
    yield f"{level} `{name}`\n"
    function: Any = thing.fget if isinstance(thing, property) else thing
    if isinstance(thing, property):
        yield f"    {name.rpartition('.')[2]}: {_plain(inspect.signature(function).return_annotation)}\n"
    elif inspect.isfunction(function):
        yield f"    {name.rpartition('.')[2]}{_signature(function)}\n"
    yield f"{inspect.cleandoc(function.__doc__ or '')}\n"
    if inspect.isclass(thing):
        for word, item in vars(thing).items():
            member = item.__func__ if isinstance(item, (classmethod, staticmethod)) else item
            code = member.fget if isinstance(member, property) else member
            if not word.startswith("_") and inspect.isfunction(code) and code.__module__ == thing.__module__:
                yield from _described(f"{name.rpartition('.')[2]}.{word}", member, "###")


class _Text(str):
    """Text that `inspect.Signature` prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _signature(function: Any) -> str:
    """Return a function's arguments as a caller writes them: without `self`, modules and the text of objects."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=_plain(parameter.annotation), default=_default(parameter.default))
        for name, parameter in signature.parameters.items()
        if name not in ("self", "cls")
    ]
    return str(signature.replace(parameters=parameters, return_annotation=_plain(signature.return_annotation)))


def _plain(annotation: Any) -> Any:
    """Return an annotation without the names of modules."""
    if annotation is inspect.Signature.empty:
        return annotation
    return _Text(re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(annotation).replace("'", "")))


def _default(value: Any) -> Any:
    """Return a default that prints as source code: an enum's member by its name, an object of settings as its call."""
    if isinstance(value, Enum):
        return _Text(f"{type(value).__name__}.{value.name}")
    if isinstance(value, Settings):
        return _Text(f"{type(value).__name__}()")
    return _Text(value.__name__) if inspect.isbuiltin(value) else value


def main() -> None:
    """Write both pages to docs/reference below the current folder, which must be the checkout."""
    folder = Path("docs") / "reference"
    write_bytes(folder / "commands.md", commands_page().encode())
    write_bytes(folder / "python.md", python_page().encode())


if __name__ == "__main__":
    main()
