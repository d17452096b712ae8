"""Reads and checks the operating points of `model.json`: thresholds with their performance on validation.

`operating_points` holds those of images, `metrics.validation` those of breasts and patients, and
`metrics.compared.validation` those of breasts and patients when breasts are compared. This module reads all of them
into one form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.exam_scores import Level


class Goal(StrEnum):
    """The criterion by which the threshold of an operating point was chosen."""

    SENSITIVITY = "sensitivity"
    """Reaches the sensitivity in `TARGETS` at the highest specificity."""
    SPECIFICITY = "specificity"
    """Reaches the specificity in `TARGETS` at the highest sensitivity."""
    F1 = "f1"
    """The highest F1 on validation."""


TARGETS = {Goal.SENSITIVITY: 0.90, Goal.SPECIFICITY: 0.90}
"""The rate that an operating point must reach on validation, for malignant against all other classes."""

RATES = ("sensitivity", "specificity", "recall_rate", "ppv")
ROUNDING = 1e-9
"""Largest difference between numbers that count as equal."""


@dataclass(frozen=True)
class Rate:
    """A proportion of validation cases with its 95 % confidence interval."""

    value: float | None
    """`None` where the rate is undefined, such as the PPV when no case is called positive."""
    low: float | None
    high: float | None

    def __post_init__(self) -> None:
        for number in (self.value, self.low, self.high):
            if number is not None and not (_is_number(number) and 0 <= number <= 1):
                raise ValueError(f"{number!r} must be a share, from 0 to 1")
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if len(bounds) == 1 or bounds != sorted(bounds):
            raise ValueError(f"the interval {self.low!r} to {self.high!r} must have two bounds, the lower one first")
        if bounds and (self.value is None or not bounds[0] - ROUNDING <= self.value <= bounds[1] + ROUNDING):
            raise ValueError(f"{self.value!r} must lie in its interval, {self.low!r} to {self.high!r}")

    @classmethod
    def of(cls, figure: Mapping[str, Any]) -> Self:
        """Return the rate from the values {"value", "low", "high"} of `evaluation.json`."""
        return cls(figure["value"], figure["low"], figure["high"])


@dataclass(frozen=True)
class DecisionThreshold:
    """A threshold on the calibrated probability of cancer, with its performance on validation."""

    threshold: float
    """Above 0 and below 1; at validation's prevalence."""
    target: float | None
    """The required rate; `None` for the highest F1."""
    sensitivity: Rate
    specificity: Rate
    recall_rate: Rate
    """Proportion of all cases that are called positive."""
    ppv: Rate
    """Proportion of the cases called positive that are malignant, at validation's prevalence."""
    cases: int
    """Number of images, breasts or patients in validation."""
    malignant: int
    """Number of malignant cases."""
    patients: int
    """Number of patients; intervals are by patient."""

    @property
    def prevalence(self) -> float:
        """Return the proportion of malignant cases; recall rate and PPV hold only for this prevalence."""
        return self.malignant / self.cases

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON values for `operating_points` of `model.json`, as `read_operating_points` accepts them."""
        rates = {name: getattr(self, name) for name in RATES}
        return {
            "threshold": self.threshold,
            "target": self.target,
            **{name: rate.value for name, rate in rates.items()},
            "intervals": {name: None if rate.low is None else [rate.low, rate.high] for name, rate in rates.items()},
            "cases": self.cases,
            "malignant": self.malignant,
            "patients": self.patients,
            "prevalence": self.prevalence,
        }

    @property
    def offered(self) -> bool:
        """Whether the server offers the point; a point with sensitivity 0 finds no cancer and is not offered."""
        return bool(self.sensitivity.value)


Points = dict[Level, dict[Goal, DecisionThreshold]]


def read_operating_points(description: Mapping[str, Any], where: Path | str) -> Points:
    """Return the operating points of images, breasts and patients.

    Args:
        description: `model.json`.
        where: File name for error messages.

    Returns:
        The points by level and goal. There are none before the model is evaluated. A level is empty if validation could
        not determine its points.

    Raises:
        ConfigError: A point lacks a key, a threshold is not above 0 and below 1, a rate is not in 0..1 or not in its
            interval, or a count or the prevalence contradicts another count.
    """
    images = {
        Goal(name): _point(Goal(name), values, f"operating_points.{name}", where)
        for name, values in description["operating_points"].items()
        if _known(name, where)
    }
    validation = description["metrics"].get("validation")
    levels = validation if isinstance(validation, Mapping) else {}
    points: Points = {Level.IMAGE: images, **_levels(levels, "metrics.validation", where, images)}
    return points


def read_compared_points(description: Mapping[str, Any], where: Path | str) -> Points:
    """Return the operating points of breasts and patients when breasts are compared; empty where they are not.

    Raises:
        ConfigError: As `read_operating_points`, or `calibration.comparison` is present without its metrics.
    """
    if description["calibration"].get("comparison") is None:
        return {}
    key = "metrics.compared.validation"
    try:
        levels = description["metrics"]["compared"]["validation"]
        if not isinstance(levels, Mapping) or not {str(Level.BREAST), str(Level.PATIENT)} <= set(levels):
            raise KeyError
    except (KeyError, TypeError):
        raise ConfigError(
            f"{where}: {key} must hold the levels breast and patient, because calibration.comparison states that "
            f"breasts are compared"
        ) from None
    return _levels(levels, key, where, {})


def check_prevalence(shares: Mapping[str, Any], points: Points, where: Path | str) -> None:
    """Raise `ConfigError` if the prevalence of a level is not that of the cases of the level's operating points.

    Do not pass points of compared breasts: their cases are only the exams with both breasts.

    Args:
        shares: `calibration.prevalence` of `model.json`; a level may be missing.
        points: The operating points.
        where: File name for error messages.
    """
    for level, of_level in points.items():
        for goal, point in of_level.items():
            share = shares.get(str(level), point.prevalence)
            if abs(share - point.prevalence) > ROUNDING:
                raise ConfigError(
                    f"{where}: calibration.prevalence.{level}={share!r} must be malignant / cases of the operating "
                    f"point {goal}, {point.prevalence!r}"
                )


def _known(name: str, where: Path | str) -> bool:
    if name not in set(Goal):
        raise ConfigError(f"{where}: operating_points has {name!r}; a point is one of {', '.join(Goal)}")
    return True


def _levels(levels: Mapping[str, Any], key: str, where: Path | str, images: dict[Goal, DecisionThreshold]) -> Points:
    """Return the points of breasts and patients.

    A level with the same cases as a previous level only names that level (`same_as`).
    """
    found: Points = {Level.IMAGE: images}
    for level in (Level.BREAST, Level.PATIENT):
        stored = levels.get(str(level))
        if stored is None:
            found[level] = {}
            continue
        if "same_as" in stored:
            found[level] = found.get(_same(stored["same_as"], f"{key}.{level}", where), {})
            continue
        try:
            rows = stored["operating_points"]
            counts = {name: stored[name] for name in ("cases", "malignant", "patients")}
        except (KeyError, TypeError):
            raise ConfigError(
                f"{where}: {key}.{level} must hold operating_points, cases, malignant and patients, or same_as"
            ) from None
        found[level] = {
            goal: _point(goal, {**counts, **rows[str(goal)]}, f"{key}.{level}.operating_points.{goal}", where)
            for goal in Goal
            if str(goal) in rows and rows[str(goal)].get("threshold", 0) is not None
        }
    return {level: points for level, points in found.items() if level is not Level.IMAGE}


def _same(name: Any, key: str, where: Path | str) -> Level:
    if name not in set(Level):
        raise ConfigError(f"{where}: {key}.same_as={name!r} must be one of {', '.join(Level)}")
    return Level(name)


def _point(goal: Goal, values: Any, key: str, where: Path | str) -> DecisionThreshold:
    try:
        threshold = values["threshold"]
        if not (_is_number(threshold) and 0 < threshold < 1):
            raise ConfigError(f"{where}: {key}.threshold={threshold!r} must be a number above 0 and below 1")
        counts = {name: values[name] for name in ("cases", "malignant", "patients")}
        if not _are_counts(counts):
            raise ConfigError(
                f"{where}: {key}: {counts} must be whole numbers, patients and malignant from 1 to the number of cases"
            )
        share = counts["malignant"] / counts["cases"]
        if "prevalence" in values and not abs(values["prevalence"] - share) <= ROUNDING:
            raise ConfigError(f"{where}: {key}.prevalence={values['prevalence']!r} must be malignant / cases, {share}")
        sensitivity, specificity, recall_rate, ppv = (_rate(values, name) for name in RATES)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: {key}={values!r} must have threshold, cases, malignant, patients, {', '.join(RATES)} and the "
            f"interval of each: {error}"
        ) from None
    return DecisionThreshold(float(threshold), TARGETS.get(goal), sensitivity, specificity, recall_rate, ppv, **counts)


def _rate(values: Mapping[str, Any], name: str) -> Rate:
    """Return a rate from {"value", "low", "high"}, or from a number with its interval under `intervals`."""
    stored = values[name]
    if isinstance(stored, Mapping):
        return Rate.of(stored)
    interval = values["intervals"][name]
    low, high = (None, None) if interval is None else interval
    return Rate(stored, low, high)


def _are_counts(counts: Mapping[str, Any]) -> bool:
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in counts.values())
    return whole and 1 <= counts["malignant"] <= counts["cases"] and 1 <= counts["patients"] <= counts["cases"]


def _is_number(value: Any) -> bool:
    # A bool is an int in Python, but not a number in JSON.
    return isinstance(value, float | int) and not isinstance(value, bool)
