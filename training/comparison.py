"""A breast beside the patient's other one, as a reader looks at them.

What speaks for a finding in both breasts alike is how this woman's breasts look; what speaks for it in one alone is a
reason to look again. So a share of what the other breast's images say is taken off an image's logits before breasts and
patients are scored. An image's own score stays what it is: one film has nothing to be compared with.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.rsna import shows_side
from mammopipe.training.metrics.bootstrap import Floats, Integers
from mammopipe.training.model.predictions import Kind, pick


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
