"""What a model says of every image of one split, kept as logits so that calibration can be fitted on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from processing.records import ImageRecord, Split
from processing.rsna import breast_id
from training.artifact import LoadedModel
from training.bootstrap import Floats, Integers
from training.dataset import FilmDataset

BATCH = 16
"""Films a forward pass."""

_FILMS_AT_ONCE = 512
"""Films held in memory: they are read once for all candidates, a part after the other."""


@dataclass(frozen=True)
class Predictions:
    """One model's logits over one split, in the order of the manifest."""

    image_ids: tuple[str, ...]
    patients: tuple[str, ...]
    breasts: tuple[str, ...]
    """Of which breast each image is a view (`processing.rsna.breast_id`)."""
    labels: Integers
    """(images,) class index."""
    logits: Floats
    """(images, classes)."""

    split: ClassVar[Split]
    """Which split these are predictions of."""

    def probabilities(self, temperature: float) -> Floats:
        """Return the softmax of the logits divided by the temperature, float64 (images, classes)."""
        return softmax(self.logits / temperature)


class ValidationPredictions(Predictions):
    """Predictions on validation: what temperature, operating points and selection may be made of."""

    split = Split.VALIDATION


class TestPredictions(Predictions):
    """Predictions on the frozen test split: measured and shown, never chosen by."""

    split = Split.TEST
    __test__ = False  # not a class of tests, whatever its name


Kind = TypeVar("Kind", bound=Predictions)


def softmax(logits: npt.ArrayLike) -> Floats:
    """Return the probabilities of each row of logits, float64; rows sum to 1 however large the logits."""
    values = np.asarray(logits, np.float64)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def predict_split(kind: type[Kind], models: Mapping[str, LoadedModel], records: Sequence[ImageRecord], folder: Path, *,
                  shape: tuple[int, int]) -> dict[str, Kind]:
    """Return every model's predictions of the films `<folder>/<image_id>.png`, in float32, evaluation mode.

    Each film is decoded once for all models; a few hundred are in memory at a time. Raises `ManifestError` or
    `ImageError` for a film that is missing, damaged or not of `shape` (H, W).
    """
    parts: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in models}
    for start in range(0, len(records), _FILMS_AT_ONCE):
        films = FilmDataset(records[start : start + _FILMS_AT_ONCE], folder, shape=shape, description=folder.name)
        for name, model in models.items():
            parts[name].append(_logits(model, films, f"{name} on {folder.name}"))
    labels = np.array([item.label.rank for item in records], np.int64)
    names = (tuple(item.image_id for item in records), tuple(item.patient_id for item in records),
             tuple(breast_id(item) for item in records))
    return {name: kind(*names, labels, np.concatenate(rows).astype(np.float64)) for name, rows in parts.items()}


def _logits(model: LoadedModel, films: FilmDataset, title: str) -> npt.NDArray[np.float32]:
    rows = []
    for start in tqdm(range(0, len(films), BATCH), desc=title, unit="batch", disable=None, leave=False):
        batch = torch.stack([films[index][0] for index in range(start, min(start + BATCH, len(films)))])
        rows.append(model.predict_logits(batch).numpy())
    return np.concatenate(rows)
