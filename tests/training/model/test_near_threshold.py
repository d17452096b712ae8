"""Which answers are too close to a threshold, and the decision for each threshold."""

from typing import Any

import numpy as np
import pytest

from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.near_threshold import NearThreshold


def described(classes: tuple[str, ...] = ("normal", "malignant", "other")) -> dict[str, Any]:
    """Return a model's description with thresholds of images, breasts and patients; one of them is undefined."""
    points = {goal: {"threshold": threshold} for goal, threshold in (("f1", 0.5), ("specificity", 0.75))}
    breast = {"operating_points": {"f1": {"threshold": 0.25}, "sensitivity": {"threshold": None}}}
    return {
        "classes": classes,
        "calibration": {"temperature": 2.0},
        "operating_points": points,
        "metrics": {"validation": {"breast": breast, "patient": {"operating_points": {"f1": {"threshold": 0.5}}}}},
    }


def logits(score: float) -> np.ndarray:
    """Return logits whose calibrated probability of the second class is `score`; the third is impossible."""
    return np.array([0.0, 2 * np.log(score / (1 - score)), -2000.0])


def test_the_thresholds_are_those_of_every_level() -> None:
    near = NearThreshold.of(described(), 0.05)
    assert near == NearThreshold((0.25, 0.5, 0.75), Calibration(2.0), 1, 0.05)
    bare = {**described(), "metrics": {}}
    assert NearThreshold.of(bare, 0.05).thresholds == (0.5, 0.75)
    without = NearThreshold.of(described(("normal", "benign", "other")), 0.05)
    assert without == NearThreshold((), Calibration(2.0), 0, 0.05)
    assert not without.near(logits(0.5)) and without.decisions(logits(0.5)) == ()


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.19, False), (0.21, True), (0.29, True), (0.31, False), (0.46, True), (0.5, True), (0.79, True), (0.81, False)],
)
def test_a_score_within_the_margin_of_any_threshold_is_near(score: float, expected: bool) -> None:
    assert NearThreshold.of(described(), 0.05).near(logits(score)) is expected


def test_the_margin_itself_is_near_and_without_a_margin_nothing_is() -> None:
    even = np.array([0.0, 0.0])
    assert NearThreshold((0.25,), Calibration(), 1, 0.25).near(even)
    assert not NearThreshold((0.5,), Calibration(), 1, 0.0).near(even)


def test_a_score_that_reaches_its_threshold_is_positive() -> None:
    near = NearThreshold.of(described(), 0.05)
    assert near.decisions(logits(0.6)) == (True, True, False)
    assert NearThreshold((0.25, 0.5, 0.75), Calibration(), 1, 0.0).decisions(np.zeros(2)) == (True, True, False)
