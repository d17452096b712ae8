"""Applies the deployed predictor to every image of a labelled dataset, one image after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mammopipe.inference.prediction.heatmap import regions
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.classes import Classes, class_index, widest
from mammopipe.processing.datasets.manifest import ImageRecord, Label, breast_id
from mammopipe.processing.errors import ImageError
from mammopipe.processing.images.mammogram import Mammogram, read_mammogram
from mammopipe.training.model.predictions import Floats, TestPredictions

SOUGHT = (Label.MALIGNANT, Label.BENIGN)
"""Classes whose lesions the heatmap should show."""


@dataclass(frozen=True)
class Detection:
    """One region of an image's heatmap for malignant."""

    score: float
    """The image's probability of malignant, times the region's strength."""
    lesions: tuple[int, ...]
    """Indices of the image's lesions that contain the region's peak."""


@dataclass(frozen=True)
class Judged:
    """The model's prediction for one image of the dataset."""

    record: ImageRecord
    logits: Floats
    """(classes,), in the order of the model's classes."""
    entropy: float
    strangeness: float | None
    referred: bool
    quality: Mapping[str, Any]
    chance: float | None = None
    """Share of the breast's area that its lesions cover; `None` for an image without lesions."""
    detections: tuple[Detection, ...] = ()


@dataclass
class Judgement:
    """The images that could be judged, and the reasons why others could not."""

    images: list[Judged] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Image id and reason of each refused image."""

    def predictions(self, classes: Sequence[str]) -> TestPredictions:
        """Return the logits and the true labels as test predictions, on which nothing is fitted."""
        records = [image.record for image in self.images]
        return TestPredictions(
            tuple(record.image_id for record in records),
            tuple(record.patient_id for record in records),
            tuple(breast_id(record) for record in records),
            np.array([_class_of(record.label, classes) for record in records], np.int64),
            np.array([image.logits for image in self.images], np.float64).reshape(len(records), len(classes)),
        )

    @property
    def classes(self) -> Classes:
        """The classes of the images: the three if each occurs and no image is only known as negative, else the two."""
        return widest((image.record.label for image in self.images), required=True)


def _class_of(label: Label, classes: Sequence[str]) -> int:
    """Return the class index of a label; 0 for negative among three classes, where only malignant figures are made."""
    return 0 if label not in classes else class_index(label, classes)


def judge(
    predictor: Predictor, preprocessing: PreprocessConfig, records: Sequence[ImageRecord], folder: Path
) -> Judgement:
    """Return the model's predictions for the images; unreadable images and those without a breast count as refused.

    Args:
        predictor: The model as served.
        preprocessing: The model's preprocessing settings.
        records: The label table's record of each image.
        folder: Folder that the records' paths are relative to.
    """
    found = Judgement()
    for record in records:
        try:
            mammogram = read_mammogram(folder / record.path, record=record)
            found.images.append(_judged(predictor, preprocessing, record, mammogram))
        except ImageError as error:
            found.refused.append((record.image_id, str(error)))
    return found


def _judged(predictor: Predictor, preprocessing: PreprocessConfig, record: ImageRecord, mammogram: Mammogram) -> Judged:
    said = predictor.predict(mammogram)
    placed: dict[str, Any] = {}
    if record.lesions and record.label in SOUGHT:
        heat = predictor.explain(said, mammogram, Label.MALIGNANT).heat
        placed = {
            "chance": _covered(preprocessing, record, mammogram),
            "detections": tuple(
                Detection(
                    said.probabilities[Label.MALIGNANT] * region.strength,
                    tuple(
                        number
                        for number, lesion in enumerate(record.lesions)
                        if np.hypot(region.peak_x - lesion.x, region.peak_y - lesion.y) <= lesion.radius
                    ),
                )
                for region in regions(heat)
            ),
        }
    return Judged(
        record,
        np.asarray(said.forward.logits, np.float64),
        said.entropy,
        said.strangeness,
        said.referral.refer,
        said.prepared.quality,
        **placed,
    )


def _covered(preprocessing: PreprocessConfig, record: ImageRecord, mammogram: Mammogram) -> float:
    """Return the share of the breast that the lesions' circles cover, measured in the network's input."""
    prepared = preprocess(mammogram, preprocessing, record.lesions)
    breast = prepared.image > 0
    rows, columns = np.ogrid[: breast.shape[0], : breast.shape[1]]
    inside = np.zeros(breast.shape, bool)
    for lesion in prepared.lesions:
        inside |= np.hypot(columns - lesion.x, rows - lesion.y) <= lesion.radius
    return float((inside & breast).sum() / max(1, int(breast.sum())))


def rows(judgement: Judgement, probabilities: Floats, classes: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield one row per image for `predictions.csv`: ids, true label, calibrated probabilities, referral."""
    for image, shares in zip(judgement.images, probabilities, strict=True):
        record = image.record
        yield {
            "image_id": record.image_id,
            "patient_id": record.patient_id,
            "laterality": str(record.laterality or ""),
            "view": str(record.view or ""),
            "label": str(record.label),
            **{name: f"{share:.9g}" for name, share in zip(classes, shares, strict=True)},
            "referred": str(image.referred),
        }
