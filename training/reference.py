"""What the answers of a model are compared with: scores and entropies on validation, features of the training films.

Fitted by Evaluate on training originals and validation, never on test; read where the model is served, without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from processing.errors import ConfigError
from training.bootstrap import Floats
from training.description import verified

REFERENCE_FILE = "reference.safetensors"

_ARRAYS = ("mean", "scale", "axes", "whitening", "residual")


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
        return cls(np.array(stated["malignancy_deciles"], np.float64), float(stated["entropy_limit"]),
                   float(strangeness["limit"]), arrays)

    def decile(self, score: float) -> int:
        """Return in which tenth of the validation scores a malignancy score (0..1) falls, 1 (least) to 10."""
        return int(np.searchsorted(self.malignancy_deciles, score, side="right")) + 1

    def strangeness(self, features: Floats) -> float:
        """Return how unlike the training films a film's features, (channels,), are; 0 to `strangeness_limit` is usual."""
        return float(strangeness_of(features[None], self.arrays)[0])


def strangeness_of(features: Floats, arrays: Mapping[str, Floats]) -> Floats:
    """Return for each row of features, (films, channels), its distance from the distribution."""
    scaled = (features - arrays["mean"]) / arrays["scale"]
    inside = scaled @ arrays["axes"].T
    left = scaled - inside @ arrays["axes"]
    distances = np.square(inside @ arrays["whitening"]).sum(axis=1)
    rest = np.square(left).sum(axis=1) / arrays["residual"]
    found: Floats = np.sqrt(distances + rest)
    return found
