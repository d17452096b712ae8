"""Completes the selected model's directory with calibration, metrics, reference data and a faster engine."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split
from mammopipe.training.evaluation.batch_prediction import (
    combined_views,
    logits_and_features,
    mirrored,
    read_images,
)
from mammopipe.training.evaluation.data import SegmentedData
from mammopipe.training.evaluation.fit_audit import Fit, audited
from mammopipe.training.evaluation.pointing_game import Outputs
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.drift_features import fit_drift_reference
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.operating_points import RATES, DecisionThreshold, Rate
from mammopipe.training.model.predictions import Floats
from mammopipe.training.model.reference import Reference, fit_reference, spaced_sample
from mammopipe.training.model.views.breasts import breasts_of
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.model_directory import LoadedModel
from mammopipe.training.networks.openvino_export import BreastParity, export_network


def complete(
    evaluation: Mapping[str, Any], data: SegmentedData, model: LoadedModel, folder: Path, outputs: Outputs
) -> dict[str, Any]:
    """Complete the selected model's directory with everything that was fitted and measured.

    `model.json` is written last because it holds the digests of the other files.

    Args:
        evaluation: `evaluation.json` so far.
        data: The segmented images.
        model: The selected model.
        folder: Its model directory.
        outputs: Its outputs for the validation images.

    Returns:
        The evaluation with the audit of the new fits and the result of the export.
    """
    started = time.monotonic()
    rows = data.images(Split.VALIDATION)
    description = describe_selected(model_directory.read_description(folder), evaluation)
    logits, features = outputs.logits, outputs.features
    reference, distributions, fits = _reference(evaluation, data, model, logits, features)
    description["reference"] = {**reference.save(folder), "distributions": distributions}
    whole = audited(evaluation["leakage"], fits, [], data.records)
    whole["fitted"] = description["fitted"] = [*evaluation["fitted"], *whole["fitted"]]

    def read(places: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        for part, folder in data.in_folders([rows[place] for place in places]):
            yield from read_images(part, folder, shape=model.input_shape)

    breasts = _breasts(model, rows, logits, features)
    # Loaded again without folding, because the exported network must be the one that is served.
    served = model_directory.load(folder)
    export = export_network(served, folder, description, read, logits, mirrored(model, rows), breasts)
    if export.shipped:
        description["engines"] = export.described(folder)
    model_directory.write_description(folder, description)
    print(f"export: {export.reason} It took {time.monotonic() - started:.1f} s with the reference.", flush=True)
    return {**evaluation, **whole, "export": export.as_dict()}


def _breasts(model: LoadedModel, rows: Sequence[ImageRecord], logits: Floats, features: Floats) -> BreastParity | None:
    """Return how to check the exported network's logits of breasts; `None` for a model that judges images."""
    if model.level is Level.IMAGE:
        return None
    combine = partial(combined_views, model, breasts_of(rows, model.classes, other_side=model.other_side))
    return BreastParity(combine, combine(logits, features))


def _reference(
    evaluation: Mapping[str, Any], data: SegmentedData, model: LoadedModel, logits: Floats, features: Floats
) -> tuple[Reference, dict[str, Any], list[Fit]]:
    """Fit the reference data of the model.

    For a cross-validated model, everything is fitted on the development set with out-of-fold logits.

    Args:
        evaluation: `evaluation.json` so far.
        data: The segmented images.
        model: The selected model.
        logits: Logits of the validation images, (images, classes).
        features: Features of the validation images, (images, channels).

    Returns:
        The reference, the distributions of the monitored features, and which images each of them used.
    """
    rows = data.images(Split.VALIDATION)
    held = data.out_of_fold.get(evaluation["selected"]["cnn"])
    references = rows if held else spaced_sample(data.originals(Split.TRAIN))
    trained_on = features
    if held is None:
        parts = [logits_and_features(model, part, folder)[1] for part, folder in data.in_folders(references)]
        trained_on = np.concatenate(parts)
    calibration = Calibration.read(evaluation["candidates"][evaluation["selected"]["cnn"]], data.classes)
    probabilities = calibration.probabilities(held.logits if held else logits)
    malignant = data.classes.index(Label.MALIGNANT)
    reference = fit_reference(
        trained_on, features, probabilities, malignant=malignant, folds=held.folds if held else None
    )
    learnt = data.originals(Split.TRAIN)
    watched = {record.image_id: record for record in (*learnt, *rows)}
    return (
        reference,
        fit_drift_reference(learnt, rows, probabilities, malignant=malignant),
        [
            Fit.on("mean and covariance of the features", references),
            Fit.on("limits of entropy and strangeness", rows),
            Fit.on("distributions of the watched figures", list(watched.values())),
        ],
    )


def describe_selected(description: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the selected model's `model.json` with calibration, operating points and metrics filled in."""
    selected = evaluation["selected"]
    side_by_side = selected["compared"]
    keys = ("weight", "temperature", "intercepts", "scores")
    comparison = {key: side_by_side[key] for key in keys} if side_by_side else None
    # A model that judges breasts treats a single image as a breast with one view and uses the thresholds of breasts.
    candidate, images = evaluation["candidates"][selected["cnn"]], selected["validation"][evaluation["level"]]
    return {
        **description,
        "calibration": {
            **{key: candidate[key] for key in ("temperature", "intercepts", "scores")},
            "method": candidate["calibration_method"],
            "prevalence": _prevalence(selected["validation"]),
            "fitted_on": "out-of-fold" if evaluation["validation_folds"] else str(Split.VALIDATION),
            "breast_rule": evaluation["breast_rule"],
            **({"comparison": comparison} if comparison else {}),
        },
        "operating_points": {
            goal: _image_point(point["target"], images, goal) for goal, point in selected["operating_points"].items()
        },
        "metrics": {
            "profile": evaluation["profile"],
            "protocol": evaluation["protocol"],
            "rule": selected["rule"],
            "validation": selected["validation"],
            "test": selected["test"],
            "compared": side_by_side,
        },
    }


def _image_point(target: float, images: Mapping[str, Any], goal: str) -> dict[str, Any]:
    """Return an operating point of images for `model.json`, from the image-level metrics on validation."""
    figures = images["operating_points"][goal]
    sensitivity, specificity, recall_rate, ppv = (Rate.of(figures[name]) for name in RATES)
    counts = {name: int(images[name]) for name in ("cases", "malignant", "patients")}
    point = DecisionThreshold(figures["threshold"], target, sensitivity, specificity, recall_rate, ppv, **counts)
    return point.as_dict()


def _prevalence(levels: Mapping[str, Any]) -> dict[str, float]:
    """Return the proportion of malignant images, breasts and patients; `same_as` refers to a previous level.

    For a model that judges breasts, images get the proportion of breasts, because an image is a breast with one view.
    """
    shares = {}
    for level in Level:
        known = level if level in levels else Level.BREAST
        found = levels[levels[known].get("same_as", known)]
        shares[str(level)] = found["malignant"] / found["cases"]
    return shares
