"""The results of an external evaluation: discrimination, calibration in the large, drift and the heatmap's accuracy.

The model's calibration and thresholds are used as served; nothing is fitted on the dataset.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mammopipe.pipelines.external_evaluation.cases import JudgedCases
from mammopipe.pipelines.external_evaluation.judging import Judged, Judgement
from mammopipe.processing import declared_data
from mammopipe.processing.classes import TWO, Classes, possible_classes
from mammopipe.processing.datasets.definition import Dataset
from mammopipe.processing.datasets.manifest import ImageRecord, Label
from mammopipe.training.evaluation.detection import detection
from mammopipe.training.metrics import calibration, classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.metric import mean_metric
from mammopipe.training.metrics.scorecard import OF_A_CLASS, OVERALL, figure, scorecard, undefined
from mammopipe.training.metrics.subgroups import subgroups
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.distributions import index_limit, stability_index
from mammopipe.training.model.drift_features import EVERYTHING, from_json, image_figures
from mammopipe.training.model.exam_scores import (
    BreastRule,
    Cases,
    Level,
    cases_of,
    compared,
    image_cases,
    malignancy,
)
from mammopipe.training.model.operating_points import Goal, Points, read_compared_points, read_operating_points
from mammopipe.training.model.predictions import Floats, Integers, TestPredictions

SCHEMA = 1
FALSE_ALARMS = 0.01
"""Probability that chance alone takes a drift index over its limit."""
FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Numbers of false positive regions per image at which the FROC curve is read."""

share_of = mean_metric("share", lambda hits, scores: hits, needs="at least one image", share=True)


@dataclass(frozen=True)
class Plan:
    """Settings of the resampled intervals."""

    bootstrap: int = 1000
    """Number of resamples for each interval."""
    seed: int = 0


def figures(
    description: Mapping[str, Any],
    judgement: Judgement,
    cases: JudgedCases,
    dataset: Dataset,
    plan: Plan,
    where: Path,
) -> dict[str, Any]:
    """Return the content of `external.json`.

    Args:
        description: The model's verified `model.json`.
        judgement: The model's predictions for the images.
        cases: The images or, for a model that judges breasts, the breasts.
        dataset: The dataset of the images.
        plan: Settings of the intervals.
        where: Name of the model in error messages.
    """
    of_model = list(description["classes"])
    classes = possible_classes((record.label for record in cases.records), required=True)
    same = list(classes) == of_model
    classes = classes if same else TWO
    predictions, of_images = cases.predictions, judgement.predictions(of_model)
    draws = Resamples.draw(predictions.patients, n=plan.bootstrap, seed=plan.seed)
    scaling = Calibration.of(description)
    truth, shares = predictions.labels, scaling.probabilities(predictions.logits)
    if len(classes) < len(of_model):
        truth, shares = classification.malignant_or_not(truth, shares)
    points = read_operating_points(description, where)
    rule = BreastRule(description["calibration"].get("breast_rule") or BreastRule.MEAN)
    levels = _levels(cases_of(predictions, scaling, rule), points, draws)
    right = (shares.argmax(axis=1) == truth).astype(np.int64)
    threshold = points[Level.IMAGE][Goal.SENSITIVITY].threshold if points[Level.IMAGE] else 0.5
    return {
        "schema": SCHEMA,
        "dataset": dataset.name,
        "terms": str(dataset.terms),
        "model": f"{description['architecture']}-{description['weights_sha256'][:12]}",
        "weights_sha256": description["weights_sha256"],
        "trained_on": description["training"].get("data_digest"),
        "weights_data": declared_data.sentence(description["pretrained_weights"], [dataset.name]),
        "prevalence_of_validation": description["calibration"].get("prevalence"),
        "level": str(predictions.level),
        "classes": [str(label) for label in classes],
        "model_classes": of_model,
        **_tallies(cases.records, judgement.images),
        "bootstrap": {"resamples": plan.bootstrap, "seed": plan.seed},
        "counts": _counts(judgement, cases, truth, classes),
        "refused": [{"image_id": name, "reason": reason} for name, reason in judgement.refused],
        **_scorecard(truth, shares, classes, draws, same=same),
        **levels,
        "compared": _compared(description, predictions, draws, rule, where),
        "subgroups": subgroups(cases.records, image_cases(predictions, scaling), right, threshold, draws),
        "calibration": _calibration(predictions, scaling, draws, truth, shares),
        "referred": figure(share_of, _flags(cases.referred), np.zeros(len(cases.referred)), draws),
        "drift": _drift(description, judgement.images, scaling.probabilities(of_images.logits)),
        "pointing": _pointing(judgement.images, Resamples.draw(of_images.patients, n=plan.bootstrap, seed=plan.seed)),
        "froc": _froc(judgement.images),
    }


