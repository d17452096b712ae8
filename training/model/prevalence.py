"""Adjusts probabilities from one prevalence of cancer to another; pure functions, no torch.

Calibrated probabilities hold for the prevalence of validation. At another prevalence, the prior odds change by a
constant factor, and the posterior odds change by the same factor.

Source: Saerens, Latinne and Decaestecker 2002 (https://doi.org/10.1162/089976602753284446).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.predictions import Floats

LOWEST_STATED_PREVALENCE, HIGHEST_STATED_PREVALENCE = 1e-5, 0.9
"""The range of prevalences that a deployment may state; a value outside of it is treated as a mistake."""

Probability = TypeVar("Probability", float, Floats)


@dataclass(frozen=True)
class PrevalenceShift:
    """Adjusts probabilities of cancer from validation's prevalence to the prevalence that a deployment states.

    A site knows the proportion of its examined women who have cancer. For these women, the proportions of breasts and
    images that show the cancer are assumed to be those of validation. Thresholds are adjusted like the probabilities,
    so no decision changes.
    """

    validation: Mapping[Level, float]
    """Proportion of malignant images, breasts and patients in validation; empty if the model does not state it."""
    stated: float | None = None
    """Proportion of the examined women who have cancer; `None` keeps validation's prevalence."""
    prevalence: Mapping[Level, float | None] = field(init=False)
    """Prevalence of each level (images, breasts, patients) that adjusted probabilities are for; `None` if unknown."""

    def __post_init__(self) -> None:
        if self.stated is None:
            found: dict[Level, float | None] = {level: self.validation.get(level) for level in Level}
        else:
            if not LOWEST_STATED_PREVALENCE <= self.stated <= HIGHEST_STATED_PREVALENCE:
                raise ConfigError(
                    f"prevalence={self.stated} must be a proportion of the examined women, from "
                    f"{LOWEST_STATED_PREVALENCE} to {HIGHEST_STATED_PREVALENCE}"
                )
            found = self._as_stated(self.stated)
        # A frozen dataclass refuses plain assignment here, too.
        object.__setattr__(self, "prevalence", found)

    @classmethod
    def of(cls, description: Mapping[str, Any], stated: float | None) -> Self:
        """Return the shift from the prevalence in `model.json` to the stated prevalence.

        Args:
            description: A checked `model.json`.
            stated: Proportion of the examined women who have cancer; `None` keeps validation's prevalence.

        Raises:
            ConfigError: `stated` is out of range, or the model does not state its own prevalence.
        """
        shares = description["calibration"].get("prevalence") or {}
        return cls({Level(level): float(share) for level, share in shares.items()}, stated)

    def _as_stated(self, stated: float) -> dict[Level, float | None]:
        shares = self.validation
        if set(shares) != set(Level) or not all(0 < share < 1 for share in shares.values()):
            raise ConfigError(
                f"prevalence={stated}: the model's calibration.prevalence must state the proportions of malignant "
                f"images, breasts and patients in validation, each above 0 and below 1; without them, probabilities "
                f"cannot be adjusted"
            )
        found = {level: stated * share / shares[Level.PATIENT] for level, share in shares.items()}
        if max(found.values()) >= 1:
            raise ConfigError(
                f"prevalence={stated}: in validation, {shares[Level.IMAGE]:.3g} of the images and "
                f"{shares[Level.PATIENT]:.3g} of the women are malignant; at this prevalence, more images than there "
                f"are would be malignant"
            )
        return dict(found)

    def malignancy(self, level: Level, probability: Probability) -> Probability:
        """Return an adjusted probability of cancer, or threshold on it, of an image, breast or patient."""
        return _with_odds_times(probability, self._odds_factor(level))

    def classes(self, probabilities: Floats, *, malignant: int = -1) -> Floats:
        """Return adjusted class probabilities of images; the ratios among the other classes stay the same.

        Args:
            probabilities: (images, classes).
            malignant: Index of the malignant class, which is the last one.

        Returns:
            (images, classes); rows sum to 1.
        """
        weights = np.ones(probabilities.shape[1])
        weights[malignant] = self._odds_factor(Level.IMAGE)
        weighted = probabilities * weights
        shares: Floats = weighted / weighted.sum(axis=1, keepdims=True)
        return shares

    def _odds_factor(self, level: Level) -> float:
        if self.stated is None:
            return 1.0
        return math.exp(_logit(float(self.prevalence[level] or 0.0)) - _logit(self.validation[level]))


def adjusted(probability: float, *, prevalence: float, to: float) -> float:
    """Return a probability that holds for `prevalence`, adjusted to the prevalence `to`; all three from 0 to 1."""
    return _with_odds_times(probability, math.exp(_logit(to) - _logit(prevalence)))


def _with_odds_times(probability: Probability, factor: float) -> Probability:
    return probability * factor / (1 - probability + probability * factor)


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
