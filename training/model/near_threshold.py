"""Which answers of a fast number format are too near a threshold to be trusted with the decision."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mammopipe.processing.datasets.manifest import Label
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.predictions import Floats

TOLERANCE = 1e-2
"""How far a probability may be from that of float32 in any format that is deployed."""
CAUTION = 2.0
"""An unknown film may differ by more than the films that were compared: the margin is so many times their largest."""


@dataclass(frozen=True)
class NearThreshold:
    """The thresholds of a model and how near to one a malignancy score is a close call."""

    thresholds: tuple[float, ...]
    calibration: Calibration
    malignant: int
    """Place of the malignant class among the logits."""
    margin: float
    """Of the calibrated probability; 0: no answer is a close call."""

    @classmethod
    def of(cls, description: Mapping[str, Any], margin: float) -> "NearThreshold":
        """Return the close calls of a described model; one that does not know malignant has none."""
        classes = list(description["classes"])
        known = str(Label.MALIGNANT) in classes
        return cls(
            tuple(sorted(set(_thresholds(description)))) if known else (),
            Calibration.of(description),
            classes.index(Label.MALIGNANT) if known else 0,
            margin,
        )

    def near(self, logits: Floats) -> bool:
        """Return whether these logits, (classes,), give a malignancy score within the margin of a threshold."""
        if self.margin == 0:
            return False
        score = self._score(logits)
        return any(abs(score - threshold) <= self.margin for threshold in self.thresholds)

    def decisions(self, logits: Floats) -> tuple[bool, ...]:
        """Return whether the score of these logits, (classes,), reaches each threshold."""
        return tuple(self._score(logits) >= threshold for threshold in self.thresholds)

    def _score(self, logits: Floats) -> float:
        return float(self.calibration.probabilities(logits[None])[0, self.malignant])


def _thresholds(description: Mapping[str, Any]) -> Iterator[float]:
    """Yield those of images, and of breasts and patients, which a single image can decide."""
    validation = description["metrics"].get("validation", {})
    levels = (validation.get(str(level), {}).get("operating_points", {}) for level in Level)
    for points in (description["operating_points"], *levels):
        yield from (float(point["threshold"]) for point in points.values() if point["threshold"] is not None)
