"""Computes confidence intervals by resampling patients.

Images of one patient are not independent. The bootstrap therefore draws whole patients.

The standard error of a metric is the larger of two estimates. One is its standard deviation over the resamples (Davison
and Hinkley 1997, 3.8), which tends to be too small with few patients. The other is that of the delete-one jackknife,
which tends to be too large (Efron and Stein 1981). The interval is Student's t interval around the metric, on a scale
where its distribution is nearly symmetric: the logit for metrics in 0..1, the logarithm for positive metrics (Efron and
Tibshirani 1993, chapter 12).

The degrees of freedom are the smaller of two numbers. One is the number of patients with the rarest kind of image,
minus one. The other is Satterthwaite's (1946) for the variance of the metric. It is small if few patients cause most of
that variance, as with a high AUC, because the variance itself is then uncertain. It is computed from the values of the
metric without each patient in turn (delete-one jackknife).

A proportion of 0 or 1 has no spread; it gets the exact bounds of Clopper and Pearson (1934), with patients as cases. An
AUC is a proportion of pairs; for it, the patients of the rarer kind are the cases.

Losses, ratios and slopes have no interval with fewer than `LEAST_PATIENTS` patients of the rarest kind. Student's t
with one to three degrees of freedom would reach from 0 to a hundred times the metric.

Chance raises a calibration error above its true value, and raises it again in each resample. The lower bound is
therefore computed from the metric minus this second rise (Davison and Hinkley 1997, 2.4); the upper bound is computed
from the metric itself.

`python -m benchmarks.studies.bench_coverage` shows why this method is used: percentile intervals cover the true value
too rarely if a metric is high or patients are few.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mammopipe.processing.errors import MammopipeError
from mammopipe.training.metrics.exact import exact_bounds, student_quantile
from mammopipe.training.metrics.scale import Scale
from mammopipe.training.model.predictions import Floats, Integers

_CELLS_AT_ONCE = 1_000_000
"""Maximum of resamples times images in one step; an array of float64 then has at most 8 MB."""

_MOST_PATIENTS, _MOST_BLOCKS = 1000, 200
"""With more than `_MOST_PATIENTS`, only the number of patients gives the degrees of freedom. With fewer, the jackknife
leaves out one patient at a time, or one of `_MOST_BLOCKS` blocks if there are more patients than blocks."""

_LEAST_SPREAD = 1e-12
"""A standard deviation over the resamples below this proportion of the metric is only rounding and counts as 0."""

LEAST_PATIENTS = 5
"""Minimum number of patients with the rarest kind of image for the interval of a metric that is not in 0..1."""

_LEAST_DEFINED = 0.5
"""Minimum proportion of resamples in which a metric must be defined to have an interval."""


class MetricError(MammopipeError, ValueError):
    """A metric is undefined for these labels, or its input is invalid."""


class Weighted(Protocol):
    """A metric that can be resampled: it accepts how often each image was drawn."""

    @property
    def share(self) -> bool:
        """Whether the metric is a proportion, of images or of pairs of images."""
        ...

    @property
    def scale(self) -> Scale:
        """The range of the metric."""
        ...

    @property
    def least_images(self) -> int:
        """The minimum number of images for an interval."""
        ...

    @property
    def raised(self) -> bool:
        """Whether chance raises the metric; it does so more with fewer images."""
        ...

    @property
    def kinds(self) -> Callable[[Integers, Floats], Integers]:
        """Function that maps labels and values to the kind of each image, (images,).

        The number of patients with the rarest kind determines the degrees of freedom. Images of a negative kind do not
        enter the metric.
        """
        ...

    def __call__(self, labels: npt.ArrayLike, values: npt.ArrayLike) -> float:
        """Return the metric over the original images; raises `MetricError` where it is undefined."""
        ...

    def weighted(self, labels: Integers, values: Floats, weights: Floats) -> Floats:
        """Return the metric for each row of `weights` (resamples, images); NaN where it is undefined."""
        ...


@dataclass(frozen=True)
class Interval:
    """A metric's value with the bounds of its confidence interval."""

    value: float
    low: float | None
    """Lower bound. Both bounds are `None` with too few patients, too few defined resamples, or no spread."""
    high: float | None
    undefined: int = 0
    """Number of resamples left out because the metric was undefined in them (a class was not drawn)."""

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the interval as JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high, "undefined_resamples": self.undefined}


