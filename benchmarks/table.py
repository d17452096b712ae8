"""The table of docs/BENCHMARKS.md, generated from benchmark rows only."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import Row, holds
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
_SIGNS = {"lower": "at most", "higher": "at least"}


def fill_in(page: Path, rows: Sequence[Row]) -> None:
    """Replace the text between the page's two marks with the table; `ConfigError` if a mark is missing."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ConfigError(f"{page}: {BEGIN} and {END} must each stand in it once")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    write_bytes(page, f"{before}{BEGIN}\n{table(rows)}{END}{after}".encode())


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; a figure that misses its bar is bold and marked."""
    lines = ["| figure | measured | bar |", "|---|---|---|"]
    for figure in rows:
        value = f"{figure['value']:.3g} {figure['unit']}".strip()
        bar = "" if figure["bar"] is None else f"{_SIGNS[figure['better']]} {figure['bar']:g}"
        lines.append(f"| {figure['name']} | {value if holds(figure) else f'**{value}** (missed)'} | {bar} |")
    return "\n".join(lines) + "\n"
