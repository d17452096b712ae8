"""Renders `report.html` of an external evaluation from `external.json`: one file, readable in light and dark."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mammopipe.processing.pages.template import environment
from mammopipe.training.reporting.figures import figure, look_up, number
from mammopipe.training.reporting.plots import decision_plot, precision_recall_plot, reliability_plot, roc_plot

TEMPLATE = "external.html.j2"


def render(found: Mapping[str, Any]) -> str:
    """Return the HTML page; every number on it comes from `external.json`."""
    pages = environment(Path(__file__).parent)
    pages.globals.update(
        figure=partial(figure, found),
        number=partial(number, found),
        look_up=partial(look_up, found),
        roc_plot=roc_plot,
        reliability_plot=reliability_plot,
        precision_recall_plot=precision_recall_plot,
        decision_plot=decision_plot,
    )
    return pages.get_template(TEMPLATE).render(found=found)
