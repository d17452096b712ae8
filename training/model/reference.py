"""What a model's answers are compared with: scores and entropies on validation, features of the films it learnt from.

Fitted by Evaluate on training originals and validation, never on test; read where the model is served, without torch.
Features are the means of the network's last maps. Their distribution is a normal one: the first principal axes of the
standardised features, within which the distance is Mahalanobis' with Ledoit and Wolf's covariance (2004,
https://doi.org/10.1016/S0047-259X(03)00096-4), and what the axes leave over, by its mean square.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256, write_bytes
from mammopipe.training.model.description import verified
from mammopipe.training.model.predictions import Floats, Integers

REFERENCE_FILE = "reference.safetensors"

ENTROPY_QUANTILE = 0.95
"""Of the entropies on validation: the one answer in twenty that says least is left to the reader."""
STRANGENESS_QUANTILE, STRANGENESS_MARGIN = 0.99, 1.15
"""The limit is this quantile of validation, times the margin: validation is small, and its own films must pass."""
MOST_FILMS = 2000
"""Films that the distribution is fitted on at most; more would hardly move it."""

_AXES, _FILMS_AN_AXIS = 16, 8
"""Most principal axes, and films that there must be for each."""
_LEAST_SPREAD = 0.1
"""Of the median deviation of the features: one that hardly varies in training is held to vary by so much."""
_TINY = 1e-6
"""Variance of standardised features, which films that are all alike would not reach."""
_ARRAYS = ("mean", "scale", "axes", "whitening", "residual")

T = TypeVar("T")


@dataclass(frozen=True)
class Reference:
    """What is usual for a model."""

    malignancy_deciles: Floats
    """(9,) inner bounds of the tenths of the calibrated malignancy scores on validation, 0..1."""
    entropy_limit: float
    """Nats, of the calibrated probabilities: above it an answer says too little."""
    strangeness_limit: float
    """Above it a film is unlike those the model was trained on."""
    arrays: Mapping[str, Floats]
    """Of the features' distribution."""

    @classmethod
    def read(cls, directory: Path, description: Mapping[str, Any]) -> "Reference | None":
        """Return the reference of a model directory, `None` where it has none; `ConfigError` for an altered file."""
        stated = description.get("reference")
        if stated is None:
            return None
        strangeness = stated["strangeness"]
        path = directory / strangeness["file"]
        content = verified(path, strangeness["sha256"], "one that reference.strangeness states")
        try:
            found = load_arrays(content)
            arrays = {name: np.asarray(found[name], np.float64) for name in _ARRAYS}
        except (SafetensorError, KeyError) as error:
            raise ConfigError(f"{path}: not a reference of this version: {error}") from None
        return cls(
            np.array(stated["malignancy_deciles"], np.float64),
            float(stated["entropy_limit"]),
            float(strangeness["limit"]),
            arrays,
        )

    def save(self, directory: Path) -> dict[str, Any]:
        """Write the arrays into a model directory and return the values for `reference` of `model.json`."""
        path = directory / REFERENCE_FILE
        write_bytes(path, save_arrays({name: np.ascontiguousarray(self.arrays[name], np.float32) for name in _ARRAYS}))
        return {
            "fitted_on": "validation",
            "malignancy_deciles": self.malignancy_deciles.tolist(),
            "entropy_limit": self.entropy_limit,
            "strangeness": {"file": path.name, "sha256": sha256(path), "limit": self.strangeness_limit},
        }

    def decile(self, score: float) -> int:
        """Return in which tenth of the validation scores a malignancy score (0..1) falls, 1 (least) to 10."""
        return int(np.searchsorted(self.malignancy_deciles, score, side="right")) + 1

    def strangeness(self, features: Floats) -> float:
        """Return how unlike the training films a film's features (channels,) are; up to the limit is usual."""
        return float(strangeness_of(features[None], self.arrays)[0])


