"""The figures of an experiment, as SVG: one plot per measure, with a dot and its interval for each row."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from mammopipe.pipelines.experiment.tables import MAJORITY, MEASURES, PUBLISHED, Row
from mammopipe.processing.files import write_bytes

SHOWN = ("accuracy", "balanced_accuracy", "macro_auc", "malignant_auc")
WIDTH, LINE, LEFT, RIGHT, TOP, BOTTOM = 760, 24, 250, 24, 34, 40

_STYLE = """<style>
text{font:13px system-ui,sans-serif;fill:#222}.quiet{fill:#666;font-size:12px}.grid{stroke:#ddd}
.chance{stroke:#888;stroke-dasharray:4 3}.published{stroke:#c0392b;stroke-dasharray:4 3}
.film{stroke:#1f6fb2;fill:#1f6fb2}.noise{stroke:#b26a1f;fill:#b26a1f}.majority{stroke:#777;fill:#777}
@media (prefers-color-scheme:dark){text{fill:#eee}.quiet{fill:#aaa}.grid{stroke:#444}.film{stroke:#6db3f2;fill:#6db3f2}
.noise{stroke:#f2b36d;fill:#f2b36d}.majority{stroke:#aaa;fill:#aaa}.published{stroke:#ff7b6b}}
</style>"""


def write_figures(rows: Sequence[Row], folder: Path, classes: int) -> list[str]:
    """Write `<measure>.svg` of the test rows for each measure in `SHOWN`, and return the names.

    Args:
        rows: The rows of the table.
        folder: Where the plots are written.
        classes: Number of classes of the networks.
    """
    measured = [row for row in rows if row.split == "test" and row.images is not None]
    names = []
    for measure in SHOWN:
        names.append(f"{measure}.svg")
        write_bytes(folder / names[-1], draw(measured, measure, classes).encode())
    return names


def draw(rows: Sequence[Row], measure: str, classes: int) -> str:
    """Return the plot of one measure as SVG.

    Args:
        rows: The rows of the table; one dot and interval each.
        measure: Name of the measure. Dashed lines show its chance level and its published figure, if there is one.
        classes: Number of classes of the networks; chance has a balanced accuracy of 1 / classes.
    """
    chance = {"balanced_accuracy": 1 / classes, "macro_auc": 0.5, "malignant_auc": 0.5}
    height = TOP + LINE * len(rows) + BOTTOM
    bottom = TOP + LINE * len(rows)
    parts = [f'<text x="{LEFT}" y="20">{MEASURES[measure]} on test, 95 % interval by patient</text>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_vertical("grid", tick, bottom))
        parts.append(f'<text class="quiet" x="{_x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for style, value in (("chance", chance.get(measure)), ("published", PUBLISHED.get(measure))):
        if value is not None:
            parts.append(_vertical(style, value, bottom))
            parts.append(
                f'<text class="quiet" x="{_x(value):.1f}" y="{bottom + 32}" text-anchor="middle">{style}</text>'
            )
    for place, row in enumerate(rows):
        parts += _line(row, measure, TOP + LINE * place + LINE / 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>{MEASURES[measure]} by protocol and network</title>{_STYLE}{''.join(parts)}</svg>\n"
    )


def _x(value: float) -> float:
    return LEFT + value * (WIDTH - LEFT - RIGHT)


def _vertical(style: str, value: float, bottom: float) -> str:
    x = _x(value)
    return f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'


def _line(row: Row, measure: str, y: float) -> list[str]:
    figure = row.figures[measure]
    style = "noise" if row.model.startswith("noise") else "majority" if row.model == MAJORITY else "film"
    title = escape(f"{row.protocol}: {row.model}")
    parts = [f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{title}</text>']
    if figure.low is not None and figure.high is not None:
        parts.append(
            f'<line class="{style}" stroke-width="2" x1="{_x(figure.low):.1f}" x2="{_x(figure.high):.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    if figure.value is not None:
        parts.append(f'<circle class="{style}" cx="{_x(figure.value):.1f}" cy="{y:.1f}" r="4.5"/>')
    return parts
