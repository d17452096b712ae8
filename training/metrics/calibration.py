"""Metrics of how well the probability of cancer is calibrated, and of its clinical value.

    labels (n,) 0 or 1, scores (n,) probabilities      expected_over_observed, calibration_intercept, calibration_slope
    points for plots                                   reliability_of_malignant, brier_decomposition, net_benefit,
                                                       precision_recall_curve

Sources: Cox 1958 (intercept and slope); Van Calster et al. 2019, "Calibration: the Achilles heel of predictive
analytics"; Murphy 1973 (decomposition of the Brier score); Vickers and Elkin 2006 (net benefit).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mammopipe.training.metrics.classification import BOTH
from mammopipe.training.metrics.metric import Metric, ratio
from mammopipe.training.metrics.precision_recall import average_precision
from mammopipe.training.metrics.scale import Scale
from mammopipe.training.model.predictions import Floats, Integers

MOST_BINS, LEAST_IN_A_BIN = 10, 10
"""A reliability plot has at most 10 bins of about equally many cases, each of at least 10 cases."""
THRESHOLD_PROBABILITIES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Threshold probabilities of the decision curve: the probability of cancer at which a reader would act."""
_LEAST, _MOST = 1e-6, 1 - 1e-6
"""Probabilities are clipped to this range before the logit is taken."""
_STEPS, _LARGEST_STEP = 25, 4.0
"""Newton steps of the logistic fits. A fit that converges needs fewer than ten."""
_SETTLED = 1e-6
"""A slope that its last step changed by more than this share has not converged; its metric is undefined."""
_CURVE_POINTS = 200


def _expected_over_observed(labels: Integers, scores: Floats, weights: Floats) -> Floats:
    return ratio(weights @ scores, weights @ labels.astype(np.float64))


def _logits(scores: Floats) -> Floats:
    kept = np.clip(scores, _LEAST, _MOST)
    found: Floats = np.log(kept / (1 - kept))
    return found


def _intercept(labels: Integers, scores: Floats, weights: Floats) -> Floats:
    """Return, for each row of weights, the constant that makes the logits right on average (Newton)."""
    logits, positives = _logits(scores), weights @ labels.astype(np.float64)
    found = np.zeros(len(weights))
    for _ in range(_STEPS):
        shares = 1 / (1 + np.exp(-(logits + found[:, np.newaxis])))
        slope = (weights * shares).sum(axis=1) - positives
        curvature = (weights * shares * (1 - shares)).sum(axis=1)
        # Limited, because Newton's step is far too long where the likelihood is nearly flat.
        found -= np.clip(slope / np.maximum(curvature, 1e-12), -_LARGEST_STEP, _LARGEST_STEP)
    # If all cases have the same truth, the likelihood has no maximum.
    return np.where((positives > 0) & (positives < weights.sum(axis=1)), found, np.nan)


def _slope(labels: Integers, scores: Floats, weights: Floats) -> Floats:
    """Return, for each row of weights, the slope of a logistic regression of the truth on the logits (Newton)."""
    from scipy.special import expit

    logits, truth = _logits(scores), labels.astype(np.float64)
    constant, slope, step = np.zeros(len(weights)), np.ones(len(weights)), np.zeros(len(weights))
    for _ in range(_STEPS):
        shares = expit(slope[:, np.newaxis] * logits + constant[:, np.newaxis])
        residual, spread = weights * (shares - truth), weights * shares * (1 - shares)
        first, second = residual.sum(axis=1), residual @ logits
        a, b, c = spread.sum(axis=1), spread @ logits, spread @ logits**2
        # The Hessian is [[a, b], [b, c]]. It is singular if all logits are equal.
        determinant = np.maximum(a * c - b * b, 1e-12)
        constant -= np.clip((c * first - b * second) / determinant, -_LARGEST_STEP, _LARGEST_STEP)
        step = np.clip((a * second - b * first) / determinant, -_LARGEST_STEP, _LARGEST_STEP)
        slope -= step
    settled = np.abs(step) <= _SETTLED * np.maximum(1, np.abs(slope))
    return np.where(settled & _overlap(truth, logits, weights), slope, np.nan)


