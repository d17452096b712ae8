"""Draws the ROC curves of several runs in one SVG file, malignant against the rest."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_COLOURS = ("#1f6fb4", "#b5275f", "#b27400", "#1b7742", "#6b4fb0", "#5d666f")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "", "7 3")
_SIDE, _LEFT, _TOP, _RIGHT = 360, 52, 34, 150


def draw(runs: Sequence[tuple[str, Mapping[str, Any]]], split: str = "test") -> str:
    """Return the ROC curves of the runs' selected candidates as SVG, malignant against the rest.

    Args:
        runs: The id and the `evaluation.json` of each run.
        split: The split. A run without a malignant image in it is listed without a curve.
    """
    title = _title([evaluation for _, evaluation in runs], split)
    parts = [f'<text x="{_LEFT}" y="18" font-size="14" fill="#23292f">{escape(title)}</text>', _frame()]
    for place, (run, evaluation) in enumerate(runs):
        colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
        figures = evaluation["candidates"][evaluation["selected"]["cnn"]][split]
        curve, auc = figures["roc"].get("malignant"), figures["malignant_auc"]
        if curve is not None:
            points = " ".join(
                f"{_x(x):.1f},{_y(y):.1f}"
                for x, y in zip(curve["false_positive_rate"], curve["sensitivity"], strict=True)
            )
            parts.append(
                f'<polyline fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}" '
                f'points="{points}"/>'
            )
        y = _TOP + _SIDE + 62 + 18 * place
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + 26}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" '
            f'stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        parts.append(
            f'<text x="{_LEFT + 34}" y="{y}">{escape(run)}, {evaluation["selected"]["cnn"]}: '
            f"{escape(_text(auc))}</text>"
        )
    height = _TOP + _SIDE + 62 + 18 * len(runs)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _SIDE + _RIGHT} {height}" width="580" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#5d666f">'
        f"<title>{escape(title)}</title>"
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


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


def _x(value: float) -> float:
    return _LEFT + value * _SIDE


def _y(value: float) -> float:
    return _TOP + (1 - value) * _SIDE


def _frame() -> str:
    lines = [
        f'<polyline fill="none" stroke="#a0a9b2" stroke-dasharray="4 4" points="{_x(0)},{_y(0)} {_x(1)},{_y(1)}"/>'
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        lines.append(
            f'<line stroke="#e7eaed" x1="{_x(tick)}" x2="{_x(tick)}" y1="{_y(0)}" y2="{_y(1)}"/>'
            f'<line stroke="#e7eaed" x1="{_x(0)}" x2="{_x(1)}" y1="{_y(tick)}" y2="{_y(tick)}"/>'
            f'<text x="{_x(tick)}" y="{_y(0) + 16}" text-anchor="middle">{tick:g}</text>'
            f'<text x="{_LEFT - 8}" y="{_y(tick) + 4}" text-anchor="end">{tick:g}</text>'
        )
    lines.append(
        f'<text x="{_x(0.5)}" y="{_y(0) + 34}" text-anchor="middle">1 - specificity</text>'
        f'<text transform="translate(14 {_y(0.5)}) rotate(-90)" text-anchor="middle">sensitivity</text>'
    )
    return "".join(lines)
