"""Applies the deployed predictor to every image of a labelled dataset, one image after the other."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mammopipe.inference.contract.exclusions import Action
from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.contract.schema import ReferralCode
from mammopipe.inference.prediction.heatmap import regions
from mammopipe.inference.prediction.image_prediction import Prediction
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.classes import class_index
from mammopipe.processing.datasets.definition import LabelTable
from mammopipe.processing.datasets.lesion_masks import read_masks
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Lesion
from mammopipe.processing.errors import ImageError, LabelError
from mammopipe.processing.images.mammogram import Mammogram, ReadConfig, read_mammogram
from mammopipe.processing.jobs.journal import Journal
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.predictions import Floats, Integers, TestPredictions

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
    features: Floats | None = None
    """(channels,), the means of the last feature maps; only of a model that judges breasts."""
    unplaced: int = 0
    """Lesions of the label table that are left out: masks that show none, and circles outside of the image."""
    reasons: tuple[str, ...] = ()
    """Why the image is referred to a reader: values of `ReferralCode`."""

    def as_dict(self) -> dict[str, Any]:
        """Return the prediction as JSON values, with the lesions but without the rest of the record."""
        return {
            "logits": [float(value) for value in self.logits],
            "entropy": float(self.entropy),
            "strangeness": None if self.strangeness is None else float(self.strangeness),
            "referred": bool(self.referred),
            "quality": dict(self.quality),
            "chance": self.chance,
            "unplaced": self.unplaced,
            "reasons": list(self.reasons),
            "detections": [[float(found.score), list(found.lesions)] for found in self.detections],
            "lesions": [lesion.as_dict() for lesion in self.record.lesions],
            "features": None if self.features is None else [float(value) for value in self.features],
        }

    @classmethod
    def from_dict(cls, record: ImageRecord, values: Mapping[str, Any]) -> "Judged":
        """Return the prediction that `as_dict` wrote for an image."""
        lesions = tuple(Lesion(**{**item, "label": Label(item["label"])}) for item in values["lesions"])
        return cls(
            replace(record, lesions=lesions),
            np.array(values["logits"], np.float64),
            values["entropy"],
            values["strangeness"],
            values["referred"],
            values["quality"],
            values["chance"],
            tuple(Detection(score, tuple(found)) for score, found in values["detections"]),
            None if values["features"] is None else np.array(values["features"], np.float64),
            values["unplaced"],
            tuple(values["reasons"]),
        )


@dataclass
class Judgement:
    """The images that could be judged, and the reasons why others could not."""

    images: list[Judged] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Image id and reason of each refused image."""
    unlabelled: list[tuple[str, str]] = field(default_factory=list)
    """Image id and reason of each image that no row of the table names."""
    unjudged: list[ImageRecord] = field(default_factory=list)
    """Rows of the refused images whose row is in order."""

    def predictions(self, classes: Sequence[str]) -> TestPredictions:
        """Return the logits and the true labels of the images as test predictions, on which nothing is fitted."""
        records = [image.record for image in self.images]
        logits = np.array([image.logits for image in self.images], np.float64).reshape(len(records), len(classes))
        return TestPredictions.of(records, known_class_indices(records, classes), logits)


def known_class_indices(records: Iterable[ImageRecord], classes: Sequence[str]) -> Integers:
    """Return the class index of each row; 0 for negative among three classes, where only malignant figures are made."""
    labels = [record.label for record in records]
    known = [0 if label not in classes else class_index(label, classes) for label in labels]
    return np.array(known, np.int64)


def judge(
    predictor: Predictor, preprocessing: PreprocessConfig, table: LabelTable, folder: Path, journal: Journal
) -> Judgement:
    """Return the model's predictions for the images; unreadable images and those without a breast count as refused.

    Args:
        predictor: The model as served.
        preprocessing: The model's preprocessing settings.
        table: The label table of the images.
        folder: Folder that the records' paths are relative to.
        journal: Holds the images that an interrupted evaluation has judged; receives each image that is judged now.
    """
    found = Judgement(refused=list(table.refused), unlabelled=list(table.unlabelled))
    reading = ReadConfig(jpeg_files=True, for_processing=preprocessing.for_processing)
    outlined = any(record.lesions for record in table.records) or bool(table.masks)
    for record in tqdm(table.records, desc="Evaluate", unit="image", disable=not sys.stderr.isatty()):
        entry = journal.finished(record.image_id)
        if entry is None:
            try:
                known, unplaced = read_masks(record, table.masks.get(record.image_id, ()), folder)
                mammogram = read_mammogram(folder / record.path, record=record, config=reading)
                judged = _judged(predictor, preprocessing, known, mammogram, outlined)
                entry = replace(judged, unplaced=judged.unplaced + unplaced).as_dict()
            except (ImageError, LabelError) as error:
                entry = {"refused": str(error)}
            journal.add(record.image_id, entry)
        if "refused" in entry:
            found.refused.append((record.image_id, entry["refused"]))
            found.unjudged.append(record)
        else:
            found.images.append(Judged.from_dict(record, entry))
    return found


