"""What a model says of every image of one split, kept as logits so that calibration can be fitted on them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.manifest import Label, Split
from mammopipe.processing.errors import MammopipeError
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.calibration import Floats as Floats
from mammopipe.training.model.calibration import softmax as softmax

Integers = npt.NDArray[np.int64]

FILE = "predictions.csv"
"""What every candidate says of every image that is judged, with the truth: to look at errors, and to compare runs."""
COLUMNS = ["network", "split", "image_id", "patient_id", "label", *Label]
"""Of `FILE`; under each class its calibrated probability."""


class LeakError(MammopipeError, TypeError):
    """Something was about to be fitted on what may only be measured."""


@dataclass(frozen=True)
class Predictions:
    """One model's logits over one split, in the order of the manifest."""

    image_ids: tuple[str, ...]
    patients: tuple[str, ...]
    breasts: tuple[str, ...]
    """Of which breast each image is a view (`mammopipe.processing.datasets.rsna.breast_id`)."""
    labels: Integers
    """(images,) class index."""
    logits: Floats
    """(images, classes)."""
    malignant_index: int = Label.MALIGNANT.rank
    """Place of the malignant class among the classes."""

    split: ClassVar[Split]
    """Which split these are predictions of."""

    def probabilities(self, calibration: Calibration) -> Floats:
        """Return the calibrated probabilities, float64 (images, classes)."""
        return calibration.probabilities(self.logits)


def prediction_rows(network: str, predictions: Predictions, calibration: Calibration) -> Iterator[dict[str, str]]:
    """Yield the rows of `FILE` of a network's calibrated predictions, in their order."""
    of_class = dict(enumerate(Label))
    for place, shares in enumerate(predictions.probabilities(calibration)):
        yield {
            "network": network,
            "split": str(predictions.split),
            "image_id": predictions.image_ids[place],
            "patient_id": predictions.patients[place],
            "label": of_class[int(predictions.labels[place])],
            **{label: f"{shares[rank]:.9g}" for rank, label in of_class.items()},
        }


class ValidationPredictions(Predictions):
    """Predictions on validation: what temperature, operating points and selection may be made of."""

    split = Split.VALIDATION


class TestPredictions(Predictions):
    """Predictions on the frozen test split: measured and shown, never chosen by."""

    split = Split.TEST
    __test__ = False  # not a class of tests, whatever its name


Kind = TypeVar("Kind", bound=Predictions)


def require_validation(predictions: Predictions, what: str) -> None:
    """Raise `LeakError` unless these are predictions of validation; `what` names what would be fitted on them."""
    if not isinstance(predictions, ValidationPredictions):
        raise LeakError(
            f"{what}: would be fitted on predictions of split={predictions.split}; "
            f"only those of {Split.VALIDATION} may be"
        )


def pick(predictions: Kind, places: Integers) -> Kind:
    """Return the predictions of some of the images, by their places."""
    return replace(
        predictions,
        image_ids=tuple(predictions.image_ids[place] for place in places),
        patients=tuple(predictions.patients[place] for place in places),
        breasts=tuple(predictions.breasts[place] for place in places),
        labels=predictions.labels[places],
        logits=predictions.logits[places],
    )
