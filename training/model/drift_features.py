"""Defines the image features that are monitored for drift, and fits their reference distributions.

    image          grey levels of the tissue before normalisation, and its detail
                   (`mammopipe.processing.breast.preprocess.tissue_levels`)
    segmentation   measurements of breast and pectoral muscle, and whether a flag was set
                   (`mammopipe.processing.breast.segmentation`)
    score          calibrated malignancy score and entropy, of validation images only

`model.json` holds the distributions under `reference.distributions`: by group (all images, each machine, each site),
then by feature.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.training.model.distributions import FeatureHistogram, Floats, fit_distributions
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
"""Minimum number of patients for a separate distribution of a machine or a site."""

Distributions = Mapping[str, Mapping[str, FeatureHistogram]]
"""Distributions by group (`all`, `machine 21`, `site 1`), then by feature."""


def image_figures(quality: Mapping[str, Any]) -> dict[str, float]:
    """Return the image and segmentation features that an image's `quality` contains."""
    found = {name: float(quality[name]) for name in (*IMAGE, *SEGMENTATION) if name in quality}
    if "chest_side_evidence" in found:
        # Its sign only states the side of the body.
        found["chest_side_evidence"] = abs(found["chest_side_evidence"])
    if "flags" in quality:
        found["flagged"] = float(bool(quality["flags"]))
    return found


def groups_of(machine: str, site: str) -> list[str]:
    """Return the groups that an image belongs to; an unknown (empty) machine or site gives no group."""
    named = [f"machine {machine}"] if machine else []
    return [EVERYTHING, *named, *([f"site {site}"] if site else [])]


def fit_drift_reference(
    trained_on: Sequence[ImageRecord], validation: Sequence[ImageRecord], probabilities: Floats, *, malignant: int
) -> dict[str, Any]:
    """Fit the distributions and return the JSON values of `reference.distributions`.

    Scores come from validation only, because the network is more confident on images that it was trained on.

    Args:
        trained_on: Training originals.
        validation: Validation images.
        probabilities: Calibrated probabilities of the validation images, (images, classes).
        malignant: Index of the malignant class.
    """
    scores = [
        {"malignancy": float(row[malignant]), "entropy": float(nats)}
        for row, nats in zip(probabilities, entropy(probabilities), strict=True)
    ]
    judged = {record.image_id for record in validation}
    rows = [(record, image_figures(record.quality)) for record in trained_on if record.image_id not in judged]
    rows += [
        (record, {**image_figures(record.quality), **score}) for record, score in zip(validation, scores, strict=True)
    ]
    members: dict[str, list[tuple[str, Mapping[str, float]]]] = defaultdict(list)
    for record, figures in rows:
        for group in groups_of(record.machine_id, record.site_id):
            members[group].append((f"{record.dataset} {record.patient_id}", figures))
    return to_json(
        {
            group: fit_distributions([figures for _, figures in images], [exam for exam, _ in images])
            for group, images in members.items()
            if group == EVERYTHING or len({exam for exam, _ in images}) >= LEAST_EXAMS
        }
    )


def to_json(distributions: Distributions) -> dict[str, Any]:
    """Return distributions as JSON values."""
    return {group: {name: each.to_json() for name, each in figures.items()} for group, figures in distributions.items()}


def from_json(values: Mapping[str, Any]) -> dict[str, dict[str, FeatureHistogram]]:
    """Return distributions from their JSON values; raises `ConfigError` or `KeyError` for invalid values."""
    return {
        group: {name: FeatureHistogram.from_json(each) for name, each in figures.items()}
        for group, figures in values.items()
    }
