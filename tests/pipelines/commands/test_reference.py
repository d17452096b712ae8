"""The pages of docs/reference that the code states are what it states."""

from pathlib import Path

import mammopipe
from mammopipe.pipelines.commands import reference

PAGES = Path(__file__).parents[3] / "docs" / "reference"
AGAIN = "python -m mammopipe.pipelines.commands.reference writes it again"


def test_the_page_of_the_commands_is_what_their_parsers_say() -> None:
    page = reference.commands_page()
    assert "## `mammopipe predict`" in page and "`--set KEY=VALUE`" in page
    assert (PAGES / "commands.md").read_text(encoding="utf-8") == page, AGAIN


def test_the_page_of_the_public_names_is_what_their_docstrings_say() -> None:
    page = reference.python_page()
    assert all(f"## `mammopipe.{name}`" in page for name in mammopipe.__all__ if not name.startswith("__"))
    assert (PAGES / "python.md").read_text(encoding="utf-8") == page, AGAIN
