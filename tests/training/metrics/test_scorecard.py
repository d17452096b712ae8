"""The scorecard: which figures it has, each against its own metric, and the thinned data of its plots."""

import numpy as np
import pytest
import sklearn.metrics as reference

from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.calibration import reliability_of_malignant
from mammopipe.training.metrics.scorecard import LEVEL, figure, scorecard, undefined, without_plots

CLASSES = ("normal", "benign", "malignant")
PATIENTS = 30


def made(images: int = 2 * PATIENTS) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities."""
    random = np.random.default_rng(7)
    labels = np.arange(images) % 3
    odds = random.random((images, 3)) + np.eye(3)[labels]
    return labels, odds / odds.sum(axis=1, keepdims=True)


DRAWS = Resamples.draw([str(index // 2) for index in range(2 * PATIENTS)], n=100, seed=0)


def test_each_figure_is_that_of_its_metric_with_its_interval() -> None:
    labels, shares = made()
    found = scorecard(labels, shares, classes=CLASSES, resamples=DRAWS)
    assert (found["images"], found["patients"]) == (60, PATIENTS)
    assert found["confusion_matrix"] == reference.confusion_matrix(labels, shares.argmax(axis=1)).tolist()
    overall = ("accuracy", "balanced_accuracy", "macro_auc", "malignant_auc", "brier", "log_loss")
    for name in overall:
        metric = getattr(classification, name)
        assert found[name] == DRAWS.interval(metric, labels, shares, level=0.95).as_dict(), name
        assert found[name]["value"] == pytest.approx(metric(labels, shares))
    assert found["expected_calibration_error"]["value"] == pytest.approx(
        classification.expected_calibration_error(labels, shares)
    )
    of_class = {
        "auc": classification.class_auc,
        "precision": classification.precision,
        "recall": classification.recall,
        "f1": classification.f1,
    }
    for name, metric_of in of_class.items():
        assert list(found[name]) == list(CLASSES)
        for index, label in enumerate(CLASSES):
            assert found[name][label] == figure(metric_of(index), labels, shares, DRAWS), (name, label)
    plots = {"roc", "reliability", "reliability_of_malignant"}
    assert set(found) == {"images", "patients", "confusion_matrix", *overall, "expected_calibration_error"} | {
        *of_class,
        *plots,
    }
    assert without_plots(found) == {name: value for name, value in found.items() if name not in plots}
    assert found["reliability"] == classification.calibration_bins(labels, shares)
    of_malignant = reliability_of_malignant((labels == 2).astype(np.int64), shares[:, 2])
    assert found["reliability_of_malignant"] == of_malignant


def test_an_undefined_figure_says_what_is_missing_and_of_how_many_resamples() -> None:
    labels, shares = made()
    found = scorecard(labels % 2, shares, classes=CLASSES, resamples=DRAWS)
    empty = {"value": None, "low": None, "high": None}
    reason = f"undefined: there must be {classification.malignant_auc.needs}"
    assert found["malignant_auc"] == {**empty, "undefined_resamples": 100, "reason": reason}
    assert found["roc"]["malignant"] is None and found["roc"]["normal"] is not None
    assert undefined("too few") == {**empty, "undefined_resamples": 0, "reason": "too few"}
    assert LEVEL == 0.95


def test_the_roc_curve_keeps_its_corners_alone() -> None:
    labels = np.array([0, 0, 0, 2, 2, 2])
    malignant = np.array([0.1, 0.2, 0.6, 0.5, 0.8, 0.9])
    shares = np.stack([1 - malignant, np.zeros(6), malignant], axis=1)
    draws = Resamples.draw([str(index) for index in range(6)], n=100, seed=0)
    roc = scorecard(labels, shares, classes=CLASSES, resamples=draws)["roc"]["malignant"]
    assert roc["false_positive_rate"] == pytest.approx([0, 0, 1 / 3, 1 / 3, 1])
    assert roc["sensitivity"] == pytest.approx([0, 2 / 3, 2 / 3, 1, 1])
    # Two scores, each of one image of either kind: the curve passes straight through the point between them.
    ties = np.array([0.2, 0.6, 0.2, 0.6])
    shares = np.stack([1 - ties, np.zeros(4), ties], axis=1)
    labels, draws = np.array([0, 0, 2, 2]), Resamples.draw(list("abcd"), n=100, seed=0)
    roc = scorecard(labels, shares, classes=CLASSES, resamples=draws)["roc"]["malignant"]
    assert roc == {"false_positive_rate": [0, 1], "sensitivity": [0, 1]}


@pytest.mark.parametrize(("images", "points"), [(198, 200), (201, 200), (800, 200)])
def test_a_long_roc_curve_is_thinned_evenly_from_end_to_end(images: int, points: int) -> None:
    # The kinds alternate by score, so that the curve turns at every image.
    scores = (np.arange(images) + 1) / (images + 2)
    shares = np.stack([1 - scores, np.zeros(images), scores], axis=1)
    draws = Resamples.draw(["one", *(["other"] * (images - 1))], n=100, seed=0)
    roc = scorecard(2 * (np.arange(images) % 2), shares, classes=CLASSES, resamples=draws)["roc"]["malignant"]
    x, y = np.array(roc["false_positive_rate"]), np.array(roc["sensitivity"])
    assert len(x) == len(y) <= points and len(x) > points - 3
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    steps = np.diff(x + y)
    assert steps.min() > 0 and steps.max() < 3 * np.median(steps)