def _tallies(cases: Sequence[ImageRecord], images: Sequence[Judged]) -> dict[str, dict[str, int]]:
    """Return the number of cases by label, and of images by each reason to refer them to a reader."""
    found = Counter(record.label for record in cases)
    reasons = Counter(code for image in images for code in image.reasons)
    return {
        "labels": {str(label): found[label] for label in Label if found[label]},
        "referral_reasons": dict(reasons.most_common()),
    }


def _scorecard(truth: Integers, shares: Floats, classes: Classes, draws: Resamples, *, same: bool) -> dict[str, Any]:
    """Return the scorecard; unless model and dataset have the same classes, with the figures of malignant alone."""
    found = scorecard(truth, shares, classes=classes, resamples=draws)
    if same:
        return found
    reason = "not comparable: model and dataset have different classes, so only figures of malignant are given"
    dropped = [metric.name for metric in OVERALL if metric is not classification.malignant_auc]
    found |= {name: undefined(reason) for name in dropped}
    only = str(Label.MALIGNANT)
    return found | {name: {only: found[name][only]} for name in (*OF_A_CLASS, "roc")}


def _levels(cases: Mapping[Level, Cases], points: Points, draws: Resamples) -> dict[str, Any]:
    """Return the results of each level at the model's own thresholds for that level."""
    return {
        str(level): detection(
            cases[level], {goal: point.threshold for goal, point in held.items()}, draws.of(cases[level].images)
        )
        for level, held in points.items()
        if level in cases
    }


def _counts(judgement: Judgement, cases: JudgedCases, truth: Integers, classes: Sequence[str]) -> dict[str, int]:
    of_class = np.bincount(truth, minlength=len(classes))
    return {
        "images": len(judgement.images),
        **({"breasts": len(cases.records)} if cases.predictions.level is Level.BREAST else {}),
        "patients": len({image.record.patient_id for image in judgement.images}),
        **{name: int(count) for name, count in zip(classes, of_class, strict=True)},
        "refused": len(judgement.refused),
        "unlabelled": len(judgement.unlabelled),
        "unplaced_lesions": sum(image.unplaced for image in judgement.images),
        "with_lesions": sum(image.chance is not None for image in judgement.images),
    }


def _compared(
    description: Mapping[str, Any], predictions: TestPredictions, draws: Resamples, rule: BreastRule, where: Path
) -> dict[str, Any] | None:
    """Return the results for patients with both breasts if the model compares breasts, `None` otherwise."""
    scaling, points = Calibration.of_comparison(description), read_compared_points(description, where)
    if scaling is None:
        return None
    kept, places = compared(predictions, float(description["calibration"]["comparison"]["weight"]))
    if len(places) == 0:
        return None
    return _levels(cases_of(kept, scaling, rule), points, draws.of(places))


def _calibration(
    predictions: TestPredictions, scaling: Calibration, draws: Resamples, truth: Integers, shares: Floats
) -> dict[str, Any]:
    malignant, scores = malignancy(predictions, scaling)
    return {
        "prevalence": float(malignant.mean()),
        **{metric.name: figure(metric, malignant, scores, draws) for metric in calibration.OF_MALIGNANT},
        "log_loss": figure(classification.log_loss, truth, shares, draws),
        **calibration.of_malignant(malignant, scores),
    }


