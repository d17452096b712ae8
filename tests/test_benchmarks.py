"""The benchmarks' own arithmetic: which figures hold, and the table that the README shows."""

from pathlib import Path

import pytest

from processing.errors import ConfigError
from tests.benchmarks.rows import holds, row
from tests.benchmarks.table import BEGIN, END, fill_in, table

FAST = row("read, times decode", 1.02, "x", 1.15, "lower", "python -m x", decode=1.0)
SLOW = row("two processes against one", 1.5, "x", 1.8, "higher", "python -m x")
PLAIN = row("images a second", 20.123456, "images/s", None, "higher", "python -m x")


def test_a_bar_is_a_limit_in_its_own_direction() -> None:
    assert holds(FAST) and not holds(SLOW) and holds(PLAIN)
    assert not holds({**FAST, "value": 1.16}) and holds({**SLOW, "value": 1.8})


def test_the_table_shows_what_was_missed() -> None:
    lines = table([FAST, SLOW, PLAIN]).splitlines()
    assert lines[2:] == [
        "| read, times decode | 1.02 x | at most 1.15 |",
        "| two processes against one | **1.5 x** (missed) | at least 1.8 |",
        "| images a second | 20.1 images/s |  |",
    ]


def test_the_table_replaces_what_stands_between_the_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    fill_in(readme, [FAST])
    fill_in(readme, [FAST])
    assert readme.read_text(encoding="utf-8") == f"before\n{BEGIN}\n{table([FAST])}{END}\nafter\n"


def test_a_readme_without_marks_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here", encoding="utf-8")
    with pytest.raises(ConfigError, match="benchmarks: begin"):
        fill_in(readme, [FAST])
    assert readme.read_text(encoding="utf-8") == "nothing here"


def test_the_readme_has_the_place_for_its_table() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)
