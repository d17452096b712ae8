"""Compares variants of a study with a base over several deals (assignments of patients to folds), and makes a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.studies.ablation import spread
from mammopipe.processing.datasets.manifest import ImageRecord, breast_id
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.classification import macro_auc, malignant_auc
from mammopipe.training.metrics.metric import Metric
from mammopipe.training.model.exam_scores import beside_other
from mammopipe.training.model.predictions import Floats, Integers, softmax


def _over_deals(metric: Metric, deals: int) -> Metric:
    """Return the mean of a metric over the deals; values are (images, deals x classes), divided by the deals."""

    def figures(labels: Integers, values: Floats, weights: Floats) -> Floats:
        parts = np.split(values * deals, deals, axis=1)
        found: Floats = np.mean([metric.weighted(labels, part, weights) for part in parts], axis=0)
        return found

    return Metric(metric.name, figures, needs=metric.needs, share=True, kinds=metric.kinds)


def compare(
    logits: Sequence[Floats], base: Sequence[Floats], records: Sequence[ImageRecord], share: float
) -> dict[str, Any]:
    """Return the figures of a variant and its paired differences from the base.

    Args:
        logits: (images, classes) of each deal.
        base: The same of the variant to compare with.
        records: The images.
        share: Fraction of the other breast's logits to subtract.
    """
    patients = [record.patient_id for record in records]
    labels = np.array([record.label.rank for record in records])
    draws = Resamples.draw(np.array(patients), n=1000, seed=0)

    def probabilities(deals: Sequence[Floats]) -> list[Floats]:
        breasts = list(map(breast_id, records))
        return [softmax(beside_other(one, patients, breasts, share) if share else one) for one in deals]

    ours, theirs = probabilities(logits), probabilities(base)
    found: dict[str, Any] = {}
    for metric in (macro_auc, malignant_auc):
        mean, count = _over_deals(metric, len(ours)), len(ours)
        joined = [np.concatenate(deals, axis=1) / count for deals in (ours, theirs)]
        together = np.mean(ours, axis=0)
        found[metric.name] = {
            "deals": [metric(labels, one) for one in ours],
            "interval": draws.interval(mean, labels, joined[0], level=0.95).as_dict(),
            "difference": draws.difference(mean, labels, joined[1], joined[0], level=0.95).as_dict(),
            "ensemble": draws.interval(metric, labels, together, level=0.95).as_dict(),
            "ensemble_difference": draws.difference(
                mean, labels, joined[0], np.tile(together, count) / count, level=0.95
            ).as_dict(),
        }
    return found


def table_line(name: str, found: dict[str, Any]) -> str:
    """Return a variant's line of the table with `HEADING`, from the result of `compare`."""
    cells = []
    for each in found.values():
        gain, gained = each["difference"], each["ensemble_difference"]
        cells.append(f"{spread(each['deals'])} ({bounds(each['interval'])})")
        cells.append("-" if gain["value"] == 0 else f"{gain['value']:+.3f} ({bounds(gain, signed=True)})")
        cells.append(f"{each['ensemble']['value']:.3f} ({gained['value']:+.3f}; {bounds(gained, signed=True)})")
    return f"| {name} | {' | '.join(cells)} |"


def bounds(interval: dict[str, Any], *, signed: bool = False) -> str:
    """Return the bounds of an interval as text."""
    if interval["low"] is None:
        return "no interval"
    return " to ".join(f"{interval[bound]:{'+' if signed else ''}.3f}" for bound in ("low", "high"))


HEADING = (
    "| variant | macro AUC, mean of deals [lowest to highest] (interval) | difference from the first | "
    "mean probabilities of the deals (gain) | malignant AUC | difference | mean probabilities (gain) |\n"
    "|---|---|---|---|---|---|---|"
)