def _flags(values: Sequence[bool]) -> Any:
    return np.array(values, np.int64)


def _drift(description: Mapping[str, Any], images: Sequence[Judged], probabilities: Floats) -> dict[str, Any]:
    """Return the drift of images and scores from those of training: population stability indices and their limits."""
    reference = description.get("reference") or {}
    known = from_json(reference.get("distributions", {})).get(EVERYTHING, {})
    malignant = list(description["classes"]).index(str(Label.MALIGNANT))
    rows = [
        {**image_figures(image.quality), "malignancy": float(shares[malignant]), "entropy": image.entropy}
        for image, shares in zip(images, probabilities, strict=True)
    ]
    found: dict[str, Any] = {}
    patients = len({image.record.patient_id for image in images})
    for name, distribution in known.items():
        values = [row[name] for row in rows if name in row]
        if values:
            index = stability_index(distribution, distribution.count(values))
            limit = index_limit(distribution, patients, FALSE_ALARMS)
            found[name] = {"index": index, "limit": limit, "drifted": index > limit, "images": len(values)}
    strange = [image.strangeness for image in images if image.strangeness is not None]
    beyond = [value > float(reference["strangeness"]["limit"]) for value in strange]
    return {"figures": found, "strange": float(np.mean(beyond)) if beyond else None}


def _pointing(images: Sequence[Judged], draws: Resamples) -> dict[str, Any]:
    """Return how often the peak of the heatmap for malignant lies in a lesion, and the rate expected by chance."""
    groups = {"both": ("malignant", "benign"), "malignant": ("malignant",), "benign": ("benign",)}
    found: dict[str, Any] = {}
    for name, labels in groups.items():
        places = [n for n, image in enumerate(images) if image.chance is not None and image.record.label in labels]
        hits = _flags([bool(images[n].detections and images[n].detections[0].lesions) for n in places])
        chance = [images[n].chance or 0.0 for n in places]
        found[name] = {
            "images": len(places),
            "hits": figure(share_of, hits, np.zeros(len(places)), draws.of(np.array(places, np.int64)))
            if places
            else undefined("undefined: there must be an image with an outlined lesion"),
            "chance": float(np.mean(chance)) if chance else None,
        }
    return found


def _froc(images: Sequence[Judged]) -> list[dict[str, float]] | None:
    """Return the share of malignant lesions found at each number of false positive regions per image.

    Regions of malignant images with outlined lesions and of normal images are ranked by score. A region whose peak lies
    in no lesion is a false positive. The result is `None` if no malignant lesion is outlined.
    """
    shown = [image for image in images if _places_lesions(image) or image.record.label is Label.NORMAL]
    sought = {
        (place, number)
        for place, image in enumerate(shown)
        for number, lesion in enumerate(image.record.lesions)
        if _places_lesions(image) and lesion.label is Label.MALIGNANT
    }
    if not sought:
        return None
    ordered = sorted(
        ((found.score, place, found.lesions) for place, image in enumerate(shown) for found in image.detections),
        key=lambda item: -item[0],
    )
    hit: set[tuple[int, int]] = set()
    false = 0
    reached = {limit: 0.0 for limit in FALSE_POSITIVES}
    for _, place, where in ordered:
        false += not where
        hit |= {(place, lesion) for lesion in where} & sought
        # The curve is a staircase: the last region within a limit decides, also without a false positive.
        for limit in FALSE_POSITIVES:
            if false <= limit * len(shown):
                reached[limit] = len(hit) / len(sought)
    return [{"false_positives": limit, "sensitivity": value} for limit, value in reached.items()]


def _places_lesions(image: Judged) -> bool:
    return image.chance is not None and image.record.label is Label.MALIGNANT
