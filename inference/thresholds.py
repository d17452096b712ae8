"""The thresholds that `model.json` stores for images, breasts and patients, and what one says of a probability."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.schema import Decision, Finding, OperatingPoint
from processing.errors import ConfigError
from training.levels import BreastRule, Level


@dataclass(frozen=True)
class Point:
    """One stored threshold and what it reached on validation."""

    threshold: float
    """On the calibrated probability of malignant."""
    sensitivity: float | None
    specificity: float | None


@dataclass(frozen=True)
class Thresholds:
    """The stored points of every level, and the rule that makes breasts of views."""

    points: Mapping[Level, Mapping[OperatingPoint, Point]]
    """Empty for a level on which validation could not fix any."""
    breast_rule: BreastRule | None
    """`None` where the model was not evaluated."""

    @classmethod
    def read(cls, description: Mapping[str, Any], where: str) -> "Thresholds":
        """Return what a `model.json` stores; `ConfigError`, naming `where` and the key, where that is malformed."""
        points: dict[Level, Mapping[OperatingPoint, Point]] = {}
        points[Level.IMAGE] = _image_points(description["operating_points"], where)
        validation = description["metrics"].get("validation")
        levels = validation if isinstance(validation, Mapping) else {}
        for level in (Level.BREAST, Level.PATIENT):
            points[level] = _level_points(levels, level, points, where)
        return cls(points, _rule(description["calibration"].get("breast_rule"), where))

    def decide(self, level: Level, probability: float, name: OperatingPoint) -> Decision | None:
        """Return what the point says of a calibrated probability, 0 to 1; `None` where the model has none."""
        point = self.points[level].get(name)
        if point is None:
            return None
        finding = Finding.SUSPICIOUS if probability >= point.threshold else Finding.NOT_SUSPICIOUS
        return Decision(operating_point=name, finding=finding, threshold=point.threshold,
                        sensitivity=point.sensitivity, specificity=point.specificity)


def _image_points(stored: Mapping[str, Any], where: str) -> dict[OperatingPoint, Point]:
    keys = ("threshold", "sensitivity", "specificity")
    found: dict[OperatingPoint, Point] = {}
    for name, values in stored.items():
        try:
            found[OperatingPoint(name)] = Point(*(float(values[key]) for key in keys))
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{where}: operating_points[{name!r}]={values!r} must be one of "
                              f"{', '.join(OperatingPoint)} with the numbers {', '.join(keys)}") from None
    return found


def _level_points(levels: Mapping[str, Any], level: Level, before: Mapping[Level, Mapping[OperatingPoint, Point]],
                  where: str) -> Mapping[OperatingPoint, Point]:
    """Return a level's points; a level whose cases are those of one before it names that level only."""
    stored = levels.get(str(level))
    if stored is None:
        return {}
    try:
        if "same_as" in stored:
            return before[Level(stored["same_as"])]
        rows = {point: stored["operating_points"][str(point)] for point in OperatingPoint}
        return {point: Point(float(row["threshold"]), row["sensitivity"]["value"], row["specificity"]["value"])
                for point, row in rows.items() if row["threshold"] is not None}
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{where}: metrics.validation.{level} must hold operating_points with a threshold for each "
                          f"of {', '.join(OperatingPoint)}, or same_as") from None


def _rule(stored: Any, where: str) -> BreastRule | None:
    if stored is None:
        return None
    try:
        return BreastRule(stored)
    except ValueError:
        raise ConfigError(f"{where}: calibration.breast_rule={stored!r} must be one of "
                          f"{', '.join(BreastRule)}") from None
