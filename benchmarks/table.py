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
    replace_between(page, "benchmarks", table(rows))


def replace_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between the marks `<!-- NAME: begin -->` and `<!-- NAME: end -->` of a page.

    Args:
        page: The page.
        name: The name in the marks.
        text: The new text; whole lines.

    Raises:
        ConfigError: A mark is missing, or stands there twice.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = page.read_text(encoding="utf-8")
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ConfigError(f"{page}: {begin} and {end} must each stand in it once")
    before, rest = whole.split(begin)
    after = rest.split(end)[1]
    write_bytes(page, f"{before}{begin}\n{text}{end}{after}".encode())


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; a figure that misses its bar is bold and marked."""
    lines = ["| figure | measured | bar |", "|---|---|---|"]
    for figure in rows:
        value = f"{figure['value']:.3g} {figure['unit']}".strip()
        bar = "" if figure["bar"] is None else f"{_SIGNS[figure['better']]} {figure['bar']:g}"
        lines.append(f"| {figure['name']} | {value if holds(figure) else f'**{value}** (missed)'} | {bar} |")
    return "\n".join(lines) + "\n"
