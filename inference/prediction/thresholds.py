"""The thresholds that `model.json` stores for images, breasts and patients, and what one says of a probability."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mammopipe.inference.contract.schema import Decision, Finding, OperatingPoint
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Level


@dataclass(frozen=True)
class Point:
    """One stored threshold and what it reached on validation."""

    threshold: float
    """On the calibrated probability of malignant."""
    sensitivity: float | None
    specificity: float | None


Points = Mapping[Level, Mapping[OperatingPoint, Point]]


@dataclass(frozen=True)
class ComparedBreasts:
    """How the two breasts of an exam are scored beside each other (`mammopipe.training.comparison`)."""

    weight: float
    """Share of the other breast's mean logits that is taken off, 0 to 1."""
    calibration: Calibration
    """Of the logits that are left."""
    points: Points
    """Of breasts and patients that were compared."""


@dataclass(frozen=True)
class Thresholds:
    """The stored points of every level, and the rule that makes breasts of views."""

    points: Points
    """Empty for a level on which validation could not fix any."""
    breast_rule: BreastRule | None
    """`None` where the model was not evaluated."""
    compared: ComparedBreasts | None = None
    """`None` for a model that scores each breast by itself."""

    @classmethod
    def read(cls, description: Mapping[str, Any], where: str) -> "Thresholds":
        """Return what a `model.json` stores; `ConfigError`, naming `where` and the key, where that is malformed."""
        points: dict[Level, Mapping[OperatingPoint, Point]] = {}
        points[Level.IMAGE] = _image_points(description["operating_points"], where)
        validation = description["metrics"].get("validation")
        levels = validation if isinstance(validation, Mapping) else {}
        for level in (Level.BREAST, Level.PATIENT):
            points[level] = _level_points(levels, level, points, where)
        return cls(points, _rule(description["calibration"].get("breast_rule"), where), _compared(description, where))

    def decide(
        self, level: Level, probability: float, name: OperatingPoint, *, compared: bool = False
    ) -> Decision | None:
        """Return what the point says of a calibrated probability, 0 to 1; `None` where the model has none.

        `compared`: the probability is that of breasts beside each other, which have points of their own.
        """
        points = self.compared.points if compared and self.compared else self.points
        point = points[level].get(name)
        if point is None:
            return None
        finding = Finding.SUSPICIOUS if probability >= point.threshold else Finding.NOT_SUSPICIOUS
        return Decision(
            operating_point=name,
            finding=finding,
            threshold=point.threshold,
            sensitivity=point.sensitivity,
            specificity=point.specificity,
        )


def _image_points(stored: Mapping[str, Any], where: str) -> dict[OperatingPoint, Point]:
    keys = ("threshold", "sensitivity", "specificity")
    found: dict[OperatingPoint, Point] = {}
    for name, values in stored.items():
        try:
            found[OperatingPoint(name)] = Point(*(float(values[key]) for key in keys))
        except (KeyError, TypeError, ValueError):
            raise ConfigError(
                f"{where}: operating_points[{name!r}]={values!r} must be one of "
                f"{', '.join(OperatingPoint)} with the numbers {', '.join(keys)}"
            ) from None
    return found


def _compared(description: Mapping[str, Any], where: str) -> ComparedBreasts | None:
    stored = description["calibration"].get("comparison")
    if stored is None:
        return None
    try:
        levels = description["metrics"]["compared"]["validation"]
        points: dict[Level, Mapping[OperatingPoint, Point]] = {}
        for level in (Level.BREAST, Level.PATIENT):
            points[level] = _level_points(levels, level, points, where)
    except (KeyError, TypeError):
        raise ConfigError(
            f"{where}: metrics.compared.validation must hold the levels breast and patient, since "
            f"calibration.comparison says that breasts are compared"
        ) from None
    return ComparedBreasts(float(stored["weight"]), Calibration.read(stored, description["classes"]), points)


def _level_points(
    levels: Mapping[str, Any], level: Level, before: Points, where: str
) -> Mapping[OperatingPoint, Point]:
    """Return a level's points; a level whose cases are those of one before it names that level only."""
    stored = levels.get(str(level))
    if stored is None:
        return {}
    try:
        if "same_as" in stored:
            return before[Level(stored["same_as"])]
        rows = {point: stored["operating_points"][str(point)] for point in OperatingPoint}
        return {
            point: Point(float(row["threshold"]), row["sensitivity"]["value"], row["specificity"]["value"])
            for point, row in rows.items()
            if row["threshold"] is not None
        }
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"{where}: metrics.validation.{level} must hold operating_points with a threshold for each "
            f"of {', '.join(OperatingPoint)}, or same_as"
        ) from None


def _rule(stored: Any, where: str) -> BreastRule | None:
    if stored is None:
        return None
    try:
        return BreastRule(stored)
    except ValueError:
        raise ConfigError(
            f"{where}: calibration.breast_rule={stored!r} must be one of {', '.join(BreastRule)}"
        ) from None
