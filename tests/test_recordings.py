"""The recordings of a terminal show its output, and those committed show existing commands."""

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console
from rich.live import Live
from rich.text import Text

from mammopipe.pipelines.cli import build_parser
from tests.recordings import FOLDER, Screen, picture, record

PICTURES = sorted((Path(__file__).parents[1] / FOLDER).glob("*.svg"))


def words(svg: str) -> str:
    """Return the text of a picture, one line for each row."""
    rows = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return "\n".join("".join(row.itertext()).replace("\xa0", " ") for row in rows)


def test_a_table_that_is_drawn_again_is_shown_once() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=40)
    with Live(console=console, auto_refresh=False) as live:
        for state in ("Waiting", "Executing", "Succeeded"):
            live.update(f"Prepare {state}\nAugment {state}", refresh=True)
        console.print("said between")
    screen = Screen()
    screen.write(written.getvalue())
    assert [line.strip() for line in screen.text().split("\n")] == [
        "said between",
        "Prepare Succeeded",
        "Augment Succeeded",
    ]


def test_a_line_that_is_written_over_is_shown_as_it_ended() -> None:
    screen = Screen()
    screen.write("  10 %\r  90 %\r 100 %\r\nnext\r\n")
    assert screen.text() == " 100 %\nnext"


@pytest.mark.parametrize("written", ["a\x1b[2Jb", "a\x1b[5;5Hb", "a\x1b[3Cb"])
def test_a_movement_that_is_not_known_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="does not know"):
        Screen().write(written)


def test_a_command_is_recorded_as_a_terminal_shows_it(tmp_path: Path) -> None:
    shown = record(("doctor",), tmp_path, lambda screen: None)
    assert "\x1b[32mok" in shown, "it has colours, as on a terminal"
    drawn = words(picture(("doctor",), shown).decode())
    assert drawn.startswith("mammopipe") and "$ mammopipe doctor" in drawn and "MAMMOPIPE_MIAS" in drawn
    assert str(tmp_path) not in drawn


def test_what_takes_longer_is_shown_while_it_goes_on_and_leaves_nothing(tmp_path: Path) -> None:
    shown = record(("compile",), tmp_path, lambda screen: None)
    assert re.fullmatch(r"Compiled pipeline\.json \(\d+ bytes\)", Text.from_ansi(shown).plain.strip())
    assert (tmp_path / "pipeline.json").is_file()


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_committed_pictures_are_of_commands_that_exist(path: Path) -> None:
    drawn = path.read_text(encoding="utf-8")
    (typed,) = [line for line in words(drawn).splitlines() if line.startswith("$ mammopipe ")]
    build_parser().parse_args(typed.split()[2:])
    assert "http://" not in drawn.replace("http://www.w3.org", "") and "https://" not in drawn.replace(
        "https://www.textualize.io", ""
    ), "nothing is fetched to show it"


def test_run_status_and_doctor_are_recorded() -> None:
    assert {path.stem for path in PICTURES} >= {"run-training", "run", "status", "doctor"}
