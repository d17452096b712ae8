"""Draws the pipeline as SVG: its steps from left to right, each in the colour of its status."""

from collections.abc import Mapping
from html import escape
from typing import Any

from mammopipe.pipelines.backends.expressions import references
from mammopipe.pipelines.backends.step_status import Status

COLOURS = {
    Status.WAITING: ("#f1f3f5", "#5d666f"),
    Status.EXECUTING: ("#d9ecff", "#1f5fa8"),
    Status.SUCCEEDED: ("#dff3e6", "#1b7742"),
    Status.FAILED: ("#fde3e1", "#b3261e"),
    Status.STOPPED: ("#fff4d9", "#8a5a00"),
    Status.NOT_EXECUTED: ("#f8f9fa", "#a0a9b2"),
}
"""Fill and line colour of each status; the status is also written out, for people who cannot see the colours."""
_WIDTH, _HEIGHT, _GAP, _MARGIN = 138, 44, 26, 8


def draw(definition: Mapping[str, Any], statuses: Mapping[str, Status] | None = None) -> str:
    """Return the pipeline's graph as SVG.

    Args:
        definition: A compiled definition.
        statuses: The status of each step by name; without it, all steps are waiting.
    """
    needs = _needs(definition["Steps"], "")
    depth: dict[str, int] = {}
    for name in needs:
        _depth(name, needs, depth)
    columns: dict[int, list[str]] = {}
    for name in needs:
        columns.setdefault(depth[name], []).append(name)
    tallest = max(map(len, columns.values()))
    places = {
        name: (
            _MARGIN + (place - 1) * (_WIDTH + _GAP),
            _MARGIN + (row + (tallest - len(names)) / 2) * (_HEIGHT + _GAP / 2),
        )
        for place, names in columns.items()
        for row, name in enumerate(names)
    }
    lines = [_line(places[other], places[name]) for name in needs for other in sorted(_nearest(name, needs))]
    boxes = [_box(name, *places[name], (statuses or {}).get(name, Status.WAITING)) for name in needs]
    width = 2 * _MARGIN + len(columns) * (_WIDTH + _GAP) - _GAP
    height = 2 * _MARGIN + tallest * (_HEIGHT + _GAP / 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="100%" '
        f'style="max-width:{width}px" '
        f'font-family="system-ui, sans-serif" font-size="12"><title>The pipeline\'s steps</title>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(lines + boxes)}</svg>'
    )


def _needs(steps: list[Mapping[str, Any]], gate: str) -> dict[str, set[str]]:
    """Return the dependencies of each step; the steps behind a condition depend on the condition."""
    found: dict[str, set[str]] = {}
    for step in steps:
        inner = {key: step["Arguments"].get(key, []) for key in ("IfSteps", "ElseSteps")}
        own = {key: value for key, value in step["Arguments"].items() if key not in inner}
        found[step["Name"]] = references(own) | set(step.get("DependsOn", [])) | ({gate} if gate else set())
        for chosen in inner.values():
            found |= _needs(chosen, step["Name"])
    return found


def _depth(name: str, needs: Mapping[str, set[str]], depth: dict[str, int]) -> int:
    if name not in depth:
        depth[name] = 1 + max((_depth(other, needs, depth) for other in needs[name]), default=0)
    return depth[name]


def _nearest(name: str, needs: Mapping[str, set[str]]) -> set[str]:
    """Return the direct dependencies of a step, without those it also reaches through another step."""
    return {
        other
        for other in needs[name]
        if not any(other in _all_before(third, needs) for third in needs[name] if third != other)
    }


def _all_before(name: str, needs: Mapping[str, set[str]]) -> set[str]:
    return needs[name].union(*(_all_before(other, needs) for other in needs[name]))


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    x0, y0, x1, y1 = start[0] + _WIDTH, start[1] + _HEIGHT / 2, end[0], end[1] + _HEIGHT / 2
    middle = (x0 + x1) / 2
    return (
        f'<path d="M{x0:.0f} {y0:.0f} C{middle:.0f} {y0:.0f} {middle:.0f} {y1:.0f} {x1:.0f} {y1:.0f}" '
        'fill="none" stroke="#a0a9b2"/>'
    )


def _box(name: str, x: float, y: float, status: Status) -> str:
    fill, line = COLOURS[status]
    dashes = ' stroke-dasharray="4 3"' if status is Status.NOT_EXECUTED else ""
    return (
        f'<g><rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="7" fill="{fill}" '
        f'stroke="{line}"{dashes}/><text x="{x + _WIDTH / 2:.0f}" y="{y + 19:.0f}" text-anchor="middle" '
        f'fill="#1d2125">{escape(name)}</text><text x="{x + _WIDTH / 2:.0f}" y="{y + 35:.0f}" '
        f'text-anchor="middle" font-size="10" fill="{line}">{escape(str(status))}</text></g>'
    )
