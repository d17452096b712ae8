"""Recipes: shipped TOML files, each a complete training with its requirements and the results it reached."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from mammopipe.pipelines.config.toml import read_toml_text
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import suggestion

FOLDER = files("mammopipe.pipelines.config") / "recipe_files"
FACTS = "recipe"
"""The table that describes the recipe instead of configuring the run: `about` and `needs`."""


@dataclass(frozen=True)
class Recipe:
    """One shipped recipe."""

    name: str
    about: str
    """One sentence that says what it is."""
    needs: str
    """The command-line options that it needs; empty: none."""
    values: Mapping[str, Any]
    """Its tables, as in a configuration file."""


def recipes() -> Iterator[Recipe]:
    """Yield the shipped recipes, by name."""
    for file in sorted(FOLDER.iterdir(), key=lambda item: item.name):
        if file.name.endswith(".toml"):
            values = read_toml_text(file.read_text(encoding="utf-8"), file.name)
            facts = values.pop(FACTS)
            yield Recipe(file.name.removesuffix(".toml"), str(facts["about"]), str(facts.get("needs", "")), values)


def read_recipe(name: str) -> Mapping[str, Any]:
    """Return the tables of a recipe; raises `ConfigError`, with similar names, if there is none."""
    known = {recipe.name: recipe for recipe in recipes()}
    if name not in known:
        raise ConfigError(f"recipe {name!r}: no such recipe{suggestion(name, known)}")
    return known[name].values
