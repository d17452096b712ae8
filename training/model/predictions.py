"""A model's predictions for the images of one split, stored as logits so that a calibration can be fitted to them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from mammopipe.processing.classes import Classes, classes_of_number
from mammopipe.processing.datasets.manifest import ImageRecord, Split, breast_id
from mammopipe.processing.errors import MammopipeError
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.calibration import Floats as Floats
from mammopipe.training.model.calibration import softmax as softmax

Integers = npt.NDArray[np.int64]

FILE = "predictions.csv"
"""Every candidate's predictions for every evaluated image, with the truth; for error analysis and to compare runs.

On request, the training images are in it too, with split `train`.
"""
JUDGED = (Split.VALIDATION, Split.TEST)
"""The splits of the rows that metrics may be computed from."""


def columns(classes: Sequence[str]) -> list[str]:
    """Return the columns of `FILE`; each class's column holds its calibrated probability."""
    return ["network", "split", "image_id", "patient_id", "label", *classes]


class LeakError(MammopipeError, TypeError):
    """An attempt was made to fit something on data that may only be used for evaluation."""


@dataclass(frozen=True)
class Predictions:
    """One model's logits over one split, in the order of the manifest; a row is an image or a breast (`views`)."""

    image_ids: tuple[str, ...]
    patients: tuple[str, ...]
    breasts: tuple[str, ...]
    """The breast that each image shows (`mammopipe.processing.datasets.manifest.breast_id`)."""
    labels: Integers
    """(images,) class indices."""
    logits: Floats
    """(images, classes) logits before calibration."""
    views: tuple[tuple[str, ...], ...] | None = None
    """For rows that are breasts: the ids of all images of each breast; `image_ids` then has one representative image of
    each. `None` if each row is an image."""

    split: ClassVar[Split]
    """The split of the images."""

    @property
    def level(self) -> Level:
        """What a row is: an image, or a breast that was judged by all its views."""
        return Level.IMAGE if self.views is None else Level.BREAST

    @property
    def all_images(self) -> tuple[str, ...]:
        """The ids of all images that were judged."""
        return self.image_ids if self.views is None else tuple(image for views in self.views for image in views)

    @property
    def classes(self) -> Classes:
        """The classes of the logits; their number determines them."""
        return classes_of_number(self.logits.shape[1])

    @property
    def malignant_index(self) -> int:
        """Index of the malignant class."""
        return int(self.logits.shape[1]) - 1

    @classmethod
    def of(cls, records: Sequence[ImageRecord], labels: Integers, logits: npt.NDArray[np.floating[Any]]) -> Self:
        """Return the logits of images given by their records.

        Args:
            records: Manifest rows of the images.
            labels: (images,) class indices.
            logits: (images, classes); malignant is the last class.
        """
        return cls(
            tuple(record.image_id for record in records),
            tuple(record.patient_id for record in records),
            tuple(breast_id(record) for record in records),
            labels,
            np.asarray(logits, np.float64),
        )

    def probabilities(self, calibration: Calibration) -> Floats:
        """Return the calibrated probabilities, float64 (images, classes)."""
        return calibration.probabilities(self.logits)


def prediction_rows(network: str, predictions: Predictions, calibration: Calibration) -> Iterator[dict[str, str]]:
    """Yield the rows of `FILE` for a network's calibrated predictions, in their order."""
    of_class = dict(enumerate(predictions.classes))
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
    """Predictions on validation. Calibration, operating points and selection may be fitted on them."""

    split = Split.VALIDATION


class TestPredictions(Predictions):
    """Predictions on the frozen test split. They are evaluated and shown; nothing may be chosen or fitted on them."""

    split = Split.TEST
    __test__ = False  # The name begins with "Test", but pytest must not collect the class.


class TrainingPredictions(Predictions):
    """Predictions on images that the network was trained on; they are only listed, never measured or fitted."""

    split = Split.TRAIN


Kind = TypeVar("Kind", bound=Predictions)


def require_validation(predictions: Predictions, what: str) -> None:
    """Raise `LeakError` unless the predictions are those of the validation split.

    Args:
        predictions: The predictions.
        what: Name of what would be fitted on them, for the error message.
    """
    if not isinstance(predictions, ValidationPredictions):
        raise LeakError(
            f"{what}: must be fitted on predictions of split={Split.VALIDATION}, not of split={predictions.split}"
        )


def pick(predictions: Kind, places: Integers) -> Kind:
    """Return the predictions of a subset of the images, given by their positions."""
    return replace(
        predictions,
        image_ids=tuple(predictions.image_ids[place] for place in places),
        patients=tuple(predictions.patients[place] for place in places),
        breasts=tuple(predictions.breasts[place] for place in places),
        labels=predictions.labels[places],
        logits=predictions.logits[places],
        views=None if predictions.views is None else tuple(predictions.views[place] for place in places),
    )
