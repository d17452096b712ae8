"""The figures of films that are watched once a model is served, and their distributions where it learnt.

    image          the tissue's levels before normalisation, and its detail   `mammopipe.processing.tissue_levels`
    segmentation   what was found of breast and muscle, and whether anything looked wrong
    `mammopipe.processing.breast.segmentation`
    score          the calibrated malignancy score and the entropy, of validation films alone

They lie in `model.json` under `reference.distributions`: by name, then for all films, each machine and each site.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.training.model.distributions import Distribution, Floats, fit_distributions
from mammopipe.training.model.reference import entropy

IMAGE = ("level_low", "level_mid", "level_high", "detail")
SEGMENTATION = (
    "coverage",
    "air_level",
    "threshold",
    "chest_side_evidence",
    "pectoral_share",
    "pectoral_contrast",
    "flagged",
)
SCORE = ("malignancy", "entropy")
FIGURES = (*IMAGE, *SEGMENTATION, *SCORE)
EVERYTHING = "all"
LEAST_EXAMS = 30
"""Patients of a machine or a site below which it has no distribution of its own."""

Distributions = Mapping[str, Mapping[str, Distribution]]
"""By group (`all`, `machine 21`, `site 1`), then by figure."""


def film_figures(quality: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of image and segmentation in a film's `quality`; what it does not hold is left out."""
    found = {name: float(quality[name]) for name in (*IMAGE, *SEGMENTATION) if name in quality}
    if "chest_side_evidence" in found:
        # Its sign is the side of the body.
        found["chest_side_evidence"] = abs(found["chest_side_evidence"])
    if "flags" in quality:
        found["flagged"] = float(bool(quality["flags"]))
    return found


def groups_of(machine: str, site: str) -> list[str]:
    """Return the groups that a film belongs to; an unknown machine or site makes none."""
    named = [f"machine {machine}"] if machine else []
    return [EVERYTHING, *named, *([f"site {site}"] if site else [])]


def fit_usual(
    trained_on: Sequence[ImageRecord], validation: Sequence[ImageRecord], probabilities: Floats, *, malignant: int
) -> dict[str, Any]:
    """Return the JSON values of `reference.distributions`.

    `probabilities`, (films, classes), are the calibrated ones of the validation films: those of films that the network
    learnt from would be surer than any that it is shown later.
    """
    scores = [
        {"malignancy": float(row[malignant]), "entropy": float(nats)}
        for row, nats in zip(probabilities, entropy(probabilities), strict=True)
    ]
    judged = {record.image_id for record in validation}
    rows = [(record, film_figures(record.quality)) for record in trained_on if record.image_id not in judged]
    rows += [
        (record, {**film_figures(record.quality), **score}) for record, score in zip(validation, scores, strict=True)
    ]
    members: dict[str, list[tuple[str, Mapping[str, float]]]] = defaultdict(list)
    for record, figures in rows:
        for group in groups_of(record.machine_id, record.site_id):
            members[group].append((f"{record.dataset} {record.patient_id}", figures))
    return to_json(
        {
            group: fit_distributions([figures for _, figures in films], [exam for exam, _ in films])
            for group, films in members.items()
            if group == EVERYTHING or len({exam for exam, _ in films}) >= LEAST_EXAMS
        }
    )


def to_json(distributions: Distributions) -> dict[str, Any]:
    """Return distributions as JSON values."""
    return {group: {name: each.to_json() for name, each in figures.items()} for group, figures in distributions.items()}


def from_json(values: Mapping[str, Any]) -> dict[str, dict[str, Distribution]]:
    """Return distributions from their JSON values; raises `ConfigError` or `KeyError` for what are none."""
    return {
        group: {name: Distribution.from_json(each) for name, each in figures.items()}
        for group, figures in values.items()
    }
