"""Line plots as inline SVG: they take their colours from the page's style sheet, so they suit light and dark alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 340, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 42

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A series of points; `style` is the class that the style sheet knows it by."""

    points: Sequence[Point]
    style: str
    dots: Sequence[float] = ()
    """Radius of a dot on each point, in pixels; none when empty."""


@dataclass(frozen=True)
class Axes:
    """The frame of a plot: titles, and the range of values with the ticks on it."""

    x_title: str
    y_title: str
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def place(self, point: Point) -> Point:
        """Return where a pair of values lies, in pixels of the picture."""
        x = (point[0] - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
        y = (point[1] - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return _LEFT + x * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - y * (HEIGHT - _TOP - _BOTTOM)


UNIT_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def ticks(low: float, high: float, *, count: int = 5, whole: bool = False) -> list[float]:
    """Return about `count` round values from at or below `low` to at or above `high`; whole numbers when asked."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * count >= span)
    step = max(1.0, round(step)) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def plot(
    title: str, axes: Axes, lines: Sequence[Line], *, diagonal: bool = False, mark_x: float | None = None
) -> Markup:
    """Return the picture; `diagonal` draws what chance or perfect calibration would be, `mark_x` a vertical line."""
    parts = [_frame(axes)]
    if diagonal:
        corners = [(axes.x_ticks[0], axes.y_ticks[0]), (axes.x_ticks[-1], axes.y_ticks[-1])]
        parts.append(_path(corners, axes, "reference"))
    if mark_x is not None:
        parts.append(_path([(mark_x, axes.y_ticks[0]), (mark_x, axes.y_ticks[-1])], axes, "reference"))
    parts += [_line(line, axes) for line in lines]
    return Markup('<svg class="plot" role="img" viewBox="0 0 {} {}"><title>{}</title>{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(parts)
    )


def _line(line: Line, axes: Axes) -> Markup:
    dot = Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>')
    dots = Markup("").join(
        dot.format(line.style, *axes.place(point), radius)
        for point, radius in zip(line.points, line.dots, strict=False)
    )
    return _path(line.points, axes, f"line {line.style}") + dots


def _path(points: Sequence[Point], axes: Axes, style: str) -> Markup:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(axes.place, points))
    return Markup('<polyline class="{}" points="{}"/>').format(style, places)


def _frame(axes: Axes) -> Markup:
    left, bottom = axes.place((axes.x_ticks[0], axes.y_ticks[0]))
    right, top = axes.place((axes.x_ticks[-1], axes.y_ticks[-1]))
    parts = []
    for value in axes.x_ticks:
        x = axes.place((value, axes.y_ticks[0]))[0]
        parts.append(
            Markup(
                '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>'
                '<text x="{0:.1f}" y="{3:.1f}" text-anchor="middle">{4:g}</text>'
            ).format(x, top, bottom, bottom + 15, value)
        )
    for value in axes.y_ticks:
        y = axes.place((axes.x_ticks[0], value))[1]
        parts.append(
            Markup(
                '<line class="grid" x1="{0:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{2:.1f}"/>'
                '<text x="{3:.1f}" y="{4:.1f}" text-anchor="end">{5:g}</text>'
            ).format(left, right, y, left - 6, y + 4, value)
        )
    middle = (top + bottom) / 2
    title = Markup('<text class="title" x="{:.1f}" y="{:.1f}" text-anchor="middle"{}>{}</text>')
    turned = Markup(' transform="rotate(-90 12 {:.1f})"').format(middle)
    parts.append(title.format((left + right) / 2, HEIGHT - 8, "", axes.x_title))
    parts.append(title.format(12, middle, turned, axes.y_title))
    return Markup("").join(parts)
