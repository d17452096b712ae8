"""The power of a test set, by simulation: how many images are enough.

Scores are drawn from two normal distributions that give the assumed AUC (the binormal model). Each drawn set gets its
AUC and the interval of DeLong et al. 1988. The images count as independent. Images of one patient are not independent,
so a set with several images per patient has less power than its number of images suggests.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.errors import ConfigError

FEWEST = 5
"""Minimum number of malignant, and of other, images for a meaningful interval."""


@dataclass(frozen=True)
class Power:
    """The power of a test set of a given size."""

    malignant: int
    others: int
    auc: float
    against: float
    width: float
    """Mean width of the 95 % interval of the AUC."""
    low: float
    """Fifth percentile of the measured AUC: one set in twenty measures less."""
    high: float
    """Ninety-fifth percentile of the measured AUC."""
    power: float
    """Fraction of the drawn sets whose 95 % interval lies above `against`."""


def simulate(
    auc: float, malignant: int, others: int, *, against: float = 0.5, draws: int = 1000, seed: int = 0
) -> Power:
    """Return the power of a test set for a model with a given AUC.

    Args:
        auc: The model's true AUC, malignant against the rest, above 0.5 and below 1.
        malignant: Number of malignant images in the set.
        others: Number of other images in the set.
        against: The AUC to exclude.
        draws: Number of simulated sets.
        seed: Seed of the simulation.

    Returns:
        The power and the distribution of the measured AUC.

    Raises:
        ConfigError: A number is outside its range.
    """
    if not 0.5 < auc < 1:
        raise ConfigError(f"--auc {auc:g}: must be above 0.5 and below 1")
    if not 0.5 <= against < auc:
        raise ConfigError(f"--against {against:g}: must be at least 0.5 and below --auc {auc:g}")
    for name, count in (("malignant", malignant), ("others", others)):
        if count < FEWEST:
            raise ConfigError(f"--{name} {count}: must be at least {FEWEST}")
    if draws < 100:
        raise ConfigError(f"--draws {draws}: must be at least 100")
    rng = np.random.default_rng(seed)
    # Two normal distributions of variance 1 at this distance have the AUC Phi(distance / sqrt(2)).
    shift = math.sqrt(2) * NormalDist().inv_cdf(auc)
    found = np.array(
        [_auc(rng.normal(shift, 1, malignant), rng.normal(0, 1, others)) for _ in range(draws)], np.float64
    )
    half = NormalDist().inv_cdf(0.975) * found[:, 1]
    return Power(
        malignant=malignant,
        others=others,
        auc=auc,
        against=against,
        width=float(2 * half.mean()),
        low=float(np.quantile(found[:, 0], 0.05)),
        high=float(np.quantile(found[:, 0], 0.95)),
        power=float((found[:, 0] - half > against).mean()),
    )


def _auc(cases: NDArray[np.float64], controls: NDArray[np.float64]) -> tuple[float, float]:
    """Return the AUC and its standard error (DeLong's, by the placement values of either group)."""
    above = np.searchsorted(np.sort(controls), cases) / len(controls)
    below = 1 - np.searchsorted(np.sort(cases), controls) / len(cases)
    variance = above.var(ddof=1) / len(cases) + below.var(ddof=1) / len(controls)
    return float(above.mean()), math.sqrt(variance)
