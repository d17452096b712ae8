"""`drift.html`: the monitor's report as one page, made of `drift.json` and of nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mammopipe.training import reporting
from mammopipe.training.reporting.svg_plots import Axes, Line, plot, ticks

TEMPLATE = "drift.html.j2"
SHOWN = 6
"""Figures of a group that are drawn: the strongest ones."""


def render(report: Mapping[str, Any]) -> str:
    """Return the page."""
    folders = [Path(__file__).parent, Path(str(reporting.__file__)).parent / "templates"]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(strongest=strongest, over_time=over_time, shares=shares, shade=shade)
    return environment.get_template(TEMPLATE).render(report=report)


def strongest(group: Mapping[str, Any]) -> list[str]:
    """Return the figures of a group that are drawn, by their last window."""
    figures = group["figures"]
    return sorted(figures, key=lambda name: -float((figures[name]["strength"] or [0])[-1]))[:SHOWN]


def over_time(figure: Mapping[str, Any], title: str) -> Markup:
    """Return both tests over the judged windows, each as a share of its limit."""
    index = [value / limit for value, limit in zip(figure["index"], figure["index_limit"], strict=True)]
    cusum = [value / figure["cusum_limit"] for value in figure["cusum"]]
    top = min(max([1.25, *index, *cusum]), 10.0)
    numbers = range(1, len(index) + 1)
    axes = Axes("window", "share of the limit", ticks(0, max(len(index), 2), whole=True), ticks(0, top))
    one = [(axes.x_ticks[0], 1.0), (axes.x_ticks[-1], 1.0)]
    lines = [
        Line(_within(numbers, index, top), "of-train", [2.5] * len(index)),
        Line(_within(numbers, cusum, top), "of-validation", [2.5] * len(cusum)),
        Line(one, "limit"),
    ]
    return plot(title, axes, lines)


def _within(numbers: Sequence[int], values: Sequence[float], top: float) -> list[tuple[float, float]]:
    return [(float(number), min(value, top)) for number, value in zip(numbers, values, strict=True)]


def shares(figure: Mapping[str, Any], title: str) -> Markup:
    """Return the shares of the bins as steps: the reference's and the last window's."""
    top = max([*figure["reference"], *figure["latest"], 0.1])
    axes = Axes(
        "bin of the reference, low to high",
        "share of films",
        ticks(0, len(figure["reference"]), whole=True),
        ticks(0, top),
    )
    return plot(
        title, axes, [Line(_steps(figure["reference"]), "of-train"), Line(_steps(figure["latest"]), "of-validation")]
    )


def _steps(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(edge), value) for place, value in enumerate(values) for edge in (place, place + 1)]


def shade(strength: float) -> str:
    """Return how strongly a cell of the table is coloured, 0 to 1; at 1 the alarm fires."""
    return f"{min(strength, 1.0) ** 2:.2f}"
