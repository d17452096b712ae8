"""Confidence intervals by resampling patients: images of one patient are not independent, so a patient is drawn whole.

The spread of a figure is its standard deviation over resamples of patients (Davison and Hinkley 1997, 3.8). The
interval is that of Student's t around the figure, on a scale where its distribution is nearly symmetric: the logit for
what lies in 0..1, the logarithm for what is positive (Efron and Tibshirani 1993, chapter 12). Degrees of freedom are
the patients who carry the information, those of the rarest kind of image, less one. `python -m benchmarks.coverage`
shows why: percentiles of the resamples cover too seldom where a figure is high or its patients are few. A share of 0
or 1 has no spread: it gets the exact bounds of Clopper and Pearson (1934).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mammopipe.processing.errors import MammopipeError
from mammopipe.training.model.predictions import Floats, Integers

_CELLS_AT_ONCE = 1_000_000
"""Resamples times images that are weighted in one step; it bounds the memory to about 8 MB an array."""

_LEAST_DEFINED = 0.5
"""An interval is given only where the metric is defined in at least this share of the resamples."""


class MetricError(MammopipeError, ValueError):
    """A metric is undefined for these labels, or what it was given breaks a rule."""


class Scale(StrEnum):
    """Where a figure can lie, and so on which scale its interval is symmetric."""

    SHARE = "share"
    """From 0 to 1: the logit."""
    POSITIVE = "positive"
    """Above 0: the logarithm."""
    REAL = "real"
    """Anywhere: as it is."""

    def to(self, values: Floats) -> Floats:
        """Return figures on the symmetric scale; infinite at a bound."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if self is Scale.SHARE:
                return np.log(values) - np.log1p(-values)
            return np.log(values) if self is Scale.POSITIVE else values

    def back(self, values: Floats) -> Floats:
        """Return what `to` was given."""
        if self is Scale.SHARE:
            shares: Floats = 1 / (1 + np.exp(-values))
            return shares
        return np.exp(values) if self is Scale.POSITIVE else values

    def slope(self, value: float) -> float:
        """Return how fast the symmetric scale changes at a figure."""
        if self is Scale.SHARE:
            return 1 / (value * (1 - value))
        return 1 / value if self is Scale.POSITIVE else 1.0


