"""Records the terminal output of `run`, `status` and `doctor` as pictures in docs/recordings/: `make recordings`.

Run `python -m tests.recordings [FOLDER]`. Each command runs on its own pseudo-terminal, in an empty folder and on
synthetic images. A picture shows the screen at the end of the command; that of `run`, while networks train. Nothing is
edited.
"""

import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

from mammopipe.processing.files import write_bytes

COLUMNS, ROWS = 100, 50
RUN = ("run", "--cnns", "modified_cnn,alexnet", "--phantoms", "30")
FOLDER = Path("docs", "recordings")
KEPT = ("HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "TMPDIR")
"""The environment of the commands, without variables of a person, an account or a dataset."""
_CONTROL = re.compile("\x1b\\[([0-9;?]*)([A-Za-z])|([\r\n])")
_FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
"""Removed: the picture would fetch its font from the network, and every system has a font of equal widths."""


class Screen:
    """The lines of a terminal; it understands text and styles, line ends, cursor up, erase line."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = 0
        self.returned = False
        """Whether the cursor stands at the beginning of the line, whose text the next one replaces."""

    def write(self, text: str) -> None:
        """Process output; raises `ValueError` for an unknown control sequence, since the picture would be wrong."""
        end = 0
        for found in _CONTROL.finditer(text):
            self._show(text[end : found.start()])
            end = found.end()
            self._obey(found)
        self._show(text[end:])

    def _show(self, text: str) -> None:
        if text:
            self.lines[self.row] = text if self.returned else self.lines[self.row] + text
            self.returned = False

    def _obey(self, found: re.Match[str]) -> None:
        number, kind, ending = found.groups()
        if ending == "\r":
            self.returned = True
        elif ending == "\n":
            self.row, self.returned = self.row + 1, False
            if self.row == len(self.lines):
                self.lines.append("")
        elif kind == "A":
            self.row -= int(number or 1)
        elif kind == "K" and number == "2":
            self.lines[self.row] = ""
        elif kind == "m":
            self._show(found.group())
        elif (number, kind) not in (("?25", "l"), ("?25", "h")):
            raise ValueError(f"{found.group()!r}: the screen does not know this")

    def text(self) -> str:
        """Return the lines with their styles."""
        return "\n".join(self.lines).rstrip("\n")


def record(words: tuple[str, ...], folder: Path, seen: Callable[[str], None]) -> str:
    """Return the screen after `mammopipe WORDS` in `folder`; `seen` is called with each earlier screen."""
    screen, held = Screen(), ""
    for piece in _written(words, folder):
        # A read may end within a control sequence, or within a line that is being replaced.
        whole, newline, held = (held + piece).rpartition("\n")
        screen.write(whole + newline)
        seen(screen.text())
    screen.write(held)
    return screen.text()


def _written(words: tuple[str, ...], folder: Path) -> Iterator[str]:
    """Yield the command's output to its terminal, which is also its input."""
    leader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {"TERM": "xterm-256color"}
    command = [sys.executable, "-m", "mammopipe.pipelines.cli", *words]
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal):
        os.close(terminal)
        with open(leader, encoding="utf-8", errors="strict", newline="") as stream:
            try:
                while piece := os.read(stream.fileno(), 2**16):
                    yield piece.decode()
            except OSError:  # Linux's word for the other end being closed
                return


def picture(words: tuple[str, ...], shown: str) -> bytes:
    """Return the screen as SVG, with the typed command above it."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=open(os.devnull, "w", encoding="utf-8"),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    with console.file:
        console.print(Text(f"$ mammopipe {' '.join(words)}", style="bold"))
        console.print(Text.from_ansi(shown), soft_wrap=False)
        drawn = console.export_svg(title="mammopipe", unique_id="-".join(["mammopipe", words[0]]))
    return _FONT.sub("", drawn).encode()


def training(screens: list[str]) -> Callable[[str], None]:
    """Return a function that keeps, as the only one of `screens`, the last screen in which networks are training."""

    def look(shown: str) -> None:
        if shown.count("s an epoch") > (screens[0].count("s an epoch") if screens else 0):
            screens[:] = [shown]

    return look


def main() -> None:
    """Record all commands."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    target: Path = parser.parse_args().folder
    with TemporaryDirectory() as name:
        folder, running = Path(name), []
        ended = record(RUN, folder, training(running))
        if not running:
            raise SystemExit(f"no network was seen training:\n{ended}")
        for name, words, shown in (("run-training", RUN, running[0]), ("run", RUN, ended)):
            write_bytes(target / f"{name}.svg", picture(words, shown))
        for words in (("status",), ("doctor",)):
            write_bytes(target / f"{words[0]}.svg", picture(words, record(words, folder, lambda shown: None)))
    print("\n".join(str(path) for path in sorted(target.glob("*.svg"))))


if __name__ == "__main__":
    main()
