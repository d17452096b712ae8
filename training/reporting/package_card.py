"""Makes the card of a model package in SageMaker's registry, as JSON in AWS's schema and within its limits.

Source: "Model package model card schema" (SageMaker Developer Guide, model-registry-details.html). The schema allows
only its own keys, limits the length of each text, and limits the whole to 100,000 characters.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mammopipe.processing.errors import ConfigError

LARGEST = 100_000
"""Maximum characters of a card (`ModelCardContent`)."""
_LONG, _SHORT, _VALUE = 2048, 1024, 63
"""Maximum characters of a text, of a detail or note, and of a metric's text."""

FIGURES = (
    "macro_auc",
    "malignant_auc",
    "accuracy",
    "balanced_accuracy",
    "expected_calibration_error",
    "brier",
    "log_loss",
)
_CREATOR = "mammopipe, an open pipeline for research on mammograms"


def package_card(
    evaluation: Mapping[str, Any], *, data: str, intended: str, not_intended: str, limits: Sequence[str]
) -> dict[str, Any]:
    """Return the card of an evaluation.

    Args:
        evaluation: `evaluation.json`.
        data: Description of the data and its licence.
        intended: Intended use.
        not_intended: Uses that are not intended.
        limits: Limitations, one sentence each.

    Raises:
        ConfigError: The card is longer than the registry accepts.
    """
    selected = evaluation["selected"]
    candidate = evaluation["candidates"][selected["cnn"]]
    card = {
        "model_overview": {"model_creator": _CREATOR},
        "intended_uses": {
            "purpose_of_model": _cut(f"Classifies mammograms as {', '.join(evaluation['classes'])}.", _LONG),
            "intended_uses": _cut(f"{intended} Not for: {not_intended}", _LONG),
            "factors_affecting_model_efficiency": _cut(" ".join(limits), _LONG),
            "risk_rating": "High",
            "explanations_for_risk_rating": "A wrong answer about a mammogram could harm a person if it were "
            "believed; the model is for research only.",
        },
        "training_details": {
            "objective_function": {"function": {"function": "Minimize", "facet": "Loss"}},
            "training_observations": _cut(
                f"{candidate['architecture']}, {candidate['initialisation']}; epoch {candidate['best_epoch']} of "
                f"{candidate['epochs_run']}; split by {evaluation['protocol']}.",
                _SHORT,
            ),
            "training_job_details": {
                "user_provided_training_metrics": [
                    {"name": name, "value": candidate[name]} for name in ("epochs_run", "best_epoch", "temperature")
                ]
            },
        },
        "evaluation_details": [_evaluation(evaluation, split) for split in ("test", "validation")],
        "additional_information": {
            "ethical_considerations": _cut(f"Data: {data}", _LONG),
            "caveats_and_recommendations": _cut(" ".join(limits), _LONG),
            "custom_details": _details(evaluation),
        },
    }
    size = len(json.dumps(card, sort_keys=True))
    if size > LARGEST:
        raise ConfigError(f"model card: {size} characters; the registry accepts at most {LARGEST}")
    return card


def _cut(text: str, length: int) -> str:
    # 4 characters less, for the ellipsis with its space.
    return text if len(text) <= length else text[: length - 4].rsplit(" ", 1)[0] + " ..."


def _evaluation(evaluation: Mapping[str, Any], split: str) -> dict[str, Any]:
    selected, counts = evaluation["selected"], evaluation["counts"][split]
    figures, protocol = selected[split], evaluation["protocol"]
    groups = [
        ("overall", {name: figures[name] for name in FIGURES}),
        (
            "by class",
            {
                f"{key} of {name}": figures[key][name]
                for key in ("auc", "precision", "recall", "f1")
                for name in evaluation["classes"]
            },
        ),
        (
            "pointing game",
            {
                f"{key} of {group}": found[key]
                for group, found in evaluation["pointing"][split].items()
                for key in ("hits", "chance")
            },
        ),
        (
            "calibration",
            {
                f"{key}, {method}": found[key]
                for method, found in evaluation["calibration"][split].items()
                for key in ("expected_calibration_error", "brier")
            },
        ),
        *_subgroups(figures),
    ]
    use = (
        "measured once, after every choice"
        if split == "test"
        else "also used to choose network and thresholds, so its figures are too good"
    )
    return {
        "name": f"{split} split, protocol {protocol}",
        "evaluation_observation": f"{_cases(evaluation, split)} of {counts['patients']} patients; {use}. Intervals "
        "are 95 % intervals, by patient.",
        "metric_groups": [
            {"name": name, "metric_data": [_metric(key, found) for key, found in members.items()]}
            for name, members in groups
        ]
        + [_matrix(evaluation, split)],
    }


def _cases(evaluation: Mapping[str, Any], split: str) -> str:
    counts = evaluation["counts"][split]
    images = f"{counts['images']} images"
    return images if evaluation["level"] == "image" else f"{counts['breasts']} breasts in {images}"


def _subgroups(figures: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield, for each attribute, the malignant AUC of its subgroups where it is defined."""
    for attribute, values in figures["subgroups"]["by"].items():
        members = {
            f"malignant AUC, {item['value']} (n={item['images']})": item["malignant_auc"]
            for item in values
            if item["malignant_auc"]["value"] is not None
        }
        if members:
            yield f"by {attribute}"[:_VALUE], members


def _metric(name: str, figure: Mapping[str, Any]) -> dict[str, Any]:
    # AWS's schema allows 255 characters in the name of a metric.
    if figure["value"] is None:
        return {"name": name[:255], "type": "string", "value": _cut(figure["reason"], _VALUE)}
    interval = "no interval" if figure["low"] is None else f"95 % interval {figure['low']:.4f} to {figure['high']:.4f}"
    return {"name": name[:255], "type": "number", "value": figure["value"], "notes": interval}


def _matrix(evaluation: Mapping[str, Any], split: str) -> dict[str, Any]:
    matrix = evaluation["candidates"][evaluation["selected"]["cnn"]][split]["confusion_matrix"]
    return {
        "name": "confusion",
        "metric_data": [
            {
                "name": "confusion matrix",
                "type": "matrix",
                "value": matrix,
                "notes": "rows are the true class, columns the predicted class",
                "x_axis_name": list(evaluation["classes"]),
                "y_axis_name": list(evaluation["classes"]),
            }
        ],
    }


def _details(evaluation: Mapping[str, Any]) -> dict[str, str]:
    return {
        "dataset": evaluation["dataset"],
        "synthetic": str(evaluation["synthetic"]).lower(),
        "profile": evaluation["profile"],
        "protocol": evaluation["protocol"],
        "network": evaluation["selected"]["cnn"],
        "rule": evaluation["selected"]["rule"],
        "leakage_audit": _cut(evaluation["leakage"]["verdict"], _SHORT),
        "intended_use": "research only",
    }
