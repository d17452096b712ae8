"""The definition of each metric: its name, its range, what it needs, and which images count for its interval."""

from collections.abc import Callable

import numpy as np
import pytest

from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import MetricError
from mammopipe.training.metrics.metric import (
    Metric,
    against_rest,
    all_alike,
    by_label,
    called,
    check_binary,
    check_classes,
    mean_metric,
    only_class,
    predicted,
)
from mammopipe.training.metrics.scale import Scale

LABELS = np.array([0, 1, 2, 1])
PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.3, 0.6], [0.1, 0.8, 0.1]])
SCORES = np.array([0.2, 0.6, 0.6, 0.1])
Made = Callable[[], Metric]
"""Returns a metric when the test runs, not when it is collected."""


@pytest.mark.parametrize(
    ("made", "name", "share", "kinds"),
    [
        (lambda: classification.accuracy, "accuracy", True, [0, 0, 0, 0]),
        (lambda: classification.balanced_accuracy, "balanced_accuracy", False, [0, 1, 2, 1]),
        (lambda: classification.macro_auc, "macro_auc", True, [0, 1, 2, 1]),
        (lambda: classification.malignant_auc, "malignant_auc", True, [0, 0, 1, 0]),
        (lambda: classification.log_loss, "log_loss", False, [0, 1, 2, 1]),
        (lambda: classification.brier, "brier", False, [0, 1, 2, 1]),
        (lambda: classification.expected_calibration_error, "expected_calibration_error", False, [0, 0, 0, 0]),
        (lambda: classification.class_auc(1), "auc of class 1", True, [0, 1, 0, 1]),
        (lambda: classification.precision(2), "precision of class 2", True, [-1, 0, 0, -1]),
        (lambda: classification.recall(1), "recall of class 1", True, [-1, 0, -1, 0]),
        (lambda: classification.f1(1), "f1 of class 1", False, [-1, 0, -1, 0]),
    ],
)
def test_a_metric_of_classes(made: Made, name: str, share: bool, kinds: list[int]) -> None:
    metric = made()
    assert (metric.name, metric.share) == (name, share)
    assert metric.kinds(LABELS, PROBABILITIES).tolist() == kinds
    assert metric.raised == (name == "expected_calibration_error")
    assert metric.least_images == (3000 if name == "expected_calibration_error" else 0)
    ranges = {"log_loss": Scale.POSITIVE, "brier": Scale.UP_TO_TWO}
    assert metric.scale is ranges.get(name, Scale.SHARE)


@pytest.mark.parametrize(
    ("made", "name", "share"),
    [
        (lambda: classification.roc_auc, "roc_auc", True),
        (lambda: classification.probabilistic_f1, "probabilistic_f1", False),
        (lambda: classification.sensitivity_at_specificity(0.9), "sensitivity_at_specificity", False),
        (lambda: classification.specificity_at_sensitivity(0.9), "specificity_at_sensitivity", False),
    ],
)
def test_a_metric_of_one_score(made: Made, name: str, share: bool) -> None:
    metric = made()
    assert (metric.name, metric.share, metric.scale) == (name, share, Scale.SHARE)
    assert metric.kinds(np.array([0, 1, 1, 0]), SCORES).tolist() == [0, 1, 1, 0]
    with pytest.raises(MetricError, match=f"^{name}: scores must be finite numbers, one per image, not of shape"):
        metric(LABELS, PROBABILITIES)


@pytest.mark.parametrize(
    ("made", "needs"),
    [
        (lambda: classification.balanced_accuracy, "at least one image of each class"),
        (lambda: classification.macro_auc, "at least one image of each class"),
        (lambda: classification.malignant_auc, "images with and without the finding"),
        (lambda: classification.class_auc(2), "images with and without the finding"),
        (lambda: classification.precision(1), "an image predicted as this class"),
        (lambda: classification.recall(2), "an image of this class"),
        (lambda: classification.f1(1), "an image of this class, or predicted as it"),
    ],
)
def test_an_undefined_metric_says_what_it_needs(made: Made, needs: str) -> None:
    metric = made()
    probabilities = np.array([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05]])
    with pytest.raises(MetricError) as caught:
        metric([0, 0], probabilities)
    assert str(caught.value) == f"{metric.name} is undefined here: it needs {needs}"


