"""The table of docs/BENCHMARKS.md, generated from benchmark rows only."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import Row, holds
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes

_SIGNS = {"lower": "at most", "higher": "at least"}


def fill_in(page: Path, rows: Sequence[Row]) -> None:
    """Put rows into the table between the page's two marks; lines of other figures stay unchanged.

    Args:
        page: The page.
        rows: The measured rows. A line of the same name is replaced in its place; a new name is added at the end.

    Raises:
        ConfigError: A mark is missing or occurs twice.
    """
    new = {_name(line): line for line in table(rows).splitlines()}
    old = {_name(line): line for line in _between(page, "benchmarks")[1].splitlines() if line.startswith("|")}
    # `|` keeps the order of the old lines and takes the values of the new ones; both begin with the table's header.
    replace_between(page, "benchmarks", "\n".join((old | new).values()) + "\n")


def _name(line: str) -> str:
    """Return the first cell of a line of a Markdown table."""
    return line.split("|")[1].strip()


def replace_between(page: Path, name: str, text: str) -> None:
    """Replace the text between the marks `<!-- NAME: begin -->` and `<!-- NAME: end -->` of a page.

    Args:
        page: The page.
        name: The name in the marks.
        text: The new text; whole lines.

    Raises:
        ConfigError: A mark is missing or occurs twice.
    """
    before, _, after = _between(page, name)
    write_bytes(page, f"{before}{_marks(name)[0]}\n{text}{_marks(name)[1]}{after}".encode())


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def _between(page: Path, name: str) -> tuple[str, str, str]:
    """Return the text before, between and after two marks of a page; `ConfigError` unless each mark occurs once."""
    begin, end = _marks(name)
    whole = page.read_text(encoding="utf-8")
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ConfigError(f"{page}: {begin} and {end} must each occur exactly once")
    before, rest = whole.split(begin)
    between, after = rest.split(end)
    return before, between, after


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; a figure that misses its bar is bold and marked."""
    lines = ["| figure | measured | bar |", "|---|---|---|"]
    for figure in rows:
        value = f"{figure['value']:.3g} {figure['unit']}".strip()
        bar = "" if figure["bar"] is None else f"{_SIGNS[figure['better']]} {figure['bar']:g}"
        lines.append(f"| {figure['name']} | {value if holds(figure) else f'**{value}** (missed)'} | {bar} |")
    return "\n".join(lines) + "\n"
