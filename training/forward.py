"""The networks over the films of a split: logits of every candidate, and what the chosen one makes its answer of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from processing.records import ImageRecord
from processing.rsna import breast_id
from training.artifact import LoadedModel
from training.dataset import FilmDataset
from training.predictions import Kind

BATCH = 16
"""Films a forward pass."""

_FILMS_AT_ONCE = 512
"""Films held in memory: they are read once for all candidates, a part after the other."""


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
