"""Applies the operating points and score maps of `model.json`, and the prevalence that answers are shown for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.contract.schema import Decision, Finding
from mammopipe.processing.datasets.manifest import Label
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model import operating_points
from mammopipe.training.model.calibration import Calibration, ScoreMap, read_score_maps
from mammopipe.training.model.exam_scores import BreastRule, Level
from mammopipe.training.model.operating_points import Goal, Rate
from mammopipe.training.model.prevalence import PrevalenceShift, adjusted

Points = Mapping[Level, Mapping[Goal, operating_points.DecisionThreshold]]


@dataclass(frozen=True)
class ComparedBreasts:
    """How the two breasts of an exam are scored in comparison with each other."""

    weight: float
    """Share of the other breast's mean logits that is subtracted, 0 to 1."""
    calibration: Calibration
    """Calibration of the logits after the subtraction."""
    points: Points
    """Operating points for compared breasts and their patients."""
    maps: Mapping[Level, ScoreMap] = field(default_factory=dict)
    """Maps from scores to probabilities for compared breasts and their patients, by level."""


@dataclass(frozen=True)
class Thresholds:
    """The operating points of every level, and the rule that combines views into breasts."""

    points: Points
    """Operating points by level; empty for a level on which validation could not set any."""
    breast_rule: BreastRule | None
    """`None` if the model was not evaluated."""
    compared: ComparedBreasts | None = None
    """`None` for a model that scores each breast by itself."""
    malignant: int = -1
    """Index of the malignant class, the last of the model's classes."""
    shift: PrevalenceShift = field(default_factory=lambda: PrevalenceShift({}))
    """Shift from validation's prevalence, at which decisions are made, to the prevalence used for answers."""
    maps: Mapping[Level, ScoreMap] = field(default_factory=dict)
    """Maps from the scores of breasts and patients to probabilities, by level; a level without a map is missing."""

    @classmethod
    def read(cls, description: Mapping[str, Any], where: str, *, prevalence: float | None = None) -> "Thresholds":
        """Read the thresholds from a `model.json`.

        Args:
            description: The content of `model.json`.
            where: Name of the file in error messages.
            prevalence: Share of the women examined who have cancer, 0 to 1; `None` keeps that of validation.

        Raises:
            ConfigError: An operating point is malformed, or the model does not allow a prevalence.
        """
        stored, shares = description["calibration"], description["calibration"].get("prevalence") or {}
        comparison, compared = stored.get("comparison"), None
        if comparison is not None:
            key = "calibration.comparison.scores"
            compared = ComparedBreasts(
                float(comparison["weight"]),
                Calibration.read(comparison, description["classes"]),
                operating_points.read_compared_points(description, where),
                read_score_maps(comparison.get("scores"), shares, key, where, of_all=False),
            )
        return cls(
            operating_points.read_operating_points(description, where),
            _rule(stored.get("breast_rule"), where),
            compared,
            list(description["classes"]).index(Label.MALIGNANT),
            PrevalenceShift.of(description, prevalence),
            read_score_maps(stored.get("scores"), shares, "calibration.scores", where, of_all=True),
        )

    def decide(
        self, level: Level, probability: float, name: OperatingPoint, *, compared: bool = False
    ) -> Decision | None:
        """Return the decision for a case, or `None` if the model does not offer the operating point.

        An operating point that found no cancer in validation is not offered: "not suspicious" would mean nothing.

        Args:
            level: Level of the case.
            probability: Calibrated probability of malignant at validation's prevalence, 0 to 1. The case is suspicious
                if it is equal to or above the threshold.
            name: The operating point.
            compared: Whether the probability comes from comparing the breasts, which has its own operating points.
        """
        points = self.compared.points if compared and self.compared else self.points
        point = points.get(level, {}).get(Goal(str(name)))
        if point is None or not point.offered:
            return None
        # Compared at validation's prevalence, at which the threshold was chosen; the answer shows the shifted one.
        finding = Finding.SUSPICIOUS if probability >= point.threshold else Finding.NOT_SUSPICIOUS
        return Decision(
            operating_point=name,
            finding=finding,
            threshold=self.shift.malignancy(level, point.threshold),
            level=level,
            n=point.cases,
            positives=point.malignant,
            sensitivity=point.sensitivity.value,
            sensitivity_interval=_interval(point.sensitivity),
            specificity=point.specificity.value,
            specificity_interval=_interval(point.specificity),
            recall_rate=point.recall_rate.value,
            recall_rate_interval=_interval(point.recall_rate),
            prevalence=point.prevalence,
        )

    def probability(self, level: Level, score: float, *, compared: bool = False) -> float | None:
        """Return the calibrated probability of malignant of a breast or patient, or `None` if the model has no map.

        A map holds for the cases that it was fitted on: for compared breasts, those of the patients with both breasts.
        The probability is moved from their prevalence to the one that answers are shown for.

        Args:
            level: Level of the case: breast or patient.
            score: Score of the case at validation's prevalence, 0 to 1.
            compared: Whether the score comes from comparing the breasts, which has its own maps.
        """
        score_map = (self.compared.maps if compared and self.compared else self.maps).get(level)
        shown = self.shift.prevalence.get(level)
        if score_map is None or shown is None:
            return None
        return adjusted(float(score_map.probabilities(score)), prevalence=score_map.prevalence, to=shown)

    def distance(self, level: Level, probability: float, name: OperatingPoint, *, compared: bool = False) -> float:
        """Return the distance of a probability from its threshold, 0 to 1; infinite if there is no threshold."""
        points = self.compared.points if compared and self.compared else self.points
        point = points.get(level, {}).get(Goal(str(name)))
        return float("inf") if point is None or not point.offered else abs(probability - point.threshold)


def _interval(rate: Rate) -> tuple[float, float] | None:
    return None if rate.low is None or rate.high is None else (rate.low, rate.high)


def _rule(stored: Any, where: str) -> BreastRule | None:
    if stored is None:
        return None
    try:
        return BreastRule(stored)
    except ValueError:
        raise ConfigError(
            f"{where}: calibration.breast_rule={stored!r} must be one of {', '.join(BreastRule)}"
        ) from None
