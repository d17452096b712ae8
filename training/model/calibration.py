"""Converts a network's logits to calibrated probabilities; pure functions, no torch.

A network trained on balanced classes predicts as if all classes were equally frequent. A temperature cannot correct
that; a constant added to the logit of each class (an intercept) can. The probabilities then hold for the class
frequencies of validation; `mammopipe.training.model.prevalence` adjusts them to another prevalence of cancer.

The scores of breasts and patients are made of these probabilities by a rule, and only rank. A `ScoreMap` converts such
a score to a calibrated probability.

Sources: Guo et al. 2017, "On Calibration of Modern Neural Networks" (temperature and vector scaling); Platt 1999
(logistic map of a score).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Level

Floats = npt.NDArray[np.float64]

MAPPED = (Level.BREAST, Level.PATIENT)
"""The levels whose scores are converted to probabilities by a map of their own."""
STEEPEST_SLOPE, LARGEST_INTERCEPT = 100.0, 2000.0
"""Bounds of a map: with these, the smallest difference of two scores decides."""
_LEAST, _MOST = 1e-6, 1 - 1e-6
"""Scores are clipped to this range before the log-odds are taken."""
_ROUNDING = 1e-9
"""Largest difference between proportions that are equal but for rounding."""
_MOST_CASES = 10**9


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


def log_odds(scores: npt.ArrayLike) -> Floats:
    """Return the log-odds of scores, of the same shape; scores below 1e-6 or above 1 - 1e-6 count as these."""
    kept = np.clip(np.asarray(scores, np.float64), _LEAST, _MOST)
    found: Floats = np.log(kept / (1 - kept))
    return found


@dataclass(frozen=True)
class ScoreMap:
    """Converts the score of a breast or patient to a probability: expit(slope * log-odds of the score + intercept)."""

    slope: float
    """At least 0, so that a higher score never has a lower probability."""
    intercept: float
    cases: int
    """Number of breasts or patients that the map was fitted on."""
    malignant: int
    """Number of malignant ones among them."""

    @property
    def prevalence(self) -> float:
        """Return the proportion of malignant cases, for which the probabilities hold."""
        return self.malignant / self.cases

    def probabilities(self, scores: npt.ArrayLike) -> Floats:
        """Return the probabilities of malignant for scores in 0..1, of the same shape, at the map's prevalence."""
        found: Floats = np.exp(-np.logaddexp(0.0, -(self.slope * log_odds(scores) + self.intercept)))
        return found

    def as_dict(self) -> dict[str, float]:
        """Return the JSON values that `read_score_maps` accepts."""
        return asdict(self)


def read_score_maps(
    stored: Mapping[str, Any] | None, shares: Mapping[str, Any], key: str, where: Path | str, *, of_all: bool
) -> dict[Level, ScoreMap]:
    """Return the maps of breast and patient scores from `model.json`, after a check of every value.

    Args:
        stored: {level: map}; in place of a map, {"reason": why there is none}. `None` if the model has no maps.
        shares: `calibration.prevalence` of `model.json`.
        key: Key of `stored`, for error messages.
        where: File name for error messages.
        of_all: Whether the maps were fitted on all breasts and patients of validation, as `shares` was.

    Returns:
        The maps by level; a level without a map is missing.

    Raises:
        ConfigError: A key is unknown or missing, or a value is out of range or contradicts `shares`.
    """
    if stored is None:
        return {}
    if not isinstance(stored, Mapping) or set(stored) != set(MAPPED):
        raise ConfigError(f"{where}: {key}={stored!r} must be an object with the keys {', '.join(MAPPED)}")
    return {
        level: _read_map(stored[level], shares, level, f"{key}.{level}", where, of_all=of_all)
        for level in MAPPED
        if not _is_reason(stored[level])
    }


def _is_reason(stored: Any) -> bool:
    return isinstance(stored, Mapping) and set(stored) == {"reason"} and isinstance(stored["reason"], str)


def _read_map(
    stored: Any, shares: Mapping[str, Any], level: Level, key: str, where: Path | str, *, of_all: bool
) -> ScoreMap:
    names = tuple(ScoreMap.__dataclass_fields__)
    if not isinstance(stored, Mapping) or set(stored) != set(names):
        raise ConfigError(f"{where}: {key}={stored!r} must be an object of {', '.join(names)}, or of a reason alone")
    slope, intercept, cases, malignant = (stored[name] for name in names)
    share = shares.get(str(level))
    rules = [
        ("slope", _lies(slope, 0.0, STEEPEST_SLOPE), f"a number from 0 to {STEEPEST_SLOPE:g}"),
        (
            "intercept",
            _lies(intercept, -LARGEST_INTERCEPT, LARGEST_INTERCEPT),
            f"a number from -{LARGEST_INTERCEPT:g} to {LARGEST_INTERCEPT:g}",
        ),
        ("cases", _is_count(cases), f"a whole number from 1 to {_MOST_CASES}"),
        ("malignant", _is_count(malignant) and _is_count(cases) and malignant < cases, "from 1 to below cases"),
    ]
    for name, holds, rule in rules:
        if not holds:
            raise ConfigError(f"{where}: {key}.{name}={stored[name]!r} must be {rule}")
    found = ScoreMap(float(slope), float(intercept), cases, malignant)
    if share is None or not 0 < share < 1 or (of_all and abs(share - found.prevalence) > _ROUNDING):
        expected = f"malignant / cases, {found.prevalence!r}" if of_all else "above 0 and below 1"
        raise ConfigError(f"{where}: calibration.prevalence.{level}={share!r} must be {expected}, beside {key}")
    return found


def _lies(value: Any, low: float, high: float) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and low <= value <= high


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_CASES
