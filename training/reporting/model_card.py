"""Writes the model card: what the model is, its training data, its performance, its intended use and its limits.

Every number comes from `evaluation.json`. `model_card.md` is for readers. `model_card.json` has the schema of a
SageMaker model package's card. `registration.json` holds the same card as one string, because a pipeline can pass only
strings between steps.

Source: Mitchell et al. 2019, "Model Cards for Model Reporting" (https://arxiv.org/abs/1810.03993).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mammopipe.processing import declared_data
from mammopipe.processing.datasets.registry import DATASETS
from mammopipe.processing.files import write_bytes, write_json
from mammopipe.processing.splits import read_register
from mammopipe.training.fitting.reproducibility import STATEMENT
from mammopipe.training.reporting.package_card import package_card
from mammopipe.training.reporting.report import origin_of
from mammopipe.training.reporting.reporting_guidelines import COMPARED, lines

TEMPLATE = "model_card.md.j2"
CARD, PACKAGE_CARD, REGISTRATION = "model_card.md", "model_card.json", "registration.json"

SYNTHETIC = "Synthetic images in the layout of the named dataset; they show no patient and are free to use."

INTENDED = (
    "Research on mammogram classification: comparing methods, teaching, and testing the integration of such "
    "models. Users are researchers and engineers."
)
NOT_INTENDED = (
    "Diagnosis, triage, screening or any decision about a person. It is not a medical device, no authority has "
    "cleared it, and no figure here is from a prospective or external study."
)


def write_cards(evaluation: Mapping[str, Any], folder: Path) -> None:
    """Write `model_card.md`, `model_card.json` and `registration.json` for an evaluation."""
    card = package_card(
        evaluation,
        data="; ".join(data_licences(evaluation)),
        intended=INTENDED,
        not_intended=NOT_INTENDED,
        limits=list(limits(evaluation)),
    )
    write_bytes(folder / CARD, render_card(evaluation).encode())
    write_json(folder / PACKAGE_CARD, card)
    write_json(folder / REGISTRATION, {"model_card": json.dumps(card, sort_keys=True)})


def render_card(evaluation: Mapping[str, Any]) -> str:
    """Return `model_card.md`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,  # Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = words
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    selected = evaluation["selected"]
    candidate = evaluation["candidates"][selected["cnn"]]
    return environment.get_template(TEMPLATE).render(
        evaluation=evaluation,
        selected=selected,
        candidate=candidate,
        origin=origin_of(candidate),
        title=title(evaluation),
        licences=data_licences(evaluation),
        intended=INTENDED,
        not_intended=NOT_INTENDED,
        limits=list(limits(evaluation)),
        guidelines=list(lines()),
        guidelines_compared=COMPARED,
        reads_of=read_register.sentence,
        reproducibility=STATEMENT,
    )


def title(evaluation: Mapping[str, Any]) -> str:
    """Return the card's title, which names network, data and protocol."""
    kind = "Synthetic " if evaluation["synthetic"] else ""
    return (
        f"{evaluation['selected']['cnn']} on {kind}{evaluation['dataset'].upper()}, protocol {evaluation['protocol']}"
    )


def words(figure: Mapping[str, Any]) -> str:
    """Return a metric with its interval, three decimals each, or the reason why it is undefined."""
    if figure["value"] is None:
        return str(figure["reason"]).partition(":")[0]
    if figure["low"] is None:
        return f"{figure['value']:.3f} (no interval)"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def data_licences(evaluation: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each dataset with its licence and citation, or one sentence that the data are synthetic."""
    if evaluation["synthetic"]:
        return [f"{evaluation['dataset'].upper()}: {SYNTHETIC}"]
    return [str(DATASETS[name].terms) for name in evaluation["dataset"].split("+")]


def limits(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Yield the limitations that follow from the run and that a user must know to interpret the metrics."""
    test, training = evaluation["selected"]["test"], evaluation["counts"]["train"]
    if evaluation["synthetic"]:
        yield "The images are synthetic: no figure says anything about mammograms."
    if evaluation["profile"] == "quick":
        yield "Quick profile: the run only tested the software, and its figures mean nothing."
    if not evaluation["leakage"]["passed"]:
        yield f"The leakage audit {evaluation['leakage']['verdict']}. No figure can be trusted."
    if evaluation["protocol"] != "patient":
        yield (
            f"Protocol {evaluation['protocol']}: images of one patient may be in training and in test, so every "
            "figure is too good."
        )
    yield (
        f"Small data: {training['images']} training originals, {test['images']} test {evaluation['level']}s of "
        f"{test['patients']} patients. A difference smaller than the intervals may be due to chance."
    )
    if test["macro_auc"]["value"] is not None and test["macro_auc"]["low"] is None:
        yield "The test split is too small for an interval of the macro AUC: chance is not ruled out."
    elif test["macro_auc"]["value"] is not None and test["macro_auc"]["low"] <= 0.5:
        yield "On test, the interval of the macro AUC contains 0.5: chance is not ruled out."
    candidate = evaluation["candidates"][evaluation["selected"]["cnn"]]
    declared = declared_data.sentence(candidate.get("pretrained_weights"), evaluation["dataset"].split("+"))
    if declared:
        yield declared
    pointing = evaluation["pointing"]["test"]["both"]["above_chance"]
    if pointing["low"] is not None and pointing["low"] <= 0:
        yield "On test, it is not shown that the heatmap points at annotated lesions more often than chance."
    yield "Internal evaluation only: the test images are from the same collections as the training images."
    yield "The classes come from the collection's label table; the run knows neither the readers nor their agreement."
