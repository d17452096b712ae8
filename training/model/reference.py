"""Reference data for a model's answers: scores and entropies on validation, and features of the training images.

The evaluation job fits the reference on training originals and validation, never on test. The server reads it without
torch.

Features are the means of the network's last feature maps. Their distribution is modelled as normal. The distance of an
image combines two parts: the Mahalanobis distance within the first principal axes of the standardised features, with
Ledoit and Wolf's covariance (2004, https://doi.org/10.1016/S0047-259X(03)00096-4), and the squared residual outside of
these axes, relative to its mean.
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
"""Quantile of the entropies on validation. With it, one answer in twenty is too uncertain and is left to the reader."""
STRANGENESS_QUANTILE, STRANGENESS_MARGIN = 0.99, 1.15
"""The limit is this quantile of the distances on validation, times the margin, because validation is small and its own
images must pass."""
MOST_IMAGES = 2000
"""Maximum number of images for fitting the distribution; more would hardly change it."""

_AXES, _IMAGES_AN_AXIS = 16, 8
"""Maximum number of principal axes, and minimum number of images for each axis."""
_LEAST_SPREAD = 0.1
"""Minimum standard deviation of a feature, relative to the median of all features. Without it, tiny changes of features
that hardly vary in training would dominate the distance."""
_TINY = 1e-6
"""Minimum variance, so that identical images cause no division by 0."""
_ARRAYS = ("mean", "scale", "axes", "whitening", "residual")

T = TypeVar("T")


@dataclass(frozen=True)
class Reference:
    """The reference data of one model."""

    malignancy_deciles: Floats
    """(9,) deciles of the calibrated malignancy scores on validation, in 0..1."""
    entropy_limit: float
    """Limit of the entropy of the calibrated probabilities, in nats. Above it, the answer is too uncertain."""
    strangeness_limit: float
    """Limit of the distance. Above it, an image is unlike the training images."""
    arrays: Mapping[str, Floats]
    """Arrays of the features' distribution (`fit_distribution`)."""

    @classmethod
    def read(cls, directory: Path, description: Mapping[str, Any]) -> "Reference | None":
        """Return the reference of a model directory, or `None` where it has none.

        Raises:
            ConfigError: The file is missing, altered, or of another version.
        """
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
        """Write the arrays into a model directory and return the JSON values of `reference` in `model.json`."""
        path = directory / REFERENCE_FILE
        write_bytes(path, save_arrays({name: np.ascontiguousarray(self.arrays[name], np.float32) for name in _ARRAYS}))
        return {
            "fitted_on": "validation",
            "malignancy_deciles": self.malignancy_deciles.tolist(),
            "entropy_limit": self.entropy_limit,
            "strangeness": {"file": path.name, "sha256": sha256(path), "limit": self.strangeness_limit},
        }

    def decile(self, score: float) -> int:
        """Return the tenth of the validation scores that contains a malignancy score (0..1): 1 (lowest) to 10."""
        return int(np.searchsorted(self.malignancy_deciles, score, side="right")) + 1

    def strangeness(self, features: Floats) -> float:
        """Return the distance of an image's features, (channels,), from the training images."""
        return float(strangeness_of(features[None], self.arrays)[0])


def spaced_sample(items: Sequence[T]) -> Sequence[T]:
    """Return at most `MOST_IMAGES` of the items, evenly spaced."""
    return items[:: -(-len(items) // MOST_IMAGES)] if len(items) > MOST_IMAGES else items


def entropy(probabilities: Floats) -> Floats:
    """Return the entropy, (images,) in nats, of probabilities, (images, classes)."""
    logarithms = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    found: Floats = -(probabilities * logarithms).sum(axis=1)
    return found


def fit_reference(
    trained_on: Floats, validation: Floats, probabilities: Floats, *, malignant: int, folds: Integers | None = None
) -> Reference:
    """Fit the reference data.

    Args:
        trained_on: Features of the training originals, (images, channels).
        validation: Features of the validation images, (images, channels).
        probabilities: Calibrated probabilities of the validation images, (images, classes).
        malignant: Index of the malignant class.
        folds: Fold of each validation image, (images,), with cross-validation. Each image's distance is then measured
            from a distribution fitted on the other folds.
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
    """Fit the distribution of features, (images, channels), and return its arrays.

    Returns:
        {"mean": (channels,), "scale": (channels,), "axes": (axes, channels), "whitening": (axes, axes),
        "residual": ()}.
    """
    from sklearn.covariance import ledoit_wolf

    mean, deviation = features.mean(axis=0), features.std(axis=0)
    median = float(np.median(deviation[deviation > 0])) if (deviation > 0).any() else 1.0
    scale = np.maximum(deviation, _LEAST_SPREAD * median)
    scaled = (features - mean) / scale
    count = min(_AXES, max(1, len(features) // _IMAGES_AN_AXIS), scaled.shape[1])
    axes = np.linalg.svd(scaled, full_matrices=False)[2][:count]
    inside = scaled @ axes.T
    outside = scaled - inside @ axes
    # There are few axes relative to the number of images, so their covariance needs little shrinkage.
    values, vectors = np.linalg.eigh(ledoit_wolf(inside, assume_centered=True)[0])
    whitening = vectors / np.sqrt(np.maximum(values, _TINY) * count)
    arrays = {
        "mean": mean,
        "scale": scale,
        "axes": axes,
        "whitening": whitening,
        "residual": np.array(max(float(np.square(outside).sum(axis=1).mean()), _TINY)),
    }
    # The file stores float32. The limit must be computed from the same rounded values.
    return {name: np.asarray(array, np.float32).astype(np.float64) for name, array in arrays.items()}


def strangeness_of(features: Floats, arrays: Mapping[str, Floats]) -> Floats:
    """Return the distance, (images,), of features, (images, channels), from the distribution; about 1 is typical."""
    scaled = (features - arrays["mean"]) / arrays["scale"]
    inside = scaled @ arrays["axes"].T
    outside = scaled - inside @ arrays["axes"]
    along = np.square(inside @ arrays["whitening"]).sum(axis=1)
    across = np.square(outside).sum(axis=1) / arrays["residual"]
    # Each term has a mean of about 1 on training images.
    found: Floats = np.sqrt((along + across) / 2)
    return found