def _judged(
    predictor: Predictor, preprocessing: PreprocessConfig, record: ImageRecord, mammogram: Mammogram, outlined: bool
) -> Judged:
    """Return the prediction for one image; where the dataset has outlined lesions, also the heatmap's regions."""
    of_breasts = predictor.level is Level.BREAST
    prepared = predictor.prepare(mammogram)
    # In float32 for a model that judges breasts, as in serving: a bound on the rounding error of one view's score does
    # not bound the error of a score that is made of several views.
    prediction = predictor.judge(mammogram, prepared, operating_point=OperatingPoint.SENSITIVITY, exact=of_breasts)
    lesions = tuple(
        lesion
        for lesion in (_turned(lesion, mammogram) for lesion in record.lesions)
        if _reaches(lesion, *mammogram.pixels.shape)
    )
    placed: dict[str, Any] = {}
    if outlined:
        heat = predictor.explain(prediction, mammogram, Label.MALIGNANT).heat
        share = prediction.probabilities[Label.MALIGNANT]
        placed["detections"] = tuple(
            Detection(share * region.strength, _hit(lesions, region.peak_x, region.peak_y)) for region in regions(heat)
        )
    if lesions and record.label in SOUGHT:
        placed["chance"] = _covered(preprocessing, lesions, mammogram)
    return Judged(
        replace(record, lesions=lesions),
        np.asarray(prediction.forward.logits, np.float64),
        prediction.entropy,
        prediction.strangeness,
        prediction.referral.refer,
        prediction.prepared.quality,
        features=np.asarray(prediction.forward.features, np.float64) if of_breasts else None,
        unplaced=len(record.lesions) - len(lesions),
        reasons=_reasons(prediction),
        **placed,
    )


def _reasons(prediction: Prediction) -> tuple[str, ...]:
    """Return why an image is referred to a reader; where the model is not intended for it, by the kind of image."""
    kinds = [
        f"{ReferralCode.EXCLUDED} as {each.flag}" for each in prediction.exclusions if each.action is not Action.WARN
    ]
    others = [str(reason.code) for reason in prediction.referral.reasons if reason.code is not ReferralCode.EXCLUDED]
    return tuple(dict.fromkeys([*kinds, *others]))


def _reaches(lesion: Lesion, rows: int, columns: int) -> bool:
    """Return whether a part of a lesion's circle lies in the image."""
    x, y = min(max(lesion.x, 0), columns - 1), min(max(lesion.y, 0), rows - 1)
    return bool(np.hypot(x - lesion.x, y - lesion.y) <= lesion.radius)


def _turned(lesion: Lesion, mammogram: Mammogram) -> Lesion:
    """Return a lesion in pixels of the mammogram, which the reader may have mirrored or turned."""
    if not mammogram.turn:
        return lesion
    x, y = mammogram.turn.from_stored(lesion.x, lesion.y)
    return replace(lesion, x=x, y=y)


def _hit(lesions: Sequence[Lesion], x: float, y: float) -> tuple[int, ...]:
    """Return the indices of the lesions that contain a point."""
    return tuple(
        number for number, lesion in enumerate(lesions) if np.hypot(x - lesion.x, y - lesion.y) <= lesion.radius
    )


def _covered(preprocessing: PreprocessConfig, lesions: Iterable[Lesion], mammogram: Mammogram) -> float:
    """Return the share of the breast that the lesions' circles cover, measured in the network's input."""
    prepared = preprocess(mammogram, preprocessing, lesions)
    breast = prepared.image > 0
    rows, columns = np.ogrid[: breast.shape[0], : breast.shape[1]]
    inside = np.zeros(breast.shape, bool)
    for lesion in prepared.lesions:
        inside |= np.hypot(columns - lesion.x, rows - lesion.y) <= lesion.radius
    return float((inside & breast).sum() / max(1, int(breast.sum())))