def some(items: Sequence[T]) -> Sequence[T]:
    """Return at most `MOST_FILMS` of the items, evenly picked."""
    return items[:: -(-len(items) // MOST_FILMS)] if len(items) > MOST_FILMS else items


def entropy(probabilities: Floats) -> Floats:
    """Return the entropy of each row of probabilities, (films, classes), in nats."""
    logarithms = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    found: Floats = -(probabilities * logarithms).sum(axis=1)
    return found


def fit_reference(
    trained_on: Floats, validation: Floats, probabilities: Floats, *, malignant: int, folds: Integers | None = None
) -> Reference:
    """Return what is usual, from features of training originals and of validation, (films, channels).

    `probabilities`, (films, classes), are the calibrated ones of the validation films. `folds`, (films,), are those of
    films that were held out in turn: then no film's distance is from a distribution that it was part of.
    """
    arrays = fit_distribution(trained_on)
    distances = strangeness_of(validation, arrays) if folds is None else _held_out(validation, folds)
    return Reference(
        np.quantile(probabilities[:, malignant], np.arange(1, 10) / 10),
        float(np.quantile(entropy(probabilities), ENTROPY_QUANTILE)),
        STRANGENESS_MARGIN * float(np.quantile(distances, STRANGENESS_QUANTILE)),
        arrays,
    )


def _held_out(features: Floats, folds: Integers) -> Floats:
    distances = np.empty(len(features))
    for fold in np.unique(folds):
        distances[folds == fold] = strangeness_of(features[folds == fold], fit_distribution(features[folds != fold]))
    return distances


def fit_distribution(features: Floats) -> dict[str, Floats]:
    """Return the arrays of the features' distribution, (films, channels)."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    usual = float(np.median(deviation[deviation > 0])) if (deviation > 0).any() else 1.0
    scale = np.maximum(deviation, _LEAST_SPREAD * usual)
    scaled = (features - mean) / scale
    count = min(_AXES, max(1, len(features) // _FILMS_AN_AXIS), scaled.shape[1])
    axes = np.linalg.svd(scaled, full_matrices=False)[2][:count]
    inside = scaled @ axes.T
    left = scaled - inside @ axes
    # The axes' own coordinates are few beside the films: their covariance is well known but for the shrinkage.
    values, vectors = np.linalg.eigh(ledoit_wolf(inside))
    whitening = vectors / np.sqrt(np.maximum(values, _TINY) * count)
    arrays = {
        "mean": mean,
        "scale": scale,
        "axes": axes,
        "whitening": whitening,
        "residual": np.array(max(float(np.square(left).sum(axis=1).mean()), _TINY)),
    }
    # As they will be read: the limit belongs to the rounded numbers.
    return {name: np.asarray(array, np.float32).astype(np.float64) for name, array in arrays.items()}


def ledoit_wolf(rows: Floats) -> Floats:
    """Return the covariance of centred rows, (films, axes), shrunk to a multiple of the identity."""
    count, size = rows.shape
    sample = rows.T @ rows / count
    target = np.trace(sample) / size * np.eye(size)
    spread = float(np.square(sample - target).sum())
    error = float((np.square(rows).T @ np.square(rows)).sum() / count - np.square(sample).sum()) / count
    shrinkage = min(1.0, error / spread) if spread > 0 else 1.0
    shrunk: Floats = (1 - shrinkage) * sample + shrinkage * target
    return shrunk


def strangeness_of(features: Floats, arrays: Mapping[str, Floats]) -> Floats:
    """Return of each row of features, (films, channels), how far it lies from the distribution; about 1 is usual."""
    scaled = (features - arrays["mean"]) / arrays["scale"]
    inside = scaled @ arrays["axes"].T
    left = scaled - inside @ arrays["axes"]
    along = np.square(inside @ arrays["whitening"]).sum(axis=1)
    beside = np.square(left).sum(axis=1) / arrays["residual"]
    found: Floats = np.sqrt((along + beside) / 2)
    return found