@pytest.mark.parametrize(
    ("made", "needs"),
    [
        (lambda: classification.roc_auc, "images with and without the finding"),
        (lambda: classification.probabilistic_f1, "at least one positive image"),
        (lambda: classification.sensitivity_at_specificity(0.9), "images with and without the finding"),
        (lambda: classification.specificity_at_sensitivity(0.9), "images with and without the finding"),
    ],
)
def test_an_undefined_metric_of_scores_says_what_it_needs(made: Made, needs: str) -> None:
    metric = made()
    with pytest.raises(MetricError) as caught:
        metric([0, 0], [0.2, 0.4])
    assert str(caught.value) == f"{metric.name} is undefined here: it needs {needs}"


def test_targets_may_be_the_ends_of_their_range() -> None:
    for of in (classification.sensitivity_at_specificity, classification.specificity_at_sensitivity):
        assert of(0.0)([0, 1], [0.2, 0.9]) == of(1.0)([0, 1], [0.2, 0.9]) == 1
        for wrong in (-0.01, 1.01):
            name = "specificity" if of is classification.sensitivity_at_specificity else "sensitivity"
            with pytest.raises(MetricError, match=f"^{name}={wrong} must lie in 0..1$"):
                of(wrong)


def test_a_target_that_is_missed_by_rounding_counts_as_reached() -> None:
    # 1 - 9/10 is a little below 0.1 in floating point.
    labels, scores = [0] * 10 + [1], [*np.linspace(0.1, 0.9, 10), 0.85]
    assert classification.sensitivity_at_specificity(0.1)(labels, scores) == 1
    assert classification.sensitivity_at_specificity(0.9)(labels, scores) == 1
    assert classification.sensitivity_at_specificity(0.91)(labels, scores) == 0


def test_probabilities_of_0_and_1_are_scores_of_probabilistic_f1() -> None:
    assert classification.probabilistic_f1([1, 0], [1.0, 0.0]) == 1
    for wrong in (-0.01, 1.01):
        with pytest.raises(MetricError, match="^probabilistic_f1: scores must be probabilities, from 0 to 1$"):
            classification.probabilistic_f1([1, 0], [0.5, wrong])


def test_a_certain_error_has_a_finite_log_loss() -> None:
    found = classification.log_loss([0, 1], [[0.0, 1.0], [0.0, 1.0]])
    assert found == pytest.approx(-np.log(np.finfo(np.float64).eps) / 2)
    # Rows of a float32 softmax sum to 1 only nearly; the loss is that of the normalised row.
    assert classification.log_loss([0], [[0.5, 0.4995]]) == pytest.approx(-np.log(0.5 / 0.9995))


def test_confidences_are_in_bins_of_a_tenth_from_0_to_1() -> None:
    confidence = np.array([0.55, 0.65, 0.75, 0.85, 0.95, 1.0, 1.0005])
    bins = classification.calibration_bins([0] * 7, np.stack([confidence, np.maximum(1 - confidence, 0)], axis=1))
    assert [point["images"] for point in bins] == [1, 1, 1, 1, 3], "a sum may exceed 1 by rounding"
    # With eleven classes, a confidence can be below a tenth.
    low, higher = np.full(11, 1 / 11), np.array([0.15, *[0.085] * 10])
    bins = classification.calibration_bins([0, 1], np.stack([low, higher]))
    assert [(point["images"], point["accuracy"]) for point in bins] == [(1, 1), (1, 0)]


def test_malignant_or_not_makes_two_classes_of_three() -> None:
    labels, probabilities = classification.malignant_or_not(LABELS, PROBABILITIES)
    assert labels.tolist() == [0, 0, 1, 0] and labels.dtype == np.int64
    assert probabilities == pytest.approx(np.array([[0.8, 0.2], [0.4, 0.6], [0.4, 0.6], [0.9, 0.1]]))


def test_which_images_enter_a_metric_by_the_kind_of_metric() -> None:
    assert by_label(LABELS, PROBABILITIES).tolist() == [0, 1, 2, 1]
    assert all_alike(LABELS, PROBABILITIES).tolist() == [0, 0, 0, 0]
    assert only_class(1)(LABELS, PROBABILITIES).tolist() == [-1, 0, -1, 0]
    assert against_rest(1)(LABELS, PROBABILITIES).tolist() == [0, 1, 0, 1]
    assert predicted(2)(LABELS, PROBABILITIES).tolist() == [-1, 0, 0, -1], "the class with the highest probability"
    assert predicted(0)(LABELS, PROBABILITIES).tolist() == [0, -1, -1, -1]
    assert called(0.6)(LABELS, SCORES).tolist() == [-1, 0, 0, -1], "a score at the threshold reaches it"
    assert called(0.6, positive=False)(LABELS, SCORES).tolist() == [0, -1, -1, 0]


