"""Operating points in the form of `model.json`."""

from typing import Any

from mammopipe.training.model.operating_points import DecisionThreshold, Rate


def image_point(threshold: float, sensitivity: float = 0.9, specificity: float = 0.5) -> dict[str, Any]:
    """Return an operating point of 200 validation images of 100 patients, 20 of them malignant."""
    rates = (
        Rate(value, max(0.0, value - 0.1), min(1.0, value + 0.1)) for value in (sensitivity, specificity, 0.5, 0.2)
    )
    return DecisionThreshold(threshold, 0.9, *rates, 200, 20, 100).as_dict()


def level_figures(**thresholds: float | None) -> dict[str, Any]:
    """Return the figures of breasts or patients with an operating point for each goal; None means no point."""
    rates = {name: {"value": value, "low": value - 0.1, "high": value + 0.1} for name, value in _RATES.items()}
    points = {goal: {"threshold": threshold, **rates} for goal, threshold in thresholds.items()}
    return {"cases": 200, "malignant": 20, "patients": 100, "operating_points": points}


_RATES = {"sensitivity": 0.9, "specificity": 0.4, "recall_rate": 0.6, "ppv": 0.2}
