"""Draws plots with matplotlib as inline SVG in the colours of the page's style sheet, for light and dark mode.

matplotlib supports only fixed colours. Each plot is therefore drawn in placeholder colours, one for each custom
property of `page.css.j2`, which are then replaced by `var(--property)` in the SVG text.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PROPERTIES = ("text", "quiet", "grid", "card", "normal", "benign", "malignant", "bad")
"""Custom properties of the style sheet that plots use."""
COLOURS = {name: f"#0103{place:02x}" for place, name in enumerate(PROPERTIES, 1)}
"""Placeholder colour of each property; plots use no other colours."""
TWO_LINES: tuple[dict[str, Any], ...] = (
    {"color": COLOURS["normal"], "linestyle": "-"},
    {"color": COLOURS["malignant"], "linestyle": "--"},
)
_QUARTERS = (0, 0.25, 0.5, 0.75, 1)

_SIZE = (3.5, 2.95)
"""Width and height in inches; the page scales the picture to its panel."""
_MARGINS = {"left": 0.2, "right": 0.955, "bottom": 0.165, "top": 0.975}
"""Edges of the axes as fractions of the picture; they leave room for a title and for numbers of four characters."""
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mammopipe",  # without it, matplotlib gives random ids, and equal plots differ
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.edgecolor": COLOURS["quiet"],
    "axes.labelcolor": COLOURS["text"],
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": COLOURS["text"],
    "grid.color": COLOURS["grid"],
    "xtick.color": COLOURS["quiet"],
    "ytick.color": COLOURS["quiet"],
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
}


_USED: list[Figure] = []
"""Emptied figures of earlier plots, for new plots: creating axes and ticks takes two fifths of a plot's time."""


class Plot:
    """A plot with one pair of axes, rendered once as inline SVG."""

    def __init__(self, title: str, x_label: str, y_label: str, *, unit: bool = False) -> None:
        """Create the plot.

        Args:
            title: Text for screen readers.
            x_label: Title of the x axis.
            y_label: Title of the y axis.
            unit: Whether both axes run from 0 to 1.
        """
        self._title = title
        self._figure = _USED.pop() if _USED else _new_figure()
        self.axes: Axes = self._figure.axes[0]
        self.axes.set(xlabel=x_label, ylabel=y_label)
        if unit:
            self.axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=_QUARTERS, yticks=_QUARTERS)

    def reference(self, x: Sequence[float], y: Sequence[float], label: str = "") -> None:
        """Draw a dashed reference line: the result of chance, of a perfect model, or of a fixed rule."""
        self.axes.plot(x, y, color=COLOURS["quiet"], linestyle=(0, (4, 4)), linewidth=1, label=label or "_")

    def whole_x(self) -> None:
        """Place ticks of the x axis only at whole numbers."""
        self.axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))

    def svg(self) -> Markup:
        """Return the picture as an element of an HTML page; nothing can be drawn into it afterwards."""
        stream = io.StringIO()
        with matplotlib.rc_context(_SETTINGS):
            if any(not text.startswith("_") for text in self.axes.get_legend_handles_labels()[1]):
                self.axes.legend()
            self._figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
            _clean(self.axes)
        _USED.append(self._figure)
        return _inline(stream.getvalue(), self._title)


def _new_figure() -> Figure:
    """Return a figure with one pair of axes, in the settings of all plots."""
    with matplotlib.rc_context(_SETTINGS):
        # Fixed margins: a computed layout draws every plot twice, and takes half of the report's time.
        figure = Figure(figsize=_SIZE)
        figure.subplots_adjust(**_MARGINS)
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
    for patch in (figure.patch, axes.patch):
        patch.set_visible(False)
    return figure


def _clean(axes: Axes) -> None:
    """Remove what a plot has drawn and set, so that the next plot begins as with new axes."""
    axes.containers.clear()
    for artist in (*axes.lines, *axes.collections, *axes.patches, *axes.texts, axes.get_legend()):
        if artist is not None:
            artist.remove()
    axes.set_prop_cycle(None)
    axes.relim()
    axes.set(xscale="linear", yscale="linear", xlim=(0, 1), ylim=(0, 1))
    axes.autoscale(True)


def _inline(svg: str, title: str) -> Markup:
    """Return an SVG file as an HTML element, without XML header and fixed size, in the colours of the style sheet."""
    body = svg[svg.index("<svg") :]
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="[^"]+"', head)
    rest = re.sub(r"<(metadata|style).*?</\1>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'<g id="[^"]+">', "<g>", rest).replace("xlink:href", "href")
    # A page has several plots, so the ids of each plot must be unique on the page.
    prefix = f"p{hashlib.sha256(svg.encode()).hexdigest()[:8]}"
    rest = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}", rest)
    for name, colour in COLOURS.items():
        rest = rest.replace(colour, f"var(--{name})")
    opening = Markup('<svg class="plot" role="img" {}><title>{}</title>').format(Markup(box[0] if box else ""), title)
    return opening + Markup(rest.strip())
