"""Stores reference distributions of image features and measures drift from them.

Distributions are stored as counts in bins, so neither the reference nor a weekly record contains a value of a single
image. The population stability index compares a week's proportions with those of the reference. A cumulative sum
(CUSUM) adds up small deviations over weeks. Both limits depend on the number of exams and are not rules of thumb,
because the index is large by chance if there are few exams.

Sources: Yurdakul and Naranjo, "Statistical properties of the population stability index" (Journal of Risk Model
Validation 14(4), 2020): without drift the index is (1/n + 1/m) times a chi-squared of bins - 1. Page, "Continuous
inspection schemes" (Biometrika 41, 1954); Siegmund, "Sequential Analysis" (1985), for the run length of a CUSUM.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.errors import ConfigError

Floats = NDArray[np.float64]

BINS = 10
LEAST_INDEX = 0.2
"""The lowest limit of the index, for any number of exams. By convention, an index below it means a small shift."""
SMALLEST_SHIFT = 0.5
"""The smallest lasting shift to detect, in standard deviations of the reference."""
REFERENCE_ERRORS = 1.25
"""Deviation, in standard errors of the reference's mean, that does not count as a shift. A higher value would hide
small shifts for months. A lower value would give too many false alarms, because the reference is itself a random sample
(`docs/how-to/drift.md`)."""
_MIN_SPREAD = 0.9
"""Standard deviation of the normal scores of ten equal bins, rounded down."""
_HALF = 0.5
"""Count added to each bin, so that the logarithm of an empty bin is defined."""


@dataclass(frozen=True)
class FeatureHistogram:
    """A histogram of one feature over images."""

    edges: tuple[float, ...]
    """Inner bounds of the bins, increasing; a value on a bound belongs to the bin above it."""
    counts: tuple[int, ...]
    """Number of images in each bin."""
    exams: int
    """Number of patients or requests that the images come from; images of one exam are not independent."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for bounds that do not increase and for counts that do not fit the bounds."""
        rising = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        if not (rising and len(self.counts) == len(self.edges) + 1 and min(self.counts) >= 0):
            raise ConfigError(f"a distribution of {len(self.edges)} bounds must rise and have one count more")
        if not 0 < self.exams <= sum(self.counts):
            raise ConfigError(f"a distribution of {sum(self.counts)} images cannot be of {self.exams} exams")

    @classmethod
    def of(cls, values: Sequence[float] | Floats, exams: int) -> "FeatureHistogram":
        """Return the distribution of values, in bins of equal proportions where repeated values allow it.

        Args:
            values: (images,).
            exams: Number of patients or requests that the images come from.
        """
        found = np.asarray(values, np.float64)
        bounds = np.quantile(found, np.arange(1, BINS) / BINS)
        # A value that many images share gets its own bin, so that a small step to either side is visible.
        repeated = [value for value in np.unique(bounds) if (found == value).mean() > 1 / BINS]
        edges = np.unique([*bounds, *repeated, *(np.nextafter(value, np.inf) for value in repeated)])
        return cls(tuple(map(float, edges)), tuple(map(int, _count(found, edges))), exams)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "FeatureHistogram":
        """Return the distribution from the JSON values of `to_json`."""
        return cls(tuple(values["edges"]), tuple(values["counts"]), int(values["exams"]))

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as JSON values."""
        return {"edges": list(self.edges), "counts": list(self.counts), "exams": self.exams}

    def count(self, values: Sequence[float] | Floats) -> Floats:
        """Return the number of values in each bin, (bins,)."""
        return _count(np.asarray(values, np.float64), np.asarray(self.edges))

    @property
    def shares(self) -> Floats:
        """Return the proportion of each bin, (bins,); none is 0."""
        return _shares(np.asarray(self.counts, np.float64))

    @property
    def scores(self) -> Floats:
        """Return a normal score for each bin, (bins,), with mean 0 and deviation of at most 1 over the reference.

        Scores are used instead of values so that one outlier can shift a week's mean only by its rank. If nearly all
        images are in one bin, the scores are not scaled up to a deviation of 1, because a single image in another bin
        would then raise an alarm.
        """
        shares = self.shares
        middles = np.cumsum(shares) - shares / 2
        raw = np.array([NormalDist().inv_cdf(float(middle)) for middle in middles])
        mean = float((shares * raw).sum())
        spread = math.sqrt(float((shares * np.square(raw - mean)).sum()))
        return (raw - mean) / max(spread, _MIN_SPREAD)


def _count(values: Floats, edges: Floats) -> Floats:
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(np.float64)


def _shares(counts: Floats) -> Floats:
    shares: Floats = (counts + _HALF) / (counts.sum() + _HALF * len(counts))
    return shares


def stability_index(reference: FeatureHistogram, counts: Floats) -> float:
    """Return the population stability index of counts, (bins,), against the reference; 0 means no difference."""
    expected, found = reference.shares, _shares(counts)
    return float(((found - expected) * np.log(found / expected)).sum())


def index_limit(reference: FeatureHistogram, exams: float, false_alarms: float) -> float:
    """Return the limit that the index exceeds by chance with probability `false_alarms`, at least `LEAST_INDEX`."""
    # The same as scipy.stats.chi2.isf; scipy.stats takes half a second to import.
    from scipy.special import chdtri

    freedom = max(1, sum(count > 0 for count in reference.counts) - 1)
    return max(LEAST_INDEX, (1 / exams + 1 / reference.exams) * float(chdtri(freedom, false_alarms)))


def allowance(reference: FeatureHistogram) -> float:
    """Return the allowance of the CUSUM: the deviation of a window, in standard deviations, that it does not add up.

    The allowance is half the shift to detect plus `REFERENCE_ERRORS` standard errors of the reference's mean. Without
    the second term, the CUSUM would in time report the reference's own sampling error as a shift. `cusum_limit` assumes
    only the first term, because the error of the reference may use up the second one.
    """
    return SMALLEST_SHIFT / 2 + REFERENCE_ERRORS / math.sqrt(reference.exams)


def cusum_limit(slack: float, run_length: float) -> float:
    """Return the limit of a two-sided CUSUM with one false alarm every `run_length` windows on average.

    Uses Siegmund's approximation, solved by bisection.

    Args:
        slack: The allowance that the reference's error leaves, in standard errors of a window's mean.
        run_length: Average number of windows between false alarms.
    """
    low, high = 0.0, 500.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(slack, middle) < run_length else (low, middle)
    return high


def _two_sided(slack: float, limit: float) -> float:
    reach = 2 * slack * (limit + 1.166)  # 2 x 0.583: Siegmund's correction for steps in discrete time.
    # The exponent is cut off, because math.exp overflows above 709.
    one_sided = (math.exp(min(reach, 700.0)) - reach - 1) / (2 * slack * slack)
    return one_sided / 2


def fit_distributions(figures: Sequence[Mapping[str, float]], exams: Sequence[str]) -> dict[str, FeatureHistogram]:
    """Return the distribution of each feature over images.

    Args:
        figures: Features of each image by name; an image may lack some of them.
        exams: Patient of each image.
    """
    names = sorted({name for image in figures for name in image})
    found = {}
    for name in names:
        rows = [(image[name], exam) for image, exam in zip(figures, exams, strict=True) if name in image]
        found[name] = FeatureHistogram.of([value for value, _ in rows], len({exam for _, exam in rows}))
    return found
