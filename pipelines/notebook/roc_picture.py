"""Draws the ROC curves of several runs in one SVG file, malignant against the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

_COLOURS = ("#1f6fb4", "#b5275f", "#b27400", "#1b7742", "#6b4fb0", "#5d666f")
_STYLES = ("-", "--", ":", "-.", "-", "--")


def draw(runs: Sequence[tuple[str, Mapping[str, Any]]], split: str = "test") -> str:
    """Return the ROC curves of the runs' selected candidates as SVG, malignant against the rest.

    Args:
        runs: The id and the `evaluation.json` of each run.
        split: The split. A run without a malignant image in it is listed without a curve.
    """
    # Imported here because matplotlib takes half a second to import.
    from mammopipe.processing.pages.svg_file import new_plot, to_svg

    axes = new_plot(width=6, height=6.2 + 0.25 * len(runs))
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.plot([0, 1], [0, 1], color="#a0a9b2", linestyle=(0, (4, 4)), linewidth=1)
    for place, (run, evaluation) in enumerate(runs):
        figures = evaluation["candidates"][evaluation["selected"]["cnn"]][split]
        curve, auc = figures["roc"].get("malignant"), figures["malignant_auc"]
        axes.plot(
            curve["false_positive_rate"] if curve else [],
            curve["sensitivity"] if curve else [],
            color=_COLOURS[place % len(_COLOURS)],
            linestyle=_STYLES[place % len(_STYLES)],
            linewidth=2,
            label=f"{run}, {evaluation['selected']['cnn']}: {_text(auc)}",
        )
    axes.figure.legend(loc="outside lower left", frameon=False)
    return to_svg(axes, _title([evaluation for _, evaluation in runs], split))


def _title(evaluations: Sequence[Mapping[str, Any]], split: str) -> str:
    """Return the title, with the number of images if it is the same in all runs."""
    mammograms = {
        (counts["malignant"], counts["images"])
        for counts in (evaluation.get("counts", {}).get(split) for evaluation in evaluations)
        if counts
    }
    behind = [f": {malignant} of {images} images" for malignant, images in mammograms] if len(mammograms) == 1 else [""]
    return f"Malignant against the rest, {split} split{behind[0]}"


def _text(auc: Mapping[str, Any]) -> str:
    if auc["value"] is None:
        return "no curve"
    bounds = "" if auc.get("low") is None else f" ({auc['low']:.3f} to {auc['high']:.3f})"
    return f"AUC {auc['value']:.3f}{bounds}"
