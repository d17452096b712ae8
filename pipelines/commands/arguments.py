"""The parser of `mammopipe`, and the arguments that several commands share."""

import argparse
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

from mammopipe.processing.datasets.registry import DATASETS
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms import DEFAULT_PHANTOMS
from mammopipe.processing.settings import close_to, suggestion

Choice = TypeVar("Choice", bound=StrEnum)
Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"  # argparse has no public name for this type

if TYPE_CHECKING:
    from mammopipe.pipelines.config.pipeline import PipelineConfig


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests the command, option or choice that may have been meant."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse arguments; each command refuses unknown ones itself, since only it knows its options."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Print the usage, the error and a suggestion, and exit with code 2."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        choice = re.search(r"invalid choice: '([^']+)' \(choose from (.*)\)", message)
        close: Sequence[str] = ()
        if unknown:
            close = close_to(unknown[1], re.findall(r"--[\w-]+", self.format_usage()))
        elif choice:
            close = close_to(choice[1], choice[2].replace("'", "").split(", "))
        super().error(message + (f"; did you mean {' or '.join(close)}?" if close else ""))


_SELECTING: Mapping[str, Mapping[str, Any]] = {
    "recipe": {"metavar": "NAME", "help": "a shipped configuration; mammopipe recipes lists them"},
    "config": {"type": Path, "metavar": "FILE", "help": "TOML file; mammopipe config show prints all keys"},
    "profile": {"choices": ["quick", "full"], "help": "quick tests the software; full gives meaningful results"},
    "dataset": {"choices": [*DATASETS], "help": "the dataset to read (default: the configuration's)"},
    "protocol": {
        "choices": ["patient", "film", "published"],
        "help": "what is divided into splits (default: patient); models of the other protocols are never registered",
    },
    "cnns": {
        "metavar": "A,B",
        "type": lambda text: text.split(","),
        "help": "candidates, separated by commas (default: the configuration's)",
    },
    "set": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "dest": "assignments",
        "help": "sets any key of the configuration, such as training.learning_rate=1e-4; may be repeated",
    },
}
"""The options that select a configuration, by name."""


def configured(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the options that select a configuration, or only those with these names; see `configuration`."""
    for name in names or _SELECTING:
        parser.add_argument(f"--{name}", **_SELECTING[name])


def configuration(options: argparse.Namespace, **changes: Any) -> "PipelineConfig":
    """Return the configuration that the options of `configured` select; raises `ConfigError`."""
    from mammopipe.pipelines.config.pipeline import PipelineConfig

    data = {"protocol": options.protocol} if options.protocol else None
    given = {"profile": options.profile, "dataset": options.dataset, "cnns": options.cnns, "data": data, **changes}
    return PipelineConfig.load(options.config, recipe=options.recipe, assignments=keys_of(options), **given)


def keys_of(options: argparse.Namespace) -> list[str]:
    """Return the assignments to configuration keys."""
    return [text for text in options.assignments if not _is_parameter(text)]


def parameters_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the assignments to pipeline parameters, which start with a capital letter, such as MinMacroAuc=0.6."""
    pairs = (text.partition("=") for text in options.assignments if _is_parameter(text))
    return {name: value for name, _, value in pairs}


def _is_parameter(text: str) -> bool:
    return text[:1].isupper() and "=" in text


def command(subparsers: Subparsers, name: str, text: str, example: str) -> argparse.ArgumentParser:
    """Add and return the parser of a command, with a one-line description and an example."""
    return subparsers.add_parser(
        name, help=text, description=text, epilog=f"example: mammopipe {example}", allow_abbrev=False
    )


def refuse(options: argparse.Namespace, *names: str, rule: str) -> None:
    """Raise `ConfigError` for the first of these options that is set, since it would have no effect here."""
    for name in names:
        if getattr(options, name):
            raise ConfigError(f"--{name.replace('_', '-')}: {rule}")


def in_runs(parser: argparse.ArgumentParser) -> None:
    """Add `--runs`."""
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of all runs (default: runs)"
    )


def identified(parser: argparse.ArgumentParser, *, default: str | None = "latest") -> None:
    """Add the run's ID and `--runs`."""
    parser.add_argument(
        "id", nargs="?", default=default, metavar="ID", help="a run's ID, the start of an ID, or latest (the default)"
    )
    in_runs(parser)


def as_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print the same facts as JSON")


def one_of(choices: type[Choice], word: str, name: str) -> Choice:
    """Return the enum member with this name; raises `ConfigError` with the option's name and the choices."""
    if word not in list(choices):
        raise ConfigError(f"{name} {word!r}: must be one of {', '.join(choices)}{suggestion(word, choices)}")
    return choices(word)


def phantoms_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option for the number of phantoms; `--films` is its former name."""
    parser.add_argument("--phantoms", type=int, metavar="N", help=f"number of phantoms (default: {DEFAULT_PHANTOMS})")
    parser.add_argument("--films", dest="phantoms", type=int, help=argparse.SUPPRESS)


def phantoms_of(options: argparse.Namespace, *, made: bool) -> int:
    """Return the number of phantoms to generate; refuses a number if none are generated."""
    if options.phantoms is None:
        return DEFAULT_PHANTOMS
    if not made:
        raise ConfigError("--phantoms: sets how many phantoms are made, but --source names other images")
    if options.phantoms < 2:
        raise ConfigError(f"--phantoms {options.phantoms}: must be at least 2")
    return int(options.phantoms)
