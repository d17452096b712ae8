"""`report.html`: one page for a radiologist and a reviewer, in one file, made of `evaluation.json` and a few films.

Every number on the page is looked up in `evaluation.json` by its path, which the page carries as `data-path`.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mammopipe.training.config import Learns
from mammopipe.training.fitting.reproducibility import STATEMENT
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.reporting.examples import Picture
from mammopipe.training.reporting.svg_plots import UNIT_TICKS, Axes, Line, plot, ticks

TEMPLATE = "report.html.j2"


def render(evaluation: Mapping[str, Any], pictures: Mapping[str, Picture]) -> str:
    """Return the page; `pictures` holds the example films by image id, and those without one are listed without it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        figure=partial(figure, evaluation),
        number=partial(number, evaluation),
        look_up=partial(look_up, evaluation),
        levels=partial(levels, evaluation),
        roc_plot=roc_plot,
        reliability_plot=reliability_plot,
        loss_plot=loss_plot,
        score_plot=score_plot,
        beside_chance=beside_chance,
        origin_of=origin_of,
    )
    return environment.get_template(TEMPLATE).render(
        evaluation=evaluation, pictures=pictures, reproducibility=STATEMENT
    )


def look_up(evaluation: Mapping[str, Any], path: str) -> Any:
    """Return what lies at a path such as `selected/validation/macro_auc`."""
    value: Any = evaluation
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def levels(evaluation: Mapping[str, Any], path: str) -> dict[str, str]:
    """Return the levels to show of the figures at a path, with titles that name the levels that are the same."""
    found = look_up(evaluation, path)
    titles: dict[str, str] = {}
    for level in (str(level) for level in Level if level in found):
        same = found[level].get("same_as")
        titles[same or level] = f"{titles[same]} = {level}" if same else level
    return titles


def figure(evaluation: Mapping[str, Any], path: str) -> Markup:
    """Return a figure and its interval as the page shows them, three decimals each, or why there is none."""
    found = look_up(evaluation, path)
    if found["value"] is None:
        return Markup('<span class="figure" data-path="{}" title="{}"><small>{}</small></span>').format(
            path, found["reason"], found["reason"].partition(":")[0]
        )
    bounds = "no interval" if found["low"] is None else f"{found['low']:.3f} to {found['high']:.3f}"
    return Markup('<span class="figure" data-path="{}"><b>{:.3f}</b> <small>{}</small></span>').format(
        path, found["value"], bounds
    )


def number(evaluation: Mapping[str, Any], path: str, style: str = "") -> Markup:
    """Return a plain value as the page shows it; `style` is a format such as `.3f`."""
    return Markup('<span class="number" data-path="{}" data-style="{}">{}</span>').format(
        path, style, format(look_up(evaluation, path), style)
    )


def origin_of(candidate: Mapping[str, Any]) -> str:
    """Return where a candidate's weights come from, in words."""
    if candidate["initialisation"] != "pretrained":
        return "trained from scratch, no pretrained weights"
    if candidate["learns"] == Learns.HEAD:
        return "pretrained body as it was, with a classifier that learnt"
    return "pretrained, then fine-tuned"


def beside_chance(found: Mapping[str, Any]) -> str:
    """Return what must be said beside an area under the curve that does not rule out chance, 0.5; else nothing."""
    if found["low"] is None:
        return "Too few images for an interval: chance is not ruled out."
    return "The interval holds 0.5, which is chance." if found["low"] <= 0.5 <= found["high"] else ""


def roc_plot(figures: Mapping[str, Any], title: str) -> Markup:
    """Return the one-vs-rest ROC curves of a scorecard."""
    lines = [
        Line(list(zip(curve["false_positive_rate"], curve["sensitivity"], strict=True)), f"of-{name}")
        for name, curve in figures["roc"].items()
        if curve is not None
    ]
    return plot(title, Axes("1 - specificity", "sensitivity", UNIT_TICKS, UNIT_TICKS), lines, diagonal=True)


def reliability_plot(figures: Mapping[str, Any], title: str) -> Markup:
    """Return accuracy over confidence of a scorecard; the area of a dot is the number of images in its bin."""
    bins = figures["reliability"]
    dots = [2.5 + 9 * (point["images"] / figures["images"]) ** 0.5 for point in bins]
    line = Line([(point["confidence"], point["accuracy"]) for point in bins], "of-all", dots)
    return plot(title, Axes("confidence", "accuracy", UNIT_TICKS, UNIT_TICKS), [line], diagonal=True)


def loss_plot(candidate: Mapping[str, Any], title: str) -> Markup:
    """Return the losses of training and validation by epoch."""
    return _curves(candidate, {"train_loss": "of-train", "validation_loss": "of-validation"}, "loss", title)


def score_plot(candidate: Mapping[str, Any], title: str) -> Markup:
    """Return validation macro AUC and balanced accuracy by epoch."""
    return _curves(
        candidate,
        {"validation_macro_auc": "of-auc", "validation_balanced_accuracy": "of-accuracy"},
        "on validation",
        title,
        unit=True,
    )


def _curves(
    candidate: Mapping[str, Any], series: Mapping[str, str], y_title: str, title: str, *, unit: bool = False
) -> Markup:
    history = candidate["history"]
    values = [epoch[name] for epoch in history for name in series]
    epochs = ticks(1, max(2, len(history)), whole=True)
    axes = Axes("epoch", y_title, [max(epochs[0], 0), *epochs[1:]], UNIT_TICKS if unit else ticks(0, max(values)))
    lines = [
        Line([(epoch["epoch"], epoch[name]) for epoch in history], style, [2.5] * len(history))
        for name, style in series.items()
    ]
    return plot(title, axes, lines, mark_x=candidate["best_epoch"])
