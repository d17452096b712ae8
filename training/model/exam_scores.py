"""Combines the scores of images into scores of breasts and patients.

The views of one breast are not independent cases, so breasts and patients are evaluated as cases of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.manifest import shows_side
from mammopipe.training.model.architecture import BreastRule as BreastRule
from mammopipe.training.model.architecture import Level as Level
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.predictions import Floats, Integers, Kind, Predictions, pick


@dataclass(frozen=True)
class Cases:
    """The cases of one level with their truth and their malignancy scores."""

    level: Level
    malignant: Integers
    """(cases,) 0 or 1; a case is malignant when any of its images is."""
    scores: Floats
    """(cases,) malignancy scores in 0..1."""
    images: Integers
    """(cases,) the position of one image of each case. The bootstrap draws whole patients, so it draws this image as
    often as its case."""


def malignancy(predictions: Predictions, calibration: Calibration) -> tuple[Integers, Floats]:
    """Return, for each image, whether it is malignant (0 or 1) and its calibrated probability of malignancy."""
    malignant = predictions.malignant_index
    return (predictions.labels == malignant).astype(np.int64), predictions.probabilities(calibration)[:, malignant]


def image_cases(predictions: Predictions, calibration: Calibration) -> Cases:
    """Return each row, an image or a breast, as a case, in the order of the predictions."""
    malignant, scores = malignancy(predictions, calibration)
    return Cases(predictions.level, malignant, scores, np.arange(len(scores)))


def cases_of(predictions: Predictions, calibration: Calibration, rule: BreastRule) -> dict[Level, Cases]:
    """Return the cases of each level.

    The rule combines images into breasts; a patient has the score of the most suspicious breast. Images are in the
    order of the predictions; breasts and patients are sorted by name. A patient's images of unknown laterality count as
    one breast. There is no level of images where the model judged breasts by all their views.
    """
    images = image_cases(predictions, calibration)
    if predictions.level is Level.BREAST:
        patients = combine(images, np.array(predictions.patients), Level.PATIENT, BreastRule.MAX)
        return {Level.BREAST: images, Level.PATIENT: patients}
    breasts = combine(images, np.array(predictions.breasts), Level.BREAST, rule)
    owners = np.array(predictions.patients)[breasts.images]
    return {
        Level.IMAGE: images,
        Level.BREAST: breasts,
        Level.PATIENT: combine(breasts, owners, Level.PATIENT, BreastRule.MAX),
    }


def combine(cases: Cases, names: np.ndarray[tuple[int], np.dtype[np.str_]], level: Level, rule: BreastRule) -> Cases:
    """Combine cases of the same name into cases, sorted by name.

    Args:
        cases: Cases of the lower level.
        names: (cases,), the combined case that each of them belongs to.
        level: Level of the result.
        rule: How scores are combined.
    """
    _, first, index = np.unique(names, return_index=True, return_inverse=True)
    malignant = np.zeros(len(first), np.int64)
    np.maximum.at(malignant, index, cases.malignant)
    return Cases(level, malignant, _combined(cases.scores, index, len(first), rule), cases.images[first])


def _combined(scores: Floats, index: Integers, cases: int, rule: BreastRule) -> Floats:
    if rule is BreastRule.MEAN:
        means: Floats = np.bincount(index, scores, cases) / np.bincount(index, minlength=cases)
        return means
    if rule is BreastRule.MAX:
        highest = np.zeros(cases)
        np.maximum.at(highest, index, scores)
        return highest
    missed = np.ones(cases)
    np.multiply.at(missed, index, 1 - scores)
    return 1 - missed


def both_breasts(patients: Sequence[str], breasts: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return, for each image, whether its patient has images of both breasts and none of unknown laterality.

    Args:
        patients: (images,), the patient of each image.
        breasts: (images,), the breast of each image (`mammopipe.processing.datasets.manifest.breast_id`).
    """
    sides: dict[str, set[str]] = {}
    for patient, breast in zip(patients, breasts, strict=True):
        sides.setdefault(patient, set()).add(breast)
    return np.array([len(sides[patient]) == 2 and all(map(shows_side, sides[patient])) for patient in patients], bool)


def beside_other(logits: Floats, patients: Sequence[str], breasts: Sequence[str], weight: float) -> Floats:
    """Subtract `weight` times the mean logits of the patient's other breast from the logits.

    Args:
        logits: (images, classes).
        patients: (images,), the patient of each image. Each must have two breasts (`both_breasts`).
        breasts: (images,), the breast of each image.
        weight: Weight of the other breast.

    Returns:
        (images, classes).
    """
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    _, first, breast = np.unique(np.asarray(breasts), return_index=True, return_inverse=True)
    means = np.zeros((len(first), logits.shape[1]))
    np.add.at(means, breast, logits)
    means /= np.bincount(breast)[:, None]
    # The other breast's mean is the sum over both breasts minus the breast's own mean.
    both = np.zeros((int(patient.max(initial=-1)) + 1, logits.shape[1]))
    np.add.at(both, patient[first], means)
    compared: Floats = logits - weight * (both[patient] - means[breast])
    return compared


def compared(predictions: Kind, weight: float) -> tuple[Kind, Integers]:
    """Compare each breast with the other (`beside_other`), for the patients with both breasts.

    Returns:
        The predictions of these patients' images, and the images' positions in the given predictions.
    """
    places = np.flatnonzero(both_breasts(predictions.patients, predictions.breasts))
    kept = pick(predictions, places)
    return replace(kept, logits=beside_other(kept.logits, kept.patients, kept.breasts, weight)), places