def test_a_metric_has_no_limits_unless_they_are_stated() -> None:
    metric = Metric("n", lambda labels, values, weights: weights.sum(axis=1), needs="")
    assert (metric.share, metric.raised, metric.least_images, metric.scale) == (False, False, 0, Scale.SHARE)
    assert metric.kinds is by_label
    assert metric([0, 1], [[0.5, 0.5], [0.2, 0.8]]) == 2, "each image counts once"
    assert not mean_metric("n", lambda labels, scores: scores, needs="").share
    with pytest.raises(MetricError, match=r"^n: probabilities must be \(images, classes\), not \(2,\)$"):
        metric([0, 1], [0.5, 0.5])


@pytest.mark.parametrize(
    ("labels", "rule"),
    [
        ([0], r"labels of shape \(1,\) for 2 images: there must be one label per image, and at least one image"),
        ([[0, 1]], r"labels of shape \(1, 2\) for 2 images: there must be one label per image, and at least one image"),
        ([0, 2], "labels must be whole numbers from 0 to 1"),
        ([0, -1], "labels must be whole numbers from 0 to 1"),
        ([0.0, 1.0], "labels must be whole numbers from 0 to 1"),
        (["0", "1"], "labels must be whole numbers from 0 to 1"),
    ],
)
def test_labels_are_whole_numbers_one_an_image(labels: object, rule: str) -> None:
    for check, values in ((check_binary, [0.5, 0.5]), (check_classes, [[0.5, 0.5], [0.2, 0.8]])):
        with pytest.raises(MetricError, match=f"^n: {rule}$"):
            check("n", labels, values)  # type: ignore[arg-type]


def test_lists_and_smaller_numbers_are_taken_as_double_precision() -> None:
    for dtype in (np.bool_, np.uint8, np.int32):
        labels, scores = check_binary("n", np.array([0, 1], dtype), np.array([0, 1], np.float32))
        assert (labels.tolist(), labels.dtype, scores.dtype) == ([0, 1], np.int64, np.float64)
    labels, probabilities = check_classes("n", [0, 2], np.float32([[0.5, 0.25, 0.25]] * 2))
    assert (labels.tolist(), labels.dtype, probabilities.dtype) == ([0, 2], np.int64, np.float64)


@pytest.mark.parametrize(("row", "valid"), [([0.5, 0.4991], True), ([0.5, 0.4989], False), ([0.5, 0.5011], False)])
def test_probabilities_sum_to_1_within_a_thousandth(row: list[float], valid: bool) -> None:
    if valid:
        assert check_classes("n", [0], [row])[1].tolist() == [row]
        return
    rule = "probabilities must be finite, not below 0, and sum to 1 for each image"
    with pytest.raises(MetricError, match=f"^n: {rule}$"):
        check_classes("n", [0], [row])


def test_the_roc_curve_names_what_it_needs() -> None:
    with pytest.raises(MetricError, match="^roc_curve is undefined here: it needs images of both classes$"):
        classification.roc_curve([0, 0], [0.1, 0.2])
    with pytest.raises(MetricError, match="^roc_curve: scores must be finite"):
        classification.roc_curve([0, 1], [0.1, np.nan])
    with pytest.raises(MetricError, match="^confusion_matrix: probabilities must be"):
        classification.confusion_matrix([0, 1], [0.1, 0.9])
    with pytest.raises(MetricError, match="^calibration_bins: probabilities must be"):
        classification.calibration_bins([0, 1], [0.1, 0.9])


def test_a_mean_of_one_number_an_image() -> None:
    metric = mean_metric("wrong", lambda labels, scores: (scores >= 0.5) != labels, needs="a case", share=True)
    assert metric([0, 1, 1, 0], SCORES) == 0 and (metric.name, metric.needs, metric.share) == ("wrong", "a case", True)
    assert metric([1, 1, 1, 0], SCORES) == 0.25
    weights = np.array([[3.0, 0, 0, 1], [0, 0, 0, 0]])
    found = metric.weighted(np.array([1, 1, 1, 0]), SCORES, weights)
    assert found[0] == 0.75 and np.isnan(found[1]), "without a case it is undefined"
    assert metric.kinds(np.array([0, 1, 1, 0]), SCORES).tolist() == [0, 0, 0, 0]
    assert mean_metric("n", lambda labels, scores: scores, needs="", scale=Scale.REAL).scale is Scale.REAL
