"""Generates the reference pages: all commands, and the public names in Python.

python -m mammopipe.pipelines.commands.reference
"""

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mammopipe
from mammopipe.processing.files import write_bytes

COMMANDS = """# Commands

`mammopipe COMMAND --help` shows the same. A user's error is reported in one line that names file, value and rule.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the run failed, its gate refused the model, or `doctor` or `monitor` found something |
| 2 | arguments, configuration, data or S3 cannot be used |
| 3 | a fault of this program, with its traceback |
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
    if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
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
    if inspect.isfunction(thing):
        yield f"    {name.rpartition('.')[2]}{_signature(thing)}\n"
    yield f"{inspect.cleandoc(thing.__doc__ or '')}\n"
    if inspect.isclass(thing):
        for word, item in vars(thing).items():
            function = item.__func__ if isinstance(item, (classmethod, staticmethod)) else item
            function = function.fget if isinstance(function, property) else function
            if not word.startswith("_") and inspect.isfunction(function) and function.__module__ == thing.__module__:
                yield from _described(f"{name.rpartition('.')[2]}.{word}", function, "###")


def _signature(function: Any) -> str:
    text = str(inspect.signature(function))
    for module in ("collections.abc.", "pathlib.", "mammopipe.", "typing."):
        text = text.replace(module, "")
    return text.replace("'", "")


def main() -> None:
    """Write both pages to docs/reference below the current folder, which must be the checkout."""
    folder = Path("docs") / "reference"
    write_bytes(folder / "commands.md", commands_page().encode())
    write_bytes(folder / "python.md", python_page().encode())


if __name__ == "__main__":
    main()
