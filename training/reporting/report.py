"""Renders `report.html` from `evaluation.json` and example images: one self-contained page for radiologists and others.

Every number on the page comes from `evaluation.json`; its path there is in the attribute `data-path`.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mammopipe.processing.datasets.registry import DATASETS
from mammopipe.processing.pages.template import environment
from mammopipe.processing.splits import read_register
from mammopipe.training.config import Learns
from mammopipe.training.fitting.reproducibility import STATEMENT
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.reporting.examples import Picture
from mammopipe.training.reporting.figures import figure, look_up, number

TEMPLATES, TEMPLATE = Path(__file__).parent / "templates", "report.html.j2"


def render(evaluation: Mapping[str, Any], pictures: Mapping[str, Picture]) -> str:
    """Return the page.

    Args:
        evaluation: `evaluation.json`.
        pictures: Pictures of the examples by image id; examples without a picture are listed without one.
    """
    # Imported here, because matplotlib takes half a second to import and only reports need it.
    from mammopipe.training.reporting import plots

    pages = environment(TEMPLATES)
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
        chance_warning=chance_warning,
        origin_of=origin_of,
        reads_of=read_register.sentence,
        legend_of=legend_of,
    )
    return pages.get_template(TEMPLATE).render(
        evaluation=evaluation,
        case=evaluation["level"],
        pictures=pictures,
        reproducibility=STATEMENT,
        notes=[] if evaluation["synthetic"] else release_notes(evaluation["dataset"]),
    )


def release_notes(dataset: str) -> list[str]:
    """Return the notes about the releases of a dataset, or of several (`first+second`), that a reader must know."""
    return [DATASETS[name].terms.note for name in dataset.split("+") if name in DATASETS and DATASETS[name].terms.note]


def levels(evaluation: Mapping[str, Any], path: str) -> dict[str, str]:
    """Return the levels to show for the metrics at a path, with titles; equal levels share one title."""
    found = look_up(evaluation, path)
    titles: dict[str, str] = {}
    for level in (str(level) for level in Level if level in found):
        same = found[level].get("same_as")
        titles[same or level] = f"{titles[same]} = {level}" if same else level
    return titles


def origin_of(candidate: Mapping[str, Any]) -> str:
    """Return the origin of a candidate's weights as text."""
    if candidate["initialisation"] != "pretrained":
        return "trained from scratch, no pretrained weights"
    declared = ((candidate.get("pretrained_weights") or {}).get("declared") or {}).get("datasets")
    data = f"the weights' declared data: {', '.join(declared)}" if declared else "the weights' data are not declared"
    if candidate["learns"] == Learns.HEAD:
        return f"pretrained body, unchanged, with a newly trained classifier; {data}"
    return f"pretrained, then fine-tuned; {data}"


def legend_of(dataset: str) -> str:
    """Return the meanings of the words of a dataset's label table; "" if unknown."""
    return DATASETS[dataset].legend() if dataset in DATASETS else ""


def chance_warning(found: Mapping[str, Any]) -> str:
    """Return a warning if the interval of an AUC does not rule out chance (0.5), else an empty text."""
    if found["low"] is None:
        return "Too few images for an interval: chance is not ruled out."
    return "The interval contains 0.5, which is chance." if found["low"] <= 0.5 <= found["high"] else ""
