"""Reads and writes the out-of-fold predictions of cross-validation.

For each development image, they hold the logits of a network that was not trained on it.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mammopipe.processing.classes import class_indices, classes_of_number
from mammopipe.processing.datasets.manifest import ImageRecord, breast_id
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256, write_csv
from mammopipe.training.model.description import DESCRIPTION_FILE, verify
from mammopipe.training.model.predictions import Floats, Integers, ValidationPredictions

FILE = "out_of_fold.csv"


@dataclass(frozen=True)
class OutOfFold:
    """The logits of each image from the network of the fold that held it out."""

    image_ids: tuple[str, ...]
    folds: Integers
    """(images,) fold numbers from 0."""
    logits: Floats
    """(images, classes)."""

    @classmethod
    def read(cls, directory: Path, description: Mapping[str, Any]) -> "OutOfFold | None":
        """Read the out-of-fold logits of a model directory; `None` for a model without cross-validation.

        Raises:
            ConfigError: The file is missing, altered, or not of this version.
        """
        stated = description["training"].get("cross_validation")
        if stated is None:
            return None
        path = directory / FILE
        verify(path, stated["sha256"], f"mammopipe.training.fitting.cross_validation.sha256 of {DESCRIPTION_FILE}")
        try:
            with path.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            names = _columns(description["classes"])
            logits = np.array([[float(row[name]) for name in names] for row in rows], np.float64)
            return cls(
                tuple(row["image_id"] for row in rows), np.array([int(row["fold"]) for row in rows], np.int64), logits
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: not the out-of-fold logits of this version: {error}") from None

    def of(self, records: Sequence[ImageRecord]) -> "OutOfFold":
        """Return the logits in the order of the records; raises `ConfigError` unless the images are the same."""
        place = {image_id: index for index, image_id in enumerate(self.image_ids)}
        names = tuple(record.image_id for record in records)
        if set(names) != set(place) or len(names) != len(self.image_ids):
            raise ConfigError(
                f"{FILE}: {len(place)} images of which {len(set(names) & set(place))} are among the "
                f"{len(names)} of the development set: a model is judged on the images it was made of"
            )
        order = [place[name] for name in names]
        return OutOfFold(names, self.folds[order], self.logits[order])

    def predictions(self, records: Sequence[ImageRecord]) -> ValidationPredictions:
        """Return the logits as validation predictions, for calibration, thresholds and model selection."""
        labels = class_indices(records, classes_of_number(self.logits.shape[1]))
        return ValidationPredictions(
            self.image_ids,
            tuple(record.patient_id for record in records),
            tuple(breast_id(record) for record in records),
            labels,
            self.of(records).logits,
        )


def _columns(classes: Sequence[str]) -> list[str]:
    return [f"logit_{label}" for label in classes]


def write_out_of_fold(
    directory: Path, records: Sequence[ImageRecord], folds: Sequence[int], logits: npt.NDArray[np.float32]
) -> str:
    """Write the logits, (images, classes), and return the file's SHA-256; only image ids identify the images."""
    names = _columns(classes_of_number(logits.shape[1]))
    rows = [
        {
            "image_id": record.image_id,
            "fold": str(fold),
            **{name: repr(float(value)) for name, value in zip(names, row, strict=True)},
        }
        for record, fold, row in zip(records, folds, logits, strict=True)
    ]
    write_csv(directory / FILE, ["image_id", "fold", *names], rows)
    return sha256(directory / FILE)
