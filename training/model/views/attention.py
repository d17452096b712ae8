"""Scores a breast from all its views by attention; needs no torch.

The network computes the logits of each view separately, and its features: the means of the last feature maps. A small
layer, trained with the network, computes a weight of each view from its features; the weights of a breast's views sum
to 1. The logits of a breast are the weighted mean of its views' logits. With a linear classifier, this equals attention
over the features before the classifier. A model that uses the other side adds a learnt matrix times the weighted mean
of the logits of the patient's other breast, or nothing if there is no view of it.

A breast with one view, and none of the other side, has the logits of that view. The order of the views does not matter.

Source: gated attention, Ilse et al. 2018, "Attention-based Deep Multiple Instance Learning"
(https://arxiv.org/abs/1802.04712).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.calibration import Floats
from mammopipe.training.model.description import DESCRIPTION_FILE, WEIGHTS_FILE, verified

HIDDEN = 64
"""Width of the layer that computes the attention."""
PREFIX = "views."
"""Prefix of the names of the layer's tensors in the model's weights."""


class ViewMask(IntEnum):
    """The value of a view in the mask of a breast's views."""

    ABSENT = 0
    """No view: the position only pads the batch, and its pixels are not used."""
    OWN = 1
    """A view of the breast."""
    OTHER = 2
    """A view of the patient's other breast."""


@dataclass(frozen=True)
class ViewAttention:
    """The attention of a breast-level model."""

    content: Floats
    """(hidden, channels)."""
    content_bias: Floats
    """(hidden,)."""
    gate: Floats
    """(hidden, channels)."""
    gate_bias: Floats
    """(hidden,)."""
    score: Floats
    """(hidden,)."""
    other: Floats | None
    """(classes, classes); `None` for a model that does not use the other side."""

    @classmethod
    def read(cls, directory: Path, description: Mapping[str, Any]) -> Self | None:
        """Read the attention from a model directory; `None` for a model that judges images.

        Raises:
            ConfigError: The weights are missing, altered, or lack the attention.
        """
        if not of_breasts(description):
            return None
        path = directory / WEIGHTS_FILE
        content = verified(path, description["weights_sha256"], f"weights_sha256 of {DESCRIPTION_FILE}")
        try:
            return cls.of(
                {
                    name.removeprefix(PREFIX): value
                    for name, value in load_arrays(content).items()
                    if name.startswith(PREFIX)
                },
                other_side=description["views"]["other_side"],
            )
        except (SafetensorError, KeyError) as error:
            raise ConfigError(f"{path}: does not hold the attention over views: {error}") from None

    @classmethod
    def of(cls, weights: Mapping[str, NDArray[Any]], *, other_side: bool) -> Self:
        """Return the attention with these weights, by their names in the network's layer; raises `KeyError`."""
        arrays = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        return cls(
            arrays["content.weight"],
            arrays["content.bias"],
            arrays["gate.weight"],
            arrays["gate.bias"],
            arrays["score.weight"][0],
            arrays["other.weight"] if other_side else None,
        )

    def breast_logits(self, logits: Floats, features: Floats, sides: Sequence[ViewMask]) -> Floats:
        """Return the logits of a breast, (classes,).

        Args:
            logits: Logits of each view alone, (views, classes).
            features: Features of each view, (views, channels).
            sides: ViewMask of each view; at least one is `ViewMask.OWN`.
        """
        of = np.asarray(sides)
        found = self._mean(logits, features, of == ViewMask.OWN)
        if self.other is not None and (of == ViewMask.OTHER).any():
            found = found + self.other @ self._mean(logits, features, of == ViewMask.OTHER)
        return found

    def _mean(self, logits: Floats, features: Floats, chosen: NDArray[np.bool_]) -> Floats:
        given = np.asarray(features[chosen], np.float64)
        gates = 1 / (1 + np.exp(-(given @ self.gate.T + self.gate_bias)))
        energies = (np.tanh(given @ self.content.T + self.content_bias) * gates) @ self.score
        weights = np.exp(energies - energies.max())  # A softmax; the maximum is subtracted so that exp cannot overflow.
        mean: Floats = (weights / weights.sum()) @ np.asarray(logits[chosen], np.float64)
        return mean


def of_breasts(description: Mapping[str, Any]) -> bool:
    """Return whether `model.json` describes a model that judges breasts."""
    return bool(description.get("level", Level.IMAGE) == Level.BREAST)
