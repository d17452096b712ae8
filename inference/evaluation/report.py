"""`report.html` of an external evaluation: one file, readable in light and in dark, made of `external.json`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mammopipe.training.reporting.pages import environment, figure, look_up, number
from mammopipe.training.reporting.plots import decision_plot, precision_recall_plot, reliability_plot, roc_plot

TEMPLATE = "external.html.j2"


def render(found: Mapping[str, Any]) -> str:
    """Return the page; every number on it is looked up in `external.json` by its path."""
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
