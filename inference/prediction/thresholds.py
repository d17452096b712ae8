"""What the operating points of `model.json` say of a probability, and for which prevalence an answer shows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mammopipe.inference.contract.schema import Decision, Finding, OperatingPoint
from mammopipe.processing.datasets.manifest import Label
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model import operating_points
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Level
from mammopipe.training.model.operating_points import Goal, Rate
from mammopipe.training.model.prevalence import PrevalenceShift

Points = Mapping[Level, Mapping[Goal, operating_points.OperatingPoint]]


@dataclass(frozen=True)
class ComparedBreasts:
    """How the two breasts of an exam are scored beside each other."""

    weight: float
    """Share of the other breast's mean logits that is taken off, 0 to 1."""
    calibration: Calibration
    """Of the logits that are left."""
    points: Points
    """Of breasts and patients that were compared."""


@dataclass(frozen=True)
class Thresholds:
    """The operating points of every level, and the rule that makes breasts of views."""

    points: Points
    """Empty for a level on which validation could not fix any."""
    breast_rule: BreastRule | None
    """`None` where the model was not evaluated."""
    compared: ComparedBreasts | None = None
    """`None` for a model that scores each breast by itself."""
    malignant: int = Label.MALIGNANT.rank
    """Place of the malignant class among the model's classes."""
    shift: PrevalenceShift = field(default_factory=lambda: PrevalenceShift({}))
    """From validation's prevalence, at which everything is decided, to the one that answers are shown for."""

    @classmethod
    def read(cls, description: Mapping[str, Any], where: str, *, prevalence: float | None = None) -> "Thresholds":
        """Return what a `model.json` stores.

        Args:
            description: `model.json`.
            where: names the file in errors.
            prevalence: share of the women examined who have cancer; `None`: as in validation.

        Raises:
            ConfigError: a point is malformed, or the model does not allow the prevalence to be stated.
        """
        stored = description["calibration"].get("comparison")
        compared = None
        if stored is not None:
            points = operating_points.read_compared_points(description, where)
            calibration = Calibration.read(stored, description["classes"])
            compared = ComparedBreasts(float(stored["weight"]), calibration, points)
        return cls(
            operating_points.read_operating_points(description, where),
            _rule(description["calibration"].get("breast_rule"), where),
            compared,
            list(description["classes"]).index(Label.MALIGNANT),
            PrevalenceShift.of(description, prevalence),
        )

    def decide(
        self, level: Level, probability: float, name: OperatingPoint, *, compared: bool = False
    ) -> Decision | None:
        """Return what an operating point says of a case; `None` where the model does not offer it.

        A point that found no cancer on validation is not offered: its "not suspicious" would say nothing.

        Args:
            level: of the case.
            probability: calibrated, at validation's prevalence, 0 to 1. One that equals the threshold is suspicious.
            name: of the operating point.
            compared: whether the probability is that of breasts beside each other, which have points of their own.
        """
        points = self.compared.points if compared and self.compared else self.points
        point = points.get(level, {}).get(Goal(str(name)))
        if point is None or not point.offered:
            return None
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

    def distance(self, level: Level, probability: float, name: OperatingPoint, *, compared: bool = False) -> float:
        """Return how far a probability is from the threshold that decides, 0 to 1; infinite where none does."""
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
