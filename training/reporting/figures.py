"""Values of `evaluation.json` as HTML."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup


def look_up(evaluation: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path such as `selected/validation/macro_auc`."""
    value: Any = evaluation
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def figure(evaluation: Mapping[str, Any], path: str) -> Markup:
    """Return HTML of a metric with its interval, three decimals each, or the reason why it is undefined."""
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
    """Return HTML of a plain value; `style` is a format such as `.3f`."""
    return Markup('<span class="number" data-path="{}" data-style="{}">{}</span>').format(
        path, style, format(look_up(evaluation, path), style)
    )
