"""`mammopipe completion`: the script by which a shell completes commands and options."""

import argparse
from functools import partial

from mammopipe.pipelines.commands.arguments import Subparsers, command


def add(subparsers: Subparsers, whole: argparse.ArgumentParser) -> None:
    """Add the parser of `completion`; `whole` is the parser of all commands."""
    text = "print the script by which a shell completes commands and options"
    parser = command(subparsers, "completion", text, "completion bash >> ~/.bashrc")
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="the shell that reads the script")
    parser.set_defaults(command=partial(completion, whole))


def completion(whole: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Print a shell's completion script."""
    import shtab

    print(shtab.complete(whole, shell=options.shell))
    return 0
