"""From one prevalence of cancer to another; pure functions, no torch.

Probabilities hold for the share of malignant cases that validation had. Where cancer is rarer, the prior odds differ by
a constant factor, and so do the posterior odds.

Source: Saerens, Latinne and Decaestecker 2002 (https://doi.org/10.1162/089976602753284446).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np

from mammopipe.processing.datasets.manifest import Label
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.predictions import Floats

LOWEST_STATED_PREVALENCE, HIGHEST_STATED_PREVALENCE = 1e-5, 0.9
"""The prevalences that a deployment may state; outside of them the statement is taken for a mistake."""

Probability = TypeVar("Probability", float, Floats)


@dataclass(frozen=True)
class PrevalenceShift:
    """Moves probabilities of cancer from validation's prevalence to the one that a deployment states.

    A site knows how many of the women it examines have cancer. How many of their breasts and images show it is taken
    to be as in validation. Thresholds move with the probabilities, so that no decision changes.
    """

    validation: Mapping[Level, float]
    """Share of the validation images, breasts and patients that are malignant; empty where it is not stated."""
    stated: float | None = None
    """Share of the women examined who have cancer; `None` leaves everything as in validation."""
    prevalence: Mapping[Level, float | None] = field(init=False)
    """For which share of malignant images, breasts and patients the shifted probabilities hold; `None`: not known."""

    def __post_init__(self) -> None:
        if self.stated is None:
            found: dict[Level, float | None] = {level: self.validation.get(level) for level in Level}
        else:
            if not LOWEST_STATED_PREVALENCE <= self.stated <= HIGHEST_STATED_PREVALENCE:
                raise ConfigError(
                    f"prevalence={self.stated} must be a share of the women examined from {LOWEST_STATED_PREVALENCE} "
                    f"to {HIGHEST_STATED_PREVALENCE}"
                )
            found = self._as_stated(self.stated)
        object.__setattr__(self, "prevalence", found)

    @classmethod
    def of(cls, description: Mapping[str, Any], stated: float | None) -> Self:
        """Return the shift from the prevalence that a checked `model.json` states to the stated one.

        Raises:
            ConfigError: `stated` is out of range, or the model does not state its own prevalence.
        """
        shares = description["calibration"].get("prevalence") or {}
        return cls({Level(level): float(share) for level, share in shares.items()}, stated)

    def _as_stated(self, stated: float) -> dict[Level, float | None]:
        shares = self.validation
        if set(shares) != set(Level) or not all(0 < share < 1 for share in shares.values()):
            raise ConfigError(
                f"prevalence={stated}: the model does not state calibration.prevalence with shares above 0 and below 1 "
                f"of the images, breasts and patients of its validation, so its probabilities cannot be moved"
            )
        found = {level: stated * share / shares[Level.PATIENT] for level, share in shares.items()}
        if max(found.values()) >= 1:
            raise ConfigError(
                f"prevalence={stated}: with {shares[Level.IMAGE]:.3g} of the images and "
                f"{shares[Level.PATIENT]:.3g} of the women of validation malignant, every image would be"
            )
        return dict(found)

    def malignancy(self, level: Level, probability: Probability) -> Probability:
        """Return a probability of cancer, or a threshold on one, of an image, breast or patient, moved."""
        factor = self._odds_factor(level)
        return probability * factor / (1 - probability + probability * factor)

    def classes(self, probabilities: Floats, *, malignant: int = Label.MALIGNANT.rank) -> Floats:
        """Return an image's class probabilities, moved; the classes but malignant keep their ratios.

        Args:
            probabilities: (images, classes).
            malignant: the place of the malignant class.

        Returns:
            (images, classes); rows sum to 1.
        """
        weights = np.ones(probabilities.shape[1])
        weights[malignant] = self._odds_factor(Level.IMAGE)
        moved = probabilities * weights
        shares: Floats = moved / moved.sum(axis=1, keepdims=True)
        return shares

    def _odds_factor(self, level: Level) -> float:
        if self.stated is None:
            return 1.0
        return math.exp(_logit(float(self.prevalence[level] or 0.0)) - _logit(self.validation[level]))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