class Weighted(Protocol):
    """What can be resampled: a metric that takes how often each image was drawn."""

    @property
    def share(self) -> bool:
        """Whether the figure is a share of some of the images."""
        ...

    @property
    def scale(self) -> Scale:
        """Where the figure can lie."""
        ...

    @property
    def least_images(self) -> int:
        """How many images the figure must be of to have an interval."""
        ...

    @property
    def kinds(self) -> Callable[[Integers, Floats], Integers]:
        """What tells by labels and values of which kind each image is, (images,).

        The patients of the rarest kind say most about the spread; a kind below 0 has no part in the figure.
        """
        ...

    def __call__(self, labels: npt.ArrayLike, values: npt.ArrayLike) -> float:
        """Return the metric over the images as they are; raises `MetricError` where it is undefined."""
        ...

    def weighted(self, labels: Integers, values: Floats, weights: Floats) -> Floats:
        """Return one figure for each row of `weights` (resamples, images); NaN where it is undefined."""
        ...


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its confidence interval."""

    value: float
    low: float | None
    """Lower bound; `None` with `high` where too few patients, too few defined resamples, or no spread gives none."""
    high: float | None
    undefined: int = 0
    """Resamples in which the metric was undefined (a class was not drawn); they were left out."""

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the interval as JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high, "undefined_resamples": self.undefined}


@dataclass(frozen=True)
class Resamples:
    """Draws of patients with replacement, as the number of times that each image was drawn."""

    counts: npt.NDArray[np.uint16]
    """(resamples, images)."""
    groups: Integers
    """(images,) the number of the patient of each image."""

    @property
    def patients(self) -> int:
        """Different patients among the images."""
        return len(np.unique(self.groups))

    @classmethod
    def draw(cls, groups: Sequence[str] | npt.NDArray[np.str_], *, n: int, seed: int) -> "Resamples":
        """Return `n` draws of as many patients as there are, `groups` naming the patient of each image.

        The same seed and groups give the same draws on every machine. Raises `MetricError` for no image or `n` below 1.
        """
        if len(groups) == 0 or n < 2:
            raise MetricError(f"{n} resamples of {len(groups)} images: two of an image at the least")
        names, index = np.unique(np.asarray(groups), return_inverse=True)
        picked = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
        return cls(picked.astype(np.uint16)[:, index], index)

    def of(self, images: Integers) -> "Resamples":
        """Return the same draws for some of the images, by their places: one that stands for a case, or a subgroup."""
        return Resamples(self.counts[:, images], self.groups[images])

    def interval(self, metric: Weighted, labels: npt.ArrayLike, values: npt.ArrayLike, *, level: float) -> Interval:
        """Return the metric and its confidence interval at `level`; `MetricError` where the metric is undefined."""
        if not 0 < level < 1:
            raise MetricError(f"level={level} must lie between 0 and 1")
        value = metric(labels, values)
        truth, scores = np.asarray(labels, np.int64), np.asarray(values, np.float64)
        if len(truth) != self.counts.shape[1]:
            raise MetricError(f"{len(truth)} labels for {self.counts.shape[1]} resampled images: numbers must agree")
        figures = self._figures(metric, truth, scores)
        defined = figures[np.isfinite(figures)]
        missing = len(figures) - len(defined)
        enough = self.patients >= 2 and len(truth) >= metric.least_images
        if not enough or len(defined) < _LEAST_DEFINED * len(figures):
            return Interval(value, None, None, missing)
        spread, freedom = float(defined.std(ddof=1)), self._freedom(metric, truth, scores)
        if spread == 0 or not np.isfinite(metric.scale.to(np.array([value]))[0]):
            exact = self._exact(metric, truth, scores, value, level)
            return Interval(value, exact[0], exact[1], missing)
        if freedom < 1:
            return Interval(value, None, None, missing)
        reach = _student((1 + level) / 2, freedom) * spread * metric.scale.slope(value)
        middle = metric.scale.to(np.array([value]))
        low, high = metric.scale.back(middle + np.array([-reach, reach]))
        return Interval(value, float(low), float(high), missing)

    def _freedom(self, metric: Weighted, labels: Integers, values: Floats) -> int:
        """Return the degrees of freedom: the patients with the rarest kind of image, less one."""
        kinds = metric.kinds(labels, values)
        patients = [len(np.unique(self.groups[kinds == kind])) for kind in np.unique(kinds[kinds >= 0])]
        return min(patients, default=0) - 1

    def difference(
        self, metric: Weighted, labels: npt.ArrayLike, first: npt.ArrayLike, other: npt.ArrayLike, *, level: float
    ) -> Interval:
        """Return the metric of `other` less that of `first`, of the same images, with its confidence interval.

        Both are measured on each draw, so what a draw does to both alike does not widen the interval. There is none
        where every draw gives the same, unless that is 0. Raises `MetricError` where the metric is undefined.
        """
        truth = np.asarray(labels, np.int64)
        values = [np.asarray(one, np.float64) for one in (first, other)]
        value = metric(truth, values[1]) - metric(truth, values[0])
        figures = self._figures(metric, truth, values[1]) - self._figures(metric, truth, values[0])
        defined = figures[np.isfinite(figures)]
        missing = len(figures) - len(defined)
        freedom = min(self._freedom(metric, truth, scores) for scores in values)
        if freedom < 1 or len(defined) < _LEAST_DEFINED * len(figures):
            return Interval(value, None, None, missing)
        spread = float(defined.std(ddof=1))
        if spread == 0 and value != 0:
            # Too few patients to differ: such an interval would call anything more than chance.
            return Interval(value, None, None, missing)
        reach = _student((1 + level) / 2, freedom) * spread
        return Interval(value, value - reach, value + reach, missing)

    def _exact(
        self, metric: Weighted, labels: Integers, values: Floats, value: float, level: float
    ) -> tuple[float, float] | tuple[None, None]:
        """Return the bounds of a share that is 0, or 1, in every patient who has one; none for other figures.

        The share of a patient counts as one observation: her images are not independent.
        """
        if not metric.share or value not in (0.0, 1.0):
            return None, None
        names, index = np.unique(self.groups, return_inverse=True)
        alone = Resamples(np.eye(len(names), dtype=np.uint16)[:, index], index)
        patients = np.isfinite(alone._figures(metric, labels, values)).sum()
        reach = float(((1 - level) / 2) ** (1 / patients))
        return (reach, 1.0) if value == 1 else (0.0, 1 - reach)

    def _figures(self, metric: Weighted, labels: Integers, values: Floats) -> Floats:
        step = max(1, _CELLS_AT_ONCE // self.counts.shape[1])
        parts = (self.counts[start : start + step] for start in range(0, len(self.counts), step))
        return np.concatenate([metric.weighted(labels, values, part.astype(np.float64)) for part in parts])


@cache
def _student(probability: float, freedom: int) -> float:
    """Return a quantile of Student's t distribution."""
    from scipy.stats import t as student  # takes 0.3 s to import, and many users of this module need no interval

    return float(student.ppf(probability, freedom))


def bootstrap_interval(
    metric: Weighted,
    labels: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    groups: Sequence[str] | npt.NDArray[np.str_],
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the metric over all images with its confidence interval from `n` draws of whole patients (`groups`).

    Draws in which the metric is undefined are left out and counted. Raises `MetricError` where the metric is undefined.
    """
    return Resamples.draw(groups, n=n, seed=seed).interval(metric, labels, values, level=level)
