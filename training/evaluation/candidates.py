"""Computes the values of `evaluation.json` for each candidate, the selected one, and the majority baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mammopipe.processing.classes import class_indices
from mammopipe.processing.datasets.manifest import ImageRecord, Split
from mammopipe.processing.errors import ManifestError
from mammopipe.training.config import Learns
from mammopipe.training.evaluation.calibration import (
    COMPARED,
    Comparison,
    FittedCalibration,
    FittedMaps,
    calibrate,
    fit_comparison,
)
from mammopipe.training.evaluation.data import SegmentedData
from mammopipe.training.evaluation.detection import by_level
from mammopipe.training.evaluation.selection import Candidate, Choice
from mammopipe.training.fitting.out_of_fold import OutOfFold
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.classification import balanced_accuracy, log_loss, macro_auc, malignant_auc
from mammopipe.training.metrics.metric import Metric
from mammopipe.training.metrics.negatives import gain_by_negatives, negatives
from mammopipe.training.metrics.scorecard import figure, scorecard, without_plots
from mammopipe.training.metrics.subgroups import subgroups
from mammopipe.training.metrics.thresholds import sensitivity_at, specificity_at
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, cases_of, compared, image_cases, malignancy
from mammopipe.training.model.operating_points import Goal
from mammopipe.training.model.predictions import (
    Floats,
    Integers,
    Predictions,
    TestPredictions,
    ValidationPredictions,
    pick,
)
from mammopipe.training.networks.model_directory import LoadedModel

Draws = Mapping[Split, Resamples]
"""Bootstrap draws of each split's images; all metrics share them."""
OF_A_DEAL: tuple[Metric, ...] = (macro_auc, malignant_auc, balanced_accuracy, log_loss)
"""The metrics of each deal (one assignment of patients to folds)."""


def candidate_figures(
    model: LoadedModel,
    judged: Candidate,
    validation: ValidationPredictions,
    test: TestPredictions,
    draws: Draws,
    rule: BreastRule,
) -> dict[str, Any]:
    """Return how a candidate was trained, and all its metrics on validation and test.

    `compared` holds the metrics with comparison of the breasts; it is null where breasts are not compared.
    """
    training, calibration = model.description["training"], judged.fit.calibration
    measured = {
        split: by_level(cases_of(predictions, calibration, rule), judged.thresholds, draws[split])
        for split, predictions in ((Split.VALIDATION, validation), (Split.TEST, test))
    }
    on_test = scorecard(test.labels, test.probabilities(calibration), classes=test.classes, resamples=draws[Split.TEST])
    return {
        "architecture": model.description["architecture"],
        "initialisation": model.description["initialisation"],
        "pretrained_weights": model.description["pretrained_weights"],
        "learns": training.get("hyperparameters", {}).get("learns", str(Learns.ALL)),
        "final": training.get("cross_validation", {}).get("final"),
        "epochs_run": training["epochs_run"],
        "best_epoch": training["best_epoch"],
        "history": training["history"],
        "seconds": training["seconds"],
        **calibration.as_dict(test.classes),
        "calibration_method": str(judged.fit.method),
        "scores": _maps(judged.maps),
        "choice": dict(judged.choice),
        "validation": {**judged.validation, **measured[Split.VALIDATION]},
        "test": {**on_test, **measured[Split.TEST]},
        "compared": _compared(judged.comparison, calibration, (validation, test), draws, rule)
        if judged.comparison
        else None,
    }


def _maps(maps: FittedMaps) -> dict[str, Any]:
    return {str(level): fitted.as_dict() for level, fitted in maps.items()}


def _compared(
    comparison: Comparison, alone: Calibration, judged: Sequence[Predictions], draws: Draws, rule: BreastRule
) -> dict[str, Any]:
    """Return the comparison's weight and calibration and, for each split, the metrics of patients with both breasts.

    `by_negatives` compares these metrics with those of the same images without comparison; `alone` is the calibration
    of the latter.
    """
    found: dict[str, Any] = {
        "weight": comparison.weight,
        **comparison.calibration.as_dict(judged[0].classes),
        "calibration_method": str(comparison.method),
        "scores": _maps(comparison.maps),
    }
    for predictions in judged:
        kept, places = compared(predictions, comparison.weight)
        if len(places) == 0:
            found[str(kept.split)] = None
            continue
        drawn = draws[kept.split].of(places)
        cases = cases_of(kept, comparison.calibration, rule)
        shares = kept.probabilities(comparison.calibration)
        images = scorecard(kept.labels, shares, classes=kept.classes, resamples=drawn)
        levels = by_level({level: cases[level] for level in COMPARED}, comparison.thresholds, drawn)
        by_negatives = gain_by_negatives(
            negatives(kept.labels, kept.patients, kept.classes),
            malignancy(pick(predictions, places), alone)[1],
            malignancy(kept, comparison.calibration)[1],
            drawn,
        )
        found[str(kept.split)] = {**without_plots(images), **levels, "by_negatives": by_negatives}
    return found


