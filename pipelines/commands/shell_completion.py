"""`mammopipe completion`: the script by which a shell completes commands and options."""

import argparse
from typing import TYPE_CHECKING

from mammopipe.pipelines.commands.arguments import command

if TYPE_CHECKING:
    from mammopipe.pipelines.commands.arguments import Subparsers


def add(subparsers: "Subparsers") -> None:
    """Add the parser of `completion`."""
    text = "print the script by which a shell completes commands and options"
    parser = command(subparsers, "completion", text, "completion bash >> ~/.bashrc")
    parser.set_defaults(command=completion)
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])


def completion(options: argparse.Namespace) -> int:
    """Print a shell's completion script."""
    import shtab

    from mammopipe.pipelines.cli import build_parser

    print(shtab.complete(build_parser(), shell=options.shell))
    return 0
