"""`mammopipe config` and `recipes`: the available keys, the effective values, and the shipped recipes."""

import argparse

from mammopipe.pipelines.commands.arguments import Subparsers, as_json, command, configuration, configured
from mammopipe.processing.errors import ConfigError


def add(subparsers: Subparsers) -> None:
    """Add the parsers of `config` and `recipes`."""
    text = "show the configuration in force, explain one of its keys, or print its JSON Schema"
    parser = command(subparsers, "config", text, "config explain training.learning_rate")
    parser.add_argument(
        "action",
        choices=["show", "explain", "schema"],
        help="show: every key with its value; explain: one key; schema: JSON Schema for editors",
    )
    parser.add_argument("key", nargs="?", metavar="KEY", help="the key to explain, such as segmentation.height")
    configured(parser)
    parser.set_defaults(command=show)
    parser = command(subparsers, "recipes", "list the shipped configurations, for run --recipe NAME", "recipes")
    as_json(parser)
    parser.set_defaults(command=recipes)


def show(options: argparse.Namespace) -> int:
    """Print the configuration, the explanation of a key, or the schema."""
    from mammopipe.pipelines.config import reference

    if (options.action == "explain") != (options.key is not None):
        raise ConfigError(f"config {options.action}: {'give' if options.key is None else 'takes no'} KEY")
    if options.action == "explain":
        print(reference.explain(options.key))
    elif options.action == "schema":
        print(reference.schema())
    else:
        print(reference.show(configuration(options)), end="")
    return 0


def recipes(options: argparse.Namespace) -> int:
    """Print the recipes, with their description and requirements."""
    import json

    from mammopipe.pipelines.config.recipes import recipes as shipped

    found = list(shipped())
    if options.json:
        print(json.dumps([{"name": item.name, "about": item.about, "needs": item.needs} for item in found], indent=2))
        return 0
    for item in found:
        print(f"{item.name:<16} {item.about}" + (f"\n{'':<16} needs {item.needs}" if item.needs else ""))
    return 0