def selected_figures(
    candidate: Mapping[str, Any],
    choice: Choice,
    chosen: Mapping[Split, Predictions],
    rows: Mapping[Split, Sequence[ImageRecord]],
    draws: Draws,
    where: str,
) -> dict[str, Any]:
    """Return the selected candidate's metrics without plot data, its subgroups and its operating points.

    `where` names the predictions that the selection used: validation, or out-of-fold.
    """
    judged = choice.candidates[choice.selected]
    figures = {
        str(split): {
            **without_plots(candidate[split]),
            "subgroups": _subgroups(judged, chosen[split], rows[split], draws[split]),
        }
        for split in (Split.VALIDATION, Split.TEST)
    }
    # The number as text, because a pipeline definition cannot round one for the gate's message.
    figure = f"{candidate['validation']['macro_auc']['value']:.4f}"
    return {
        "cnn": choice.selected,
        "rule": f"highest {where} {candidate['choice']['words']}",
        "figure": figure,
        "choice": candidate["choice"],
        **figures,
        "compared": candidate["compared"],
        "deals": candidate["deals"],
        "operating_points": _operating_points(judged.fit, chosen, draws),
    }


def _subgroups(
    judged: Candidate, predictions: Predictions, rows: Sequence[ImageRecord], draws: Resamples
) -> dict[str, Any]:
    images = image_cases(predictions, judged.fit.calibration)
    right = (predictions.probabilities(judged.fit.calibration).argmax(axis=1) == predictions.labels).astype(np.int64)
    return subgroups(rows, images, right, judged.thresholds[images.level][Goal.SENSITIVITY], draws)


def _operating_points(fit: FittedCalibration, chosen: Mapping[Split, Predictions], draws: Draws) -> dict[str, Any]:
    """Return each operating point as fixed on validation, with its sensitivity and specificity on both splits."""
    points: dict[str, Any] = {}
    for goal, point in fit.points_as_dict().items():
        points[goal] = dict(point)
        for split, predictions in chosen.items():
            malignant, scores = malignancy(predictions, fit.calibration)
            points[goal][f"on_{split}"] = {
                metric.name: figure(metric, malignant, scores, draws[split])
                for metric in (sensitivity_at(point["threshold"]), specificity_at(point["threshold"]))
            }
    return points


def baseline(data: SegmentedData, rows: Mapping[Split, Sequence[ImageRecord]], draws: Draws) -> dict[str, Any]:
    """Return the metrics of the majority baseline.

    It always predicts the class frequencies of the training originals, and so their most frequent class.
    """
    learnt = data.cases(data.originals(Split.TRAIN))
    counts = np.bincount(class_indices(learnt, data.classes), minlength=len(data.classes))
    frequencies: Floats = counts / max(len(learnt), 1)  # Without images, all 0; the next line raises then.
    if not frequencies.any():
        raise ManifestError(
            f"{data.folder}: split=train has no original image; the majority class is that of the training images"
        )
    figures: dict[str, Any] = {"class": str(data.classes[int(frequencies.argmax())])}
    for split, records in rows.items():
        labels = class_indices(records, data.classes)
        always = np.tile(frequencies, (len(labels), 1))
        figures[str(split)] = scorecard(labels, always, classes=data.classes, resamples=draws[split])
    return figures


def deal_figures(
    held: OutOfFold | None, records: Sequence[ImageRecord], other_breast: float, rule: BreastRule
) -> dict[str, Any]:
    """Return `deals` of a candidate: the metrics of each deal, as a run with only this deal would report them.

    A deal is one assignment of patients to folds; a cross-validation may repeat it (`deals`). The interval of a metric
    resamples patients; the assignment and the training stay fixed. The differences between deals show how much the
    assignment and the training matter. They do not show how the metric would differ with other patients.

    Each deal has its own calibration. `compared` holds the metrics of patients with images of both breasts; it is null
    where breasts are not compared.

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
    alone, with_comparison = [], []
    for deal in deals:
        predictions = deal.predictions(records)
        alone.append(_values(predictions.labels, predictions.probabilities(calibrate(predictions).calibration)))
        comparison = fit_comparison(predictions, other_breast, rule)
        if comparison is not None:
            kept, _ = compared(predictions, other_breast)
            with_comparison.append(_values(kept.labels, kept.probabilities(comparison.calibration)))
    compared_figures = _spread(with_comparison) if with_comparison else None
    return {"number": len(deals), "alone": _spread(alone), "compared": compared_figures}


def _values(labels: Integers, probabilities: Floats) -> dict[str, float]:
    return {metric.name: metric(labels, probabilities) for metric in OF_A_DEAL}


def _spread(deals: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    found = {name: [deal[name] for deal in deals] for name in deals[0]}
    return {
        name: {
            "each": values,
            "mean": float(np.mean(values)),
            "lowest": min(values),
            "highest": max(values),
            # ddof=1, because the deals are a sample of all possible assignments.
            "standard_deviation": float(np.std(values, ddof=1)),
        }
        for name, values in found.items()
    }
