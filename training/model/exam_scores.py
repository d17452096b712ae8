"""From the scores of images to those of breasts and patients: the views of one breast are not independent findings."""

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
    """What is malignant or not at one level, and how surely it is called so."""

    level: Level
    malignant: Integers
    """(cases,) 0 or 1; a case is malignant when any of its images is."""
    scores: Floats
    """(cases,) in 0..1."""
    images: Integers
    """(cases,) the place of one image of each case: patients are drawn whole, so it is drawn as often as its case."""


def malignancy(predictions: Predictions, calibration: Calibration) -> tuple[Integers, Floats]:
    """Return for each image whether it is malignant (0 or 1) and its calibrated probability of being so."""
    malignant = predictions.malignant_index
    return (predictions.labels == malignant).astype(np.int64), predictions.probabilities(calibration)[:, malignant]


def image_cases(predictions: Predictions, calibration: Calibration) -> Cases:
    """Return every image as a case, in the order of the predictions."""
    malignant, scores = malignancy(predictions, calibration)
    return Cases(Level.IMAGE, malignant, scores, np.arange(len(scores)))


def cases_of(predictions: Predictions, calibration: Calibration, rule: BreastRule) -> dict[Level, Cases]:
    """Return the cases of each level: images, breasts by the rule, patients by their most suspicious breast.

    Images are in the order of the predictions, breasts and patients in that of their names. Images of a patient whose
    laterality is unknown count as one breast.
    """
    images = image_cases(predictions, calibration)
    breasts = combine(images, np.array(predictions.breasts), Level.BREAST, rule)
    owners = np.array(predictions.patients)[breasts.images]
    return {
        Level.IMAGE: images,
        Level.BREAST: breasts,
        Level.PATIENT: combine(breasts, owners, Level.PATIENT, BreastRule.MAX),
    }


def combine(parts: Cases, names: np.ndarray[tuple[int], np.dtype[np.str_]], level: Level, rule: BreastRule) -> Cases:
    """Return the cases that parts of the same name make up, in the order of the names (parts,)."""
    _, first, index = np.unique(names, return_index=True, return_inverse=True)
    malignant = np.zeros(len(first), np.int64)
    np.maximum.at(malignant, index, parts.malignant)
    return Cases(level, malignant, _combined(parts.scores, index, len(first), rule), parts.images[first])


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
    """Return for each image whether both breasts of its patient are there and none of her images is of unknown side.

    `patients` and `breasts` name those of each image (`mammopipe.processing.datasets.rsna.breast_id`).
    """
    sides: dict[str, set[str]] = {}
    for patient, breast in zip(patients, breasts, strict=True):
        sides.setdefault(patient, set()).add(breast)
    return np.array([len(sides[patient]) == 2 and all(map(shows_side, sides[patient])) for patient in patients], bool)


def beside_other(logits: Floats, patients: Sequence[str], breasts: Sequence[str], weight: float) -> Floats:
    """Return the logits, (images, classes), less `weight` times the mean of those of the patient's other breast.

    Every patient must have two breasts (`both_breasts`).
    """
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    _, first, breast = np.unique(np.asarray(breasts), return_index=True, return_inverse=True)
    means = np.zeros((len(first), logits.shape[1]))
    np.add.at(means, breast, logits)
    means /= np.bincount(breast)[:, None]
    # The other of two: their sum less the own.
    both = np.zeros((int(patient.max(initial=-1)) + 1, logits.shape[1]))
    np.add.at(both, patient[first], means)
    compared: Floats = logits - weight * (both[patient] - means[breast])
    return compared


def compared(predictions: Kind, weight: float) -> tuple[Kind, Integers]:
    """Return the predictions of the patients with both breasts, each beside the other, and their places before."""
    places = np.flatnonzero(both_breasts(predictions.patients, predictions.breasts))
    kept = pick(predictions, places)
    return replace(kept, logits=beside_other(kept.logits, kept.patients, kept.breasts, weight)), places
