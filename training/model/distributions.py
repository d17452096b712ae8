"""How a figure of films is distributed where a model learnt, and how far what arrives later has moved from that.

Everything is kept as counts in bins, so that neither the reference nor a week's account of what was asked holds a
value of anybody's film. The population stability index compares a week's shares with the reference's; a cumulative sum
(CUSUM) adds up small deviations over weeks. Both limits follow from how many exams there were, not from a rule of
thumb: with few exams the index is large by chance alone.

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
"""The index below which a shift is called small by custom; no limit lies under it, however many exams there are."""
SMALLEST_SHIFT = 0.5
"""Standard deviations of the reference: a lasting shift of this size is to be found, smaller ones are not sought."""
REFERENCE_ERRORS = 1.25
"""Standard errors of the reference's mean that are no shift, either: more would hide small shifts for months, fewer
bring more false alarms than the budget holds, since a reference is drawn unluckily at times
(`docs/how-to/drift.md`)."""
_USUAL_SPREAD = 0.9
"""Deviation of the scores of ten equal bins, rounded down."""
_HALF = 0.5
"""Count added to each bin, so that an empty one has a logarithm."""


@dataclass(frozen=True)
class Distribution:
    """Shares of films in bins of one figure."""

    edges: tuple[float, ...]
    """Inner bounds of the bins, rising; a value on a bound belongs to the bin above it."""
    counts: tuple[int, ...]
    """Films in each bin."""
    exams: int
    """Patients or requests that the films are of: the films of one are no independent evidence."""

    def __post_init__(self) -> None:
        """Refuse bounds that do not rise, and counts that do not fit them."""
        rising = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        if not (rising and len(self.counts) == len(self.edges) + 1 and min(self.counts) >= 0):
            raise ConfigError(f"a distribution of {len(self.edges)} bounds must rise and have one count more")
        if not 0 < self.exams <= sum(self.counts):
            raise ConfigError(f"a distribution of {sum(self.counts)} films cannot be of {self.exams} exams")

    @classmethod
    def of(cls, values: Sequence[float] | Floats, exams: int) -> "Distribution":
        """Return that of some films' values, in bins of equal shares as far as equal values allow."""
        found = np.asarray(values, np.float64)
        bounds = np.quantile(found, np.arange(1, BINS) / BINS)
        # Where many films have the very same value it gets a bin of its own: a step to either side must show.
        repeated = [value for value in np.unique(bounds) if (found == value).mean() > 1 / BINS]
        edges = np.unique([*bounds, *repeated, *(np.nextafter(value, np.inf) for value in repeated)])
        return cls(tuple(map(float, edges)), tuple(map(int, _count(found, edges))), exams)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Distribution":
        """Return the distribution of its JSON values."""
        return cls(tuple(values["edges"]), tuple(values["counts"]), int(values["exams"]))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"edges": list(self.edges), "counts": list(self.counts), "exams": self.exams}

    def count(self, values: Sequence[float] | Floats) -> Floats:
        """Return how many of the values fall into each bin, (bins,)."""
        return _count(np.asarray(values, np.float64), np.asarray(self.edges))

    @property
    def shares(self) -> Floats:
        """Return the share of each bin, (bins,), none of them 0."""
        return _shares(np.asarray(self.counts, np.float64))

    @property
    def scores(self) -> Floats:
        """Return a normal score for each bin, (bins,): of mean 0 and deviation 1 at most over the reference.

        Scores rather than values, so that one odd film cannot move a week's mean by more than its place among others.
        They are not stretched where nearly all films lie in one bin: there a single other film would be an event.
        """
        shares = self.shares
        middles = np.cumsum(shares) - shares / 2
        raw = np.array([NormalDist().inv_cdf(float(middle)) for middle in middles])
        mean = float((shares * raw).sum())
        spread = math.sqrt(float((shares * np.square(raw - mean)).sum()))
        return (raw - mean) / max(spread, _USUAL_SPREAD)


def _count(values: Floats, edges: Floats) -> Floats:
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(np.float64)


def _shares(counts: Floats) -> Floats:
    shares: Floats = (counts + _HALF) / (counts.sum() + _HALF * len(counts))
    return shares


def stability_index(reference: Distribution, counts: Floats) -> float:
    """Return the population stability index of counts, (bins,), against the reference; 0 is the same."""
    expected, found = reference.shares, _shares(counts)
    return float(((found - expected) * np.log(found / expected)).sum())


def index_limit(reference: Distribution, exams: float, false_alarms: float) -> float:
    """Return what the index exceeds by chance with probability `false_alarms`, at least `LEAST_INDEX`."""
    freedom = max(1, sum(count > 0 for count in reference.counts) - 1)
    return max(LEAST_INDEX, (1 / exams + 1 / reference.exams) * chi_squared_quantile(1 - false_alarms, freedom))


def chi_squared_quantile(probability: float, freedom: int) -> float:
    """Return a quantile of the chi-squared distribution, to within five per cent (Wilson and Hilferty, 1931)."""
    normal = NormalDist().inv_cdf(probability)
    return freedom * max(0.0, 1 - 2 / (9 * freedom) + normal * math.sqrt(2 / (9 * freedom))) ** 3


def allowance(reference: Distribution) -> float:
    """Return the deviation from the reference that a CUSUM does not add up, in standard deviations.

    Half the shift that is sought, and `REFERENCE_ERRORS` of the reference's own mean, which would otherwise be taken
    for a shift in the end. The limit may count on the half alone: an unlucky reference uses up the rest.
    """
    return SMALLEST_SHIFT / 2 + REFERENCE_ERRORS / math.sqrt(reference.exams)


def cusum_limit(slack: float, run_length: float) -> float:
    """Return the limit of a two-sided CUSUM that false alarms reach every `run_length` windows on average.

    `slack` is what is left of the allowance, in standard errors of a window's mean. Siegmund's approximation, solved by
    halving.
    """
    low, high = 0.0, 500.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(slack, middle) < run_length else (low, middle)
    return high


def _two_sided(slack: float, limit: float) -> float:
    reach = 2 * slack * (limit + 1.166)
    one_sided = (math.exp(min(reach, 700.0)) - reach - 1) / (2 * slack * slack)
    return one_sided / 2


def fit_distributions(figures: Sequence[Mapping[str, float]], exams: Sequence[str]) -> dict[str, Distribution]:
    """Return the distribution of each figure over films; `exams` names the patient of each.

    A figure that a film lacks is left out for that film; one that no film has is left out.
    """
    names = sorted({name for film in figures for name in film})
    found = {}
    for name in names:
        rows = [(film[name], exam) for film, exam in zip(figures, exams, strict=True) if name in film]
        found[name] = Distribution.of([value for value, _ in rows], len({exam for _, exam in rows}))
    return found
