"""Converts a network's logits to calibrated probabilities; pure functions, no torch.

A network trained on balanced classes predicts as if all classes were equally frequent. A temperature cannot correct
that; a constant added to the logit of each class (an intercept) can. The probabilities then hold for the class
frequencies of validation; `mammopipe.training.model.prevalence` adjusts them to another prevalence of cancer.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (temperature and vector scaling).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def softmax(logits: npt.ArrayLike) -> Floats:
    """Return the softmax of each row of logits, (n, classes) float64; numerically stable for large logits."""
    values = np.asarray(logits, np.float64)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


@dataclass(frozen=True)
class Calibration:
    """Calibrates a model's logits: softmax(logits / temperature + intercepts)."""

    temperature: float = 1.0
    """Divides the logits; above 0."""
    intercepts: tuple[float, ...] = ()
    """Added to the scaled logit of each class, in the order of the classes; empty adds nothing."""

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Self:
        """Return the calibration of single images from a checked `model.json`."""
        return cls.read(description["calibration"], description["classes"])

    @classmethod
    def of_comparison(cls, description: Mapping[str, Any]) -> Self | None:
        """Return the calibration of images compared with the patient's other breast.

        `None` where the model does not compare breasts.
        """
        stated = description["calibration"].get("comparison")
        return None if stated is None else cls.read(stated, description["classes"])

    @classmethod
    def read(cls, stated: Mapping[str, Any], classes: Sequence[str]) -> Self:
        """Return the calibration from JSON values {"temperature", "intercepts": {class: number}}."""
        intercepts = stated.get("intercepts")
        return cls(
            float(stated["temperature"]),
            tuple(float(intercepts[name]) for name in classes) if intercepts is not None else (),
        )

    def probabilities(self, logits: Floats) -> Floats:
        """Return calibrated probabilities.

        Args:
            logits: (images, classes).

        Returns:
            (images, classes) float64; each row sums to 1.
        """
        return softmax(np.asarray(logits, np.float64) / self.temperature + np.asarray(self.intercepts or 0.0))

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the JSON values that `read` accepts."""
        intercepts = self.intercepts or (0.0,) * len(classes)
        return {"temperature": self.temperature, "intercepts": dict(zip(classes, intercepts, strict=True))}