def _overlap(truth: Floats, logits: Floats, weights: Floats) -> npt.NDArray[np.bool_]:
    """Return, for each row of weights, whether the logits of positive and negative cases overlap.

    Where they do not, the likelihood rises with the slope without end; where all are equal, it does not depend on the
    slope (Albert and Anderson 1984). Rows without a positive or without a negative case do not overlap either.
    """
    drawn, positive = weights > 0, truth == 1

    def ends(members: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Return the lowest and the highest logit of the drawn members of each row."""
        taken = drawn & members
        return np.where(taken, logits, np.inf).min(axis=1), np.where(taken, logits, -np.inf).max(axis=1)

    (low, high), (other_low, other_high) = ends(positive), ends(~positive)
    found: npt.NDArray[np.bool_] = (low < other_high) & (other_low < high)
    return found


expected_over_observed = Metric(
    "expected_over_observed", _expected_over_observed, needs="a positive case", binary=True, scale=Scale.POSITIVE
)
"""The sum of the probabilities divided by the number of positive cases. 1 is right on average; 2 predicts twice as many
positive cases as there are."""
calibration_intercept = Metric("calibration_intercept", _intercept, needs=BOTH, binary=True, scale=Scale.REAL)
"""The constant to add to the logits to be right on average (calibration in the large). 0 is right; a negative intercept
means that the probabilities are too high."""
calibration_slope = Metric(
    "calibration_slope",
    _slope,
    needs="images with and without the finding whose scores overlap",
    binary=True,
    scale=Scale.REAL,
)
"""The slope of the truth on the logits. 1 is right; below 1, the probabilities are too extreme."""
OF_MALIGNANT = (expected_over_observed, calibration_intercept, calibration_slope, average_precision)
"""The metrics that the report shows for the probability of malignant."""


def reliability_of_malignant(labels: Integers, scores: Floats) -> list[dict[str, float | int]]:
    """Return the points of a reliability plot of one probability, in bins of about equally many cases.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) probabilities.

    Returns:
        For each bin {"predicted": mean probability, "observed": proportion of positive cases, "low", "high": exact 95 %
        interval of `observed` (Clopper and Pearson 1934, which assumes independent cases), "images", "malignant"}.
    """
    from scipy.stats import beta

    bins = max(1, min(MOST_BINS, len(scores) // LEAST_IN_A_BIN))
    points = []
    for members in _equal_bins(scores, bins):
        n, k = len(members), int(labels[members].sum())
        points.append(
            {
                "predicted": float(scores[members].mean()),
                "observed": k / n,
                "low": float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0,
                "high": float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0,
                "images": n,
                "malignant": k,
            }
        )
    return points


def _equal_bins(scores: Floats, bins: int) -> list[Integers]:
    """Return the positions of the cases of each bin; equal scores stay in one bin."""
    # Tied scores give equal quantiles, and so fewer bins.
    edges = np.unique(np.quantile(scores, np.arange(1, bins) / bins)) if bins > 1 else np.array([])
    index = np.searchsorted(edges, scores, side="right")
    return [np.flatnonzero(index == number) for number in np.unique(index)]


def brier_decomposition(labels: Integers, scores: Floats) -> dict[str, float]:
    """Return Murphy's decomposition of the Brier score of one probability, over the bins of `reliability_of_malignant`.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) probabilities.

    Returns:
        {"brier", "reliability": mean squared gap between predicted and observed (0 is calibrated), "resolution": mean
        squared gap between the bins' proportions and the overall one (higher is better), "uncertainty": p (1 - p) of
        the overall proportion p, "remainder": contribution of the spread within bins};
        brier = reliability - resolution + uncertainty + remainder.
    """
    share, truth = float(labels.mean()), labels.astype(np.float64)
    reliability = resolution = 0.0
    for point in reliability_of_malignant(labels, scores):
        weight = point["images"] / len(labels)
        reliability += weight * (point["predicted"] - point["observed"]) ** 2
        resolution += weight * (point["observed"] - share) ** 2
    brier, uncertainty = float(np.square(scores - truth).mean()), share * (1 - share)
    return {
        "brier": brier,
        "reliability": reliability,
        "resolution": resolution,
        "uncertainty": uncertainty,
        "remainder": brier - reliability + resolution - uncertainty,
    }


def net_benefit(
    labels: Integers, scores: Floats, at: Sequence[float] = THRESHOLD_PROBABILITIES
) -> list[dict[str, float]]:
    """Return the decision curve: the net benefit of recalling cases at or above each threshold probability.

    A false positive costs the odds of the threshold. The curve holds for the prevalence of these cases.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) probabilities.
        at: Threshold probabilities.

    Returns:
        For each threshold {"threshold", "model", "all": recalling everyone, "none": 0}: net benefits in true positives
        per case.
    """
    share = float(labels.mean())
    curve = []
    for threshold in at:
        odds, called = threshold / (1 - threshold), scores >= threshold
        hits, alarms = float((called & (labels == 1)).mean()), float((called & (labels == 0)).mean())
        curve.append(
            {
                "threshold": threshold,
                "model": hits - odds * alarms,
                "all": share - odds * (1 - share),
                "none": 0.0,
            }
        )
    return curve


def precision_recall_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> dict[str, list[float]] | None:
    """Return {"recall", "precision"}, by rising recall, at most 200 points; `None` without a positive case."""
    from sklearn.metrics import precision_recall_curve as curve_of

    if not np.asarray(labels).any():
        return None
    precision, recall, _ = curve_of(labels, scores)
    precision, recall = precision[::-1], recall[::-1]  # scikit-learn returns them by falling recall.
    if len(recall) > _CURVE_POINTS:
        kept = np.linspace(0, len(recall) - 1, _CURVE_POINTS).round().astype(int)
        precision, recall = precision[kept], recall[kept]
    return {"recall": recall.tolist(), "precision": precision.tolist()}


def of_malignant(labels: Integers, scores: Floats) -> dict[str, Any]:
    """Return the data of the plots and tables of the probability of malignant; without intervals."""
    return {
        "reliability": reliability_of_malignant(labels, scores),
        "brier": brier_decomposition(labels, scores),
        "decision_curve": net_benefit(labels, scores),
        "precision_recall": precision_recall_curve(labels, scores),
    }