@dataclass(frozen=True)
class Resamples:
    """Draws of patients with replacement, stored as how often each image was drawn."""

    counts: npt.NDArray[np.uint16]
    """(resamples, images), how often each image was drawn."""
    groups: Integers
    """(images,), the patient's number of each image."""

    @property
    def patients(self) -> int:
        """The number of different patients."""
        return len(np.unique(self.groups))

    @classmethod
    def draw(cls, groups: Sequence[str] | npt.NDArray[np.str_], *, n: int, seed: int) -> "Resamples":
        """Draw as many patients as there are, with replacement, `n` times.

        The same seed and groups give the same draws on every machine.

        Args:
            groups: (images,), the patient of each image.
            n: Number of resamples, at least 2.
            seed: Seed of the draws.

        Raises:
            MetricError: There is no image, or `n` is below 2.
        """
        if len(groups) == 0 or n < 2:
            raise MetricError(f"{n} resamples of {len(groups)} images: at least two resamples of one image are needed")
        names, index = np.unique(np.asarray(groups), return_inverse=True)
        picked = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
        return cls(picked.astype(np.uint16)[:, index], index)

    def of(self, images: Integers) -> "Resamples":
        """Return the same draws for a subset of the images, given by their positions."""
        return Resamples(self.counts[:, images], self.groups[images])

    def interval(self, metric: Weighted, labels: npt.ArrayLike, values: npt.ArrayLike, *, level: float) -> Interval:
        """Return the metric with its confidence interval.

        Args:
            metric: The metric.
            labels: (images,).
            values: (images,) scores or (images, classes) probabilities, as the metric takes them.
            level: Confidence level, above 0 and below 1.

        Raises:
            MetricError: The metric is undefined, `level` is out of range, or the number of labels is wrong.
        """
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
        spread, patients = _spread(defined, value), self._rarest(metric, truth, scores)
        if spread == 0 or not np.isfinite(metric.scale.to(np.array([value]))[0]):
            exact = exact_bounds(value, patients, level) if metric.share else (None, None)
            return Interval(value, exact[0], exact[1], missing)
        if patients < (2 if metric.scale is Scale.SHARE else LEAST_PATIENTS):
            return Interval(value, None, None, missing)
        left_out = None if self._jackknife is None else metric.weighted(truth, scores, self._jackknife)
        error = max(spread, _jackknife_error(left_out))
        # The slope converts the error from the metric's own scale to the symmetric one (delta method).
        reach = student_quantile((1 + level) / 2, self._freedom(left_out, patients)) * error * metric.scale.slope(value)
        rise = max(0.0, float(defined.mean()) - value) * metric.scale.slope(value) if metric.raised else 0.0
        middle = metric.scale.to(np.array([value]))
        low, high = metric.scale.back(middle + np.array([-rise - reach, reach]))
        if not np.isfinite([low, high]).all():
            return Interval(value, None, None, missing)
        return Interval(value, float(low), float(high), missing)

    def _rarest(self, metric: Weighted, labels: Integers, values: Floats) -> int:
        """Return the number of patients with the rarest kind of image."""
        kinds = metric.kinds(labels, values)
        patients = [len(np.unique(self.groups[kinds == kind])) for kind in np.unique(kinds[kinds >= 0])]
        return min(patients, default=0)

    @cached_property
    def _jackknife(self) -> Floats | None:
        """How often each image counts when each block of patients is left out, (blocks, images)."""
        names, index = np.unique(self.groups, return_inverse=True)
        if len(names) > _MOST_PATIENTS:
            return None
        blocks = min(len(names), _MOST_BLOCKS)
        weights: Floats = 1 - np.eye(blocks)[:, index % blocks]
        return weights

    def _freedom(self, left_out: Floats | None, patients: int) -> float:
        """Return the degrees of freedom.

        Args:
            left_out: The metric without each block of patients; `None` for many patients.
            patients: Number of patients with the rarest kind of image, at least 2.
        """
        if left_out is None:
            return patients - 1
        found = left_out[np.isfinite(left_out)]
        squares = (found - found.mean()) ** 2 if len(found) else np.zeros(1)
        excess = float((squares**2).sum() - squares.sum() ** 2 / len(squares))
        if excess <= 0:  # All patients cause the same share of the variance, which is then known best.
            return patients - 1
        # Rounded, so that `student_quantile` finds most values in its cache.
        return max(1.0, min(patients - 1, round(2 * float(squares.sum()) ** 2 / excess, 1)))

    def difference(
        self, metric: Weighted, labels: npt.ArrayLike, first: npt.ArrayLike, other: npt.ArrayLike, *, level: float
    ) -> Interval:
        """Return the metric of `other` minus that of `first` on the same images, with its confidence interval.

        The comparison is paired: each draw measures both models, so variation common to both does not widen the
        interval. The interval is computed from the intervals of the two metrics and their correlation over the draws,
        so it need not be symmetric. There is no interval if a metric is at a bound of its range, or if every draw gives
        the same difference, unless the models give equal values.

        Args:
            metric: The metric.
            labels: (images,).
            first: Values of the first model, as the metric takes them.
            other: Values of the other model.
            level: Confidence level, above 0 and below 1.

        Raises:
            MetricError: The metric is undefined.
        """
        truth = np.asarray(labels, np.int64)
        values = [np.asarray(one, np.float64) for one in (first, other)]
        value = metric(truth, values[1]) - metric(truth, values[0])
        one, two = (self._figures(metric, truth, scores) for scores in values)
        defined = np.isfinite(one) & np.isfinite(two)
        missing = len(defined) - int(defined.sum())
        sides = [self.interval(metric, truth, scores, level=level) for scores in values]
        if missing > (1 - _LEAST_DEFINED) * len(defined) or any(side.low is None for side in sides):
            return Interval(value, None, None, missing)
        if np.array_equal(values[0], values[1]):
            return Interval(value, value, value, missing)
        edges = metric.scale.to(np.array([side.value for side in sides]))
        spreads = [_spread(figures[defined], side.value) for figures, side in zip((one, two), sides, strict=True)]
        change = _spread((two - one)[defined], sides[0].value)
        if min([*spreads, change]) == 0 or not np.isfinite(edges).all():
            # A perfect model has no spread, and with few patients all draws may be equal. The interval would be too
            # narrow, up to a width of 0.
            return Interval(value, None, None, missing)
        # The correlation, from the variances of both sides and of their difference.
        common = float(np.clip((spreads[0] ** 2 + spreads[1] ** 2 - change**2) / (2 * spreads[0] * spreads[1]), -1, 1))
        return Interval(value, *_recovered(value, sides[0], sides[1], common), missing)

    def _figures(self, metric: Weighted, labels: Integers, values: Floats) -> Floats:
        step = max(1, _CELLS_AT_ONCE // self.counts.shape[1])
        parts = (self.counts[start : start + step] for start in range(0, len(self.counts), step))
        return np.concatenate([metric.weighted(labels, values, part.astype(np.float64)) for part in parts])


def _spread(figures: Floats, value: float) -> float:
    """Return the standard deviation of the resampled figures; 0 if it is only rounding, compared with the metric."""
    spread = float(figures.std(ddof=1))
    return spread if spread > _LEAST_SPREAD * max(abs(value), 1e-3) else 0.0


def _recovered(value: float, first: Interval, other: Interval, correlation: float) -> tuple[float, float]:
    """Return the bounds of a difference from the intervals of its two sides.

    Source: the method of variance estimates recovery (Zou and Donner 2008), for correlated sides (Zou 2007).

    Args:
        value: The value of `other` minus that of `first`.
        first: The first side, with bounds.
        other: The other side, with bounds.
        correlation: Correlation of the two sides over the resamples.
    """
    assert first.low is not None and first.high is not None and other.low is not None and other.high is not None

    def reach(own: float, opposite: float) -> float:
        return float(np.sqrt(max(0.0, own**2 + opposite**2 - 2 * correlation * own * opposite)))

    down = reach(other.value - other.low, first.high - first.value)
    up = reach(other.high - other.value, first.value - first.low)
    return value - down, value + up


def _jackknife_error(left_out: Floats | None) -> float:
    """Return the standard error by the delete-one jackknife; 0 without it.

    Args:
        left_out: The metric without each block of patients, NaN where it is undefined; `None` for many patients.
    """
    found = np.empty(0) if left_out is None else left_out[np.isfinite(left_out)]
    if len(found) < 2:
        return 0.0
    return float(np.sqrt((len(found) - 1) / len(found) * ((found - found.mean()) ** 2).sum()))


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
    """Return the metric over all images with its bootstrap confidence interval.

    Draws in which the metric is undefined are left out; the interval states their number.

    Args:
        metric: The metric.
        labels: (images,).
        values: (images,) scores or (images, classes) probabilities, as the metric takes them.
        groups: (images,), the patient of each image. The bootstrap draws whole patients.
        n: Number of resamples.
        seed: Seed of the draws.
        level: Confidence level, above 0 and below 1.

    Raises:
        MetricError: The metric is undefined for these labels.
    """
    return Resamples.draw(groups, n=n, seed=seed).interval(metric, labels, values, level=level)
