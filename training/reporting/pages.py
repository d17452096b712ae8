"""What the pages of every report share: the environment of their templates, and figures as they show them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def environment(*folders: Path) -> Environment:
    """Return the environment of templates in these folders and in that of the reports, whose style sheet all share."""
    return Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def look_up(evaluation: Mapping[str, Any], path: str) -> Any:
    """Return what lies at a path such as `selected/validation/macro_auc`."""
    value: Any = evaluation
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def figure(evaluation: Mapping[str, Any], path: str) -> Markup:
    """Return a figure and its interval as the page shows them, three decimals each, or why there is none."""
    found = look_up(evaluation, path)
    if found["value"] is None:
        return Markup('<span class="figure" data-path="{}" title="{}"><small>{}</small></span>').format(
            path, found["reason"], found["reason"].partition(":")[0]
        )
    bounds = "no interval" if found["low"] is None else f"{found['low']:.3f} to {found['high']:.3f}"
    return Markup('<span class="figure" data-path="{}"><b>{:.3f}</b> <small>{}</small></span>').format(
        path, found["value"], bounds
    )


def number(evaluation: Mapping[str, Any], path: str, style: str = "") -> Markup:
    """Return a plain value as the page shows it; `style` is a format such as `.3f`."""
    return Markup('<span class="number" data-path="{}" data-style="{}">{}</span>').format(
        path, style, format(look_up(evaluation, path), style)
    )
