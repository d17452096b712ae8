"""Checklist of two reporting guidelines, filled in as far as a run provides the information.

Sources: CLAIM (Mongan, Moy and Kahn 2020, https://doi.org/10.1148/ryai.2020200029) and TRIPOD+AI (Collins et al. 2024,
https://doi.org/10.1136/bmj-2023-078378). Item numbers are those of the guidelines.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mammopipe.training.fitting.reproducibility import STATEMENT


@dataclass(frozen=True)
class Item:
    """One item of the checklist."""

    topic: str
    claim: str
    """Item numbers in CLAIM."""
    tripod: str
    """Item numbers in TRIPOD+AI."""
    text: str
    filled: bool = True
    """Whether the run provides the information; otherwise `text` states who must provide it."""


def checklist(evaluation: Mapping[str, Any]) -> list[Item]:
    """Return the items for `evaluation.json`, in the order of a paper."""
    return [*_study(evaluation), *_methods(evaluation), *_results(evaluation), *_missing()]


def _study(evaluation: Mapping[str, Any]) -> list[Item]:
    counts = evaluation["counts"]
    sizes = "; ".join(
        f"{split} {item['images']} images of {item['patients']} patients" for split, item in counts.items()
    )
    return [
        Item(
            "Study design and goal",
            "5, 6",
            "3, 4",
            "Retrospective; development and internal evaluation of a "
            f"classifier into {', '.join(evaluation['classes'])}.",
        ),
        Item("Data sources", "7", "5a", f"{evaluation['dataset'].upper()}, a public collection; see Data and licence."),
        Item(
            "Preparation of images",
            "9",
            "7",
            "One function prepares images in training and in serving; settings in Images.",
        ),
        Item(
            "De-identification",
            "12",
            "17",
            "By the publishers of the data; the DICOM reader quarantines files whose header names a patient.",
        ),
        Item(
            "Sample size",
            "19",
            "10",
            f"What the collection holds: {sizes}. No calculation was made beforehand; the "
            "intervals show what the size allows.",
        ),
        Item(
            "Partitions",
            "20, 21",
            "12a, 16",
            f"Protocol {evaluation['protocol']}. Leakage audit: {evaluation['leakage']['verdict']}.",
        ),
    ]


def _methods(evaluation: Mapping[str, Any]) -> list[Item]:
    selected = evaluation["selected"]
    candidate = evaluation["candidates"][selected["cnn"]]
    software = ", ".join(f"{name} {number}" for name, number in evaluation["versions"].items())
    return [
        Item(
            "Model",
            "22",
            "12c, 22",
            f"{candidate['architecture']}; weights, preprocessing, temperature and thresholds are in model.tar.gz.",
        ),
        Item("Software", "23", "18e", f"{software}."),
        Item("Initialisation", "24", "12c", f"{candidate['initialisation']}."),
        Item(
            "Training",
            "25",
            "12c",
            f"{candidate['epochs_run']} epochs, the best was {candidate['best_epoch']}; "
            "augmentation of training images only.",
        ),
        Item("Choice of the model", "26", "12d", f"{selected['rule']}, of {len(evaluation['candidates'])}."),
        Item(
            "Measures and uncertainty",
            "28, 29",
            "12e",
            "AUC, accuracy, precision, recall, F1, calibration; "
            f"percentile bootstrap over patients, {evaluation['bootstrap']['resamples']} resamples.",
        ),
        Item("Explanation", "31", "15", "Grad-CAM; tested against annotated lesions (pointing game)."),
        Item(
            "Class imbalance",
            "25",
            "13",
            "Figures by class, balanced accuracy and the majority baseline stand beside accuracy.",
        ),
        Item("Reproducibility", "23, 41", "18e", STATEMENT),
    ]


def _results(evaluation: Mapping[str, Any]) -> list[Item]:
    groups = ", ".join(evaluation["selected"]["test"]["subgroups"]["by"]) or "none: every attribute has one value"
    return [
        Item("Performance", "35, 36", "23a", "See Figures: on validation and on the test split, with intervals."),
        Item(
            "Subgroups and fairness",
            "30, 34",
            "14, 23b",
            f"See Subgroups ({groups}). Ethnicity and other social factors are not in the data.",
        ),
        Item(
            "Failure analysis",
            "37",
            "23a",
            "Confusion matrices, and the surest wrong film of each class, in report.html.",
        ),
    ]


def _missing() -> list[Item]:
    """Return the items that a run cannot fill in."""
    asked = [
        ("Title, abstract, background", "1 to 3", "1 to 3", "the authors of a study"),
        ("Eligibility and dates", "8", "5b, 6", "the publishers of the data; neither dates nor clinics are in it"),
        (
            "Reference standard and readers",
            "14 to 18",
            "8",
            "the publishers of the data; readers and their agreement are not in it",
        ),
        ("Missing data", "13", "11", "the authors: what is empty in the label table is shown as not stated"),
        ("External validation", "32", "16", "another collection; no figure here is external"),
        ("Demographics", "34", "20b", "the publishers of the data, beyond what Subgroups shows"),
        (
            "Interpretation, limitations of the study",
            "38, 39",
            "25, 26",
            "the authors; Limits says what follows from the run",
        ),
        ("Registration, protocol, funding, ethics", "40 to 42", "17 to 18", "the authors"),
        ("Patient and public involvement", "none", "19", "the authors"),
        ("Use in practice", "39", "27", "nobody: research only"),
    ]
    return [
        Item(topic, claim, tripod, f"Cannot be filled from a run: {who}.", filled=False)
        for topic, claim, tripod, who in asked
    ]
