"""Renders `drift.html`, the monitor's report page, from `drift.json` alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mammopipe.processing.pages.plot import COLOURS, TWO_LINES, Plot
from mammopipe.processing.pages.template import environment

TEMPLATE = "drift.html.j2"
SHOWN = 6
"""Most figures drawn per group, the strongest first."""


def render(report: Mapping[str, Any]) -> str:
    """Return the page."""
    pages = environment(Path(__file__).parent)
    pages.globals.update(strongest=strongest, over_time=over_time, shares=shares, shade=shade)
    return pages.get_template(TEMPLATE).render(report=report)


def strongest(group: Mapping[str, Any]) -> list[str]:
    """Return the figures of a group to draw, the strongest in the last window first."""
    figures = group["figures"]
    return sorted(figures, key=lambda name: -float((figures[name]["strength"] or [0])[-1]))[:SHOWN]


def over_time(figure: Mapping[str, Any], title: str) -> Markup:
    """Return both tests over the judged windows, each as a share of its limit."""
    index = [value / limit for value, limit in zip(figure["index"], figure["index_limit"], strict=True)]
    cusum = [value / figure["cusum_limit"] for value in figure["cusum"]]
    # A test far beyond its limit is cut off at ten times the limit, so that the other windows stay readable.
    top = min(max([1.25, *index, *cusum]), 10.0)
    numbers = range(1, len(index) + 1)
    drawn = Plot(title, "window", "share of the limit")
    for values, look in zip((index, cusum), TWO_LINES, strict=True):
        drawn.axes.plot(numbers, [min(value, top) for value in values], marker="o", markersize=3, **look)
    drawn.axes.axhline(1.0, color=COLOURS["bad"], linestyle=(0, (5, 4)), linewidth=1.2)
    drawn.axes.set(xlim=(0, max(len(index), 2) + 0.2), ylim=(0, 1.05 * top))
    drawn.whole_x()
    return drawn.svg()


def shares(figure: Mapping[str, Any], title: str) -> Markup:
    """Return a step plot of the shares of the bins, for the reference and for the last window."""
    drawn = Plot(title, "bin of the reference, low to high", "share of images")
    for values, look in zip((figure["reference"], figure["latest"]), TWO_LINES, strict=True):
        drawn.axes.stairs(values, range(len(values) + 1), baseline=None, **look)
    drawn.axes.set_ylim(bottom=0)
    drawn.whole_x()
    return drawn.svg()


def shade(strength: float) -> str:
    """Return the colour strength of a table cell, 0 to 1; at 1 the alarm fires."""
    return f"{min(strength, 1.0) ** 2:.2f}"
