"""Finds scores computed in a 16-bit number format that are too close to a threshold for a reliable decision."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mammopipe.processing.datasets.manifest import Label
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.predictions import Floats

TOLERANCE = 1e-2
"""Largest accepted difference between a probability in a deployed number format and in float32."""
CAUTION = 2.0
"""The margin is this many times the largest measured difference, because a new image may differ by more than the images
that were compared."""


@dataclass(frozen=True)
class NearThreshold:
    """The thresholds of a model, and the margin around them within which a malignancy score is too close to decide."""

    thresholds: tuple[float, ...]
    calibration: Calibration
    malignant: int
    """Index of the malignant class."""
    margin: float
    """Margin of the calibrated probability; with 0, no score is too close."""

    @classmethod
    def of(cls, description: Mapping[str, Any], margin: float) -> "NearThreshold":
        """Return the thresholds of the model that `model.json` describes; none if it has no malignant class."""
        classes = list(description["classes"])
        known = str(Label.MALIGNANT) in classes
        return cls(
            tuple(sorted(set(_thresholds(description)))) if known else (),
            Calibration.of(description),
            classes.index(Label.MALIGNANT) if known else 0,
            margin,
        )

    def near(self, logits: Floats) -> bool:
        """Return whether the malignancy score of these logits, (classes,), lies within the margin of a threshold."""
        if self.margin == 0:
            return False
        score = self._score(logits)
        return any(abs(score - threshold) <= self.margin for threshold in self.thresholds)

    def decisions(self, logits: Floats) -> tuple[bool, ...]:
        """Return, for each threshold, whether the malignancy score of these logits, (classes,), reaches it."""
        return tuple(self._score(logits) >= threshold for threshold in self.thresholds)

    def _score(self, logits: Floats) -> float:
        return float(self.calibration.probabilities(logits[None])[0, self.malignant])


def _thresholds(description: Mapping[str, Any]) -> Iterator[float]:
    """Yield the thresholds of images, breasts and patients; a single image can decide each of these levels."""
    validation = description["metrics"].get("validation", {})
    levels = (validation.get(str(level), {}).get("operating_points", {}) for level in Level)
    for points in (description["operating_points"], *levels):
        yield from (float(point["threshold"]) for point in points.values() if point["threshold"] is not None)
