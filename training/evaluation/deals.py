"""The figures of each deal of patients to folds, as a run of that deal alone would report them, and their spread.

The intervals of a figure resample patients. They hold fixed which patients were in which fold, and the training. Where
a cross-validation deals the patients to folds several times (`training.deals`), the differences between the deals show
how much both matter. They do not show how the figure would differ with other patients.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.training.evaluation.calibration import calibrate, fit_comparison
from mammopipe.training.fitting.out_of_fold import OutOfFold
from mammopipe.training.metrics.classification import balanced_accuracy, log_loss, macro_auc, malignant_auc
from mammopipe.training.metrics.metric import Metric
from mammopipe.training.model.exam_scores import BreastRule, compared
from mammopipe.training.model.predictions import Floats, Integers

FIGURES: tuple[Metric, ...] = (macro_auc, malignant_auc, balanced_accuracy, log_loss)


def deal_figures(
    held: OutOfFold | None, records: Sequence[ImageRecord], other_breast: float, rule: BreastRule
) -> dict[str, Any]:
    """Return `deals` of a candidate in `evaluation.json`.

    Each deal has its own calibration. `compared` is of the images of patients with both breasts, or null where breasts
    are not compared.

    Args:
        held: The candidate's out-of-fold logits; `None` without cross-validation.
        records: The development images.
        other_breast: Weight of the other breast where breasts are compared.
        rule: How the scores of a breast's views are combined.

    Returns:
        {"number": of deals, 0 without cross-validation; "alone", "compared": {figure: {"each", "mean", "lowest",
        "highest", "standard_deviation"}}, null with fewer than two deals}.
    """
    deals = held.each_deal if held is not None else ()
    if len(deals) < 2:
        return {"number": len(deals), "alone": None, "compared": None}
    alone, beside = [], []
    for deal in deals:
        said = deal.predictions(records)
        alone.append(_values(said.labels, said.probabilities(calibrate(said).calibration)))
        comparison = fit_comparison(said, other_breast, rule)
        if comparison is not None:
            kept, _ = compared(said, other_breast)
            beside.append(_values(kept.labels, kept.probabilities(comparison.calibration)))
    return {"number": len(deals), "alone": _spread(alone), "compared": _spread(beside) if beside else None}


def _values(labels: Integers, probabilities: Floats) -> dict[str, float]:
    return {metric.name: metric(labels, probabilities) for metric in FIGURES}


def _spread(deals: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    found = {name: [deal[name] for deal in deals] for name in deals[0]}
    return {
        name: {
            "each": values,
            "mean": float(np.mean(values)),
            "lowest": min(values),
            "highest": max(values),
            "standard_deviation": float(np.std(values, ddof=1)),
        }
        for name, values in found.items()
    }
