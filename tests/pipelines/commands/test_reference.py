"""The generated pages of docs/reference are up to date and complete."""

from pathlib import Path

import mammopipe
from mammopipe.pipelines.commands import reference

PAGES = Path(__file__).parents[3] / "docs" / "reference"
AGAIN = "python -m mammopipe.pipelines.commands.reference writes it again"


def test_the_page_of_the_commands_is_what_their_parsers_say() -> None:
    page = reference.commands_page()
    assert "## `mammopipe predict`" in page and "`--set KEY=VALUE`" in page
    assert (PAGES / "commands.md").read_text(encoding="utf-8") == page, AGAIN


def test_the_page_of_the_commands_explains_every_argument_and_shows_no_hidden_one() -> None:
    page = reference.commands_page()
    empty = [line for line in page.splitlines() if line.startswith("|") and line.endswith("|  |")]
    assert empty == [] and "--films" not in page and "SUPPRESS" not in page
    assert "| 4 | the AWS credentials have expired; a run on AWS continues |" in page


def test_the_page_of_the_public_names_shows_calls_and_properties_as_a_program_writes_them() -> None:
    page = reference.python_page()
    assert "source: str = ''" in page and "operating_point: OperatingPoint = OperatingPoint.SENSITIVITY" in page
    assert "    report: Path\n" in page and "config: ReadConfig = ReadConfig()" in page
    assert "(self" not in page and "<" not in page.replace("`<bytes>`", "")


def test_the_page_of_the_public_names_is_what_their_docstrings_say() -> None:
    page = reference.python_page()
    assert all(f"## `mammopipe.{name}`" in page for name in mammopipe.__all__ if not name.startswith("__"))
    assert (PAGES / "python.md").read_text(encoding="utf-8") == page, AGAIN
