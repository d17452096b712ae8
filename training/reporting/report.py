"""`report.html`: one page for a radiologist and a reviewer, in one file, made of `evaluation.json` and a few images.

Every number on the page is looked up in `evaluation.json` by its path, which the page carries as `data-path`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from mammopipe.training.config import Learns
from mammopipe.training.fitting.reproducibility import STATEMENT
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.reporting.examples import Picture
from mammopipe.training.reporting.pages import environment, figure, look_up, number

TEMPLATE = "report.html.j2"


def render(evaluation: Mapping[str, Any], pictures: Mapping[str, Picture]) -> str:
    """Return the page; `pictures` holds example images by image id, and those without one are listed without it."""
    from mammopipe.training.reporting import plots  # matplotlib takes half a second, which only reports need

    pages = environment()
    pages.globals.update(
        figure=partial(figure, evaluation),
        number=partial(number, evaluation),
        look_up=partial(look_up, evaluation),
        levels=partial(levels, evaluation),
        roc_plot=plots.roc_plot,
        reliability_plot=plots.reliability_plot,
        precision_recall_plot=plots.precision_recall_plot,
        decision_plot=plots.decision_plot,
        loss_plot=plots.loss_plot,
        score_plot=plots.score_plot,
        beside_chance=beside_chance,
        origin_of=origin_of,
    )
    return pages.get_template(TEMPLATE).render(evaluation=evaluation, pictures=pictures, reproducibility=STATEMENT)


def levels(evaluation: Mapping[str, Any], path: str) -> dict[str, str]:
    """Return the levels to show of the figures at a path, with titles that name the levels that are the same."""
    found = look_up(evaluation, path)
    titles: dict[str, str] = {}
    for level in (str(level) for level in Level if level in found):
        same = found[level].get("same_as")
        titles[same or level] = f"{titles[same]} = {level}" if same else level
    return titles


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
