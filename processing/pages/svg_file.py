"""Draws a plot with matplotlib as an SVG file of its own, on white; the same content gives the same bytes."""

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "mammopipe", "font.family": "sans-serif", "font.size": 10}


def new_plot(width: float, height: float) -> Axes:
    """Return the axes of a new plot of this size in inches, with a light grid."""
    with matplotlib.rc_context(_SETTINGS):
        axes = Figure(figsize=(width, height), layout="constrained").add_subplot()
    axes.grid(color="#e7eaed")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def to_svg(axes: Axes, title: str) -> str:
    """Return the plot with its title as the text of an SVG file."""
    axes.set_title(title, loc="left")
    figure, stream = axes.get_figure(root=True), io.StringIO()
    assert figure is not None
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Title": title})
    return stream.getvalue()
