"""The figures of an experiment, as SVG: one plot per measure, with a dot and its interval for each row."""

from collections.abc import Sequence
from pathlib import Path

from mammopipe.pipelines.experiment.tables import MAJORITY, MEASURES, PUBLISHED, ResultRow
from mammopipe.processing.files import write_bytes

SHOWN = ("accuracy", "balanced_accuracy", "macro_auc", "malignant_auc")
_NETWORK, _NOISE, _MAJORITY = "#1f6fb2", "#b26a1f", "#777777"
_QUARTERS = (0, 0.25, 0.5, 0.75, 1)


def write_figures(rows: Sequence[ResultRow], folder: Path, classes: int) -> list[str]:
    """Write `<measure>.svg` of the test rows for each measure in `SHOWN`, and return the names.

    Args:
        rows: The rows of the table.
        folder: Where the plots are written.
        classes: Number of classes of the networks.
    """
    measured = [row for row in rows if row.split == "test" and row.images is not None]
    names = [f"{measure}.svg" for measure in SHOWN]
    for measure, name in zip(SHOWN, names, strict=True):
        write_bytes(folder / name, draw(measured, measure, classes).encode())
    return names


def draw(rows: Sequence[ResultRow], measure: str, classes: int) -> str:
    """Return the plot of one measure as SVG.

    Args:
        rows: The rows of the table; one dot and interval each.
        measure: Name of the measure. Dashed lines show its chance level and its published figure, if there is one.
        classes: Number of classes of the networks; chance has a balanced accuracy of 1 / classes.
    """
    # Imported here because matplotlib takes half a second to import.
    from mammopipe.processing.pages.svg_file import new_plot, to_svg

    axes = new_plot(width=7.6, height=1 + 0.25 * len(rows))
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xticks=_QUARTERS)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(rows)), [f"{row.protocol}: {row.model}" for row in rows])
    for label, value, colour in (
        ("chance", chance_level(measure, classes), "#888888"),
        ("published", PUBLISHED.get(measure), "#c0392b"),
    ):
        if value is not None:
            axes.axvline(value, color=colour, linestyle=(0, (4, 3)), linewidth=1, label=label)
    for place, row in enumerate(rows):
        figure, colour = row.figures[measure], _colour(row.model)
        if figure.low is not None and figure.high is not None:
            axes.plot([figure.low, figure.high], [place, place], color=colour, linewidth=1.5)
        if figure.value is not None:
            axes.plot(figure.value, place, color=colour, marker="o", gid=f"dot-{place}")
    axes.figure.legend(loc="outside lower right", ncols=2, frameon=False)
    return to_svg(axes, f"{MEASURES[measure]} on test, 95 % interval by patient")


def chance_level(measure: str, classes: int) -> float | None:
    """Return the value of a measure by chance with this number of classes; `None` for the accuracy."""
    return {"balanced_accuracy": 1 / classes, "macro_auc": 0.5, "malignant_auc": 0.5}.get(measure)


def _colour(model: str) -> str:
    return _NOISE if model.startswith("noise") else _MAJORITY if model == MAJORITY else _NETWORK
