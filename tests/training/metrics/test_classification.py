"""Every metric against scikit-learn, against a case worked by hand, and against rules that hold for any input."""

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples

SENSITIVITY_AT, SPECIFICITY_AT = classification.sensitivity_at_specificity, classification.specificity_at_sensitivity
# Four images: the third is malignant and called normal, the fourth is benign and called correctly.
LABELS = np.array([0, 0, 2, 1])
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4], [0.6, 0.1, 0.3], [0.2, 0.7, 0.1]])


def cases(images: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return labels with every class, rounded probabilities (so scores tie) and two images a patient."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1, 2], generator.integers(0, 3, images - 3)])
    raw = generator.integers(1, 6, (images, 3)).astype(float)
    return labels, raw / raw.sum(axis=1, keepdims=True), [f"p{index // 2}" for index in range(images)]


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Draw 6 to 30 images with every class among them."""
    return cases(draw(st.integers(6, 30)), draw(st.integers(0, 10_000)))


def test_confusion_matrix_by_hand():
    assert classification.confusion_matrix(LABELS, PROBABILITIES).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_figures_by_hand():
    assert classification.accuracy(LABELS, PROBABILITIES) == 0.5
    assert classification.balanced_accuracy(LABELS, PROBABILITIES) == pytest.approx((0.5 + 1 + 0) / 3)
    assert classification.precision(0)(LABELS, PROBABILITIES) == 0.5
    assert classification.recall(2)(LABELS, PROBABILITIES) == 0
    assert classification.f1(0)(LABELS, PROBABILITIES) == 0.5
    assert classification.class_auc(0)(LABELS, PROBABILITIES) == 0.75  # (0.8, 0.3) against (0.6, 0.2): 3 of 4 pairs
    assert classification.malignant_auc(LABELS, PROBABILITIES) == pytest.approx(2 / 3)  # 0.3 against 0.1, 0.4, 0.1
    assert classification.macro_auc(LABELS, PROBABILITIES) == pytest.approx((0.75 + 1 + 2 / 3) / 3)
    assert classification.log_loss(LABELS, PROBABILITIES) == pytest.approx(-np.log([0.8, 0.3, 0.3, 0.7]).mean())
    assert classification.brier(LABELS, PROBABILITIES) == pytest.approx((0.06 + 0.74 + 0.86 + 0.14) / 4)
    # bins (0.3, 0.4], (0.5, 0.6], (0.6, 0.7], (0.7, 0.8]: gaps 0.4 - 0, 0.6 - 0, 1 - 0.7, 1 - 0.8
    assert classification.expected_calibration_error(LABELS, PROBABILITIES) == pytest.approx(
        (0.4 + 0.6 + 0.3 + 0.2) / 4
    )


def test_a_tie_counts_one_half():
    assert classification.roc_auc([0, 1, 1], [0.5, 0.5, 0.9]) == 0.75


def test_probabilistic_f1_by_hand():
    # pTP = 0.9 + 0.4, sum of scores 1.5, positives 2
    assert classification.probabilistic_f1([1, 0, 1], [0.9, 0.2, 0.4]) == pytest.approx(2 * 1.3 / (1.5 + 2))
    assert classification.probabilistic_f1([1, 0, 0, 0], [1, 1, 1, 1]) == pytest.approx(0.4), (
        "the floor: all ones, share 1/4"
    )
    assert classification.probabilistic_f1([1, 0], [0, 0]) == 0


def test_rates_at_a_fixed_other_rate_by_hand():
    labels, scores = [0, 0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.8, 0.25, 0.9]
    assert classification.sensitivity_at_specificity(0.75)(labels, scores) == 0.5
    assert classification.sensitivity_at_specificity(0.5)(labels, scores) == 1
    assert classification.sensitivity_at_specificity(1.0)(labels, scores) == 0.5
    assert classification.specificity_at_sensitivity(1.0)(labels, scores) == 0.5
    assert classification.specificity_at_sensitivity(0.5)(labels, scores) == 1
    assert classification.sensitivity_at_specificity(1.0)([1, 0], [0.2, 0.9]) == 0, (
        "nothing called positive is always allowed"
    )


@settings(deadline=None)
@given(predictions())
def test_every_figure_is_that_of_scikit_learn(case):
    labels, probabilities, _ = case
    predicted, hot = probabilities.argmax(axis=1), np.eye(3)[labels]
    assert (
        classification.confusion_matrix(labels, probabilities).tolist()
        == reference.confusion_matrix(labels, predicted, labels=[0, 1, 2]).tolist()
    )
    expected = {
        classification.accuracy: reference.accuracy_score(labels, predicted),
        classification.balanced_accuracy: reference.balanced_accuracy_score(labels, predicted),
        classification.macro_auc: reference.roc_auc_score(hot, probabilities, average="macro"),
        classification.malignant_auc: reference.roc_auc_score(labels == 2, probabilities[:, 2]),
        classification.log_loss: reference.log_loss(labels, probabilities, labels=[0, 1, 2]),
        classification.brier: ((probabilities - hot) ** 2).sum(axis=1).mean(),
    }
    for index in range(3):
        expected[classification.recall(index)] = reference.recall_score(
            labels, predicted, labels=[index], average="macro"
        )
        expected[classification.f1(index)] = reference.f1_score(labels, predicted, labels=[index], average="macro")
        if index in predicted:
            expected[classification.precision(index)] = reference.precision_score(
                labels, predicted, labels=[index], average="macro"
            )
    for metric, value in expected.items():
        assert metric(labels, probabilities) == pytest.approx(value), metric.name


@settings(deadline=None)
@given(predictions())
def test_the_roc_curve_is_that_of_scikit_learn(case):
    labels, probabilities, _ = case
    malignant, scores = (labels == 2).astype(int), probabilities[:, 2]
    false_positive, sensitivity = classification.roc_curve(malignant, scores)
    expected = reference.roc_curve(malignant, scores, drop_intermediate=False)
    assert np.allclose(false_positive, expected[0]) and np.allclose(sensitivity, expected[1])
    assert np.trapezoid(sensitivity, false_positive) == pytest.approx(classification.roc_auc(malignant, scores))
    for target in (0.3, 0.9):
        assert classification.sensitivity_at_specificity(target)(malignant, scores) == pytest.approx(
            expected[1][1 - expected[0] >= target - 1e-12].max()
        )


@settings(deadline=None)
@given(predictions())
def test_resampled_figures_are_those_of_the_repeated_images(case):
    labels, probabilities, patients = case
    counts = Resamples.draw(patients, n=5, seed=1).counts
    several = [
        classification.macro_auc,
        classification.accuracy,
        classification.balanced_accuracy,
        classification.log_loss,
        classification.brier,
        classification.expected_calibration_error,
        classification.precision(1),
        classification.recall(1),
        classification.f1(1),
        classification.malignant_auc,
    ]
    of_one_score = [
        classification.roc_auc,
        classification.probabilistic_f1,
        *(at(target) for target in (0.3, 0.8) for at in (SENSITIVITY_AT, SPECIFICITY_AT)),
    ]
    malignant = (labels == 2).astype(int)
    all_cases = [(metric, labels, probabilities) for metric in several]
    all_cases += [(metric, malignant, probabilities[:, 2]) for metric in of_one_score]
    for metric, truth, values in all_cases:
        figures = metric.weighted(truth, values, counts.astype(float))
        for count, figure in zip(counts, figures, strict=True):
            again = np.repeat(np.arange(len(labels)), count)
            if np.isnan(figure):
                with pytest.raises(classification.MetricError):
                    metric(truth[again], values[again])
            else:
                assert metric(truth[again], values[again]) == pytest.approx(figure), metric.name


@settings(deadline=None)
@given(predictions(), st.randoms(use_true_random=False))
def test_figures_do_not_depend_on_the_order_of_images(case, random):
    labels, probabilities, _ = case
    order = list(range(len(labels)))
    random.shuffle(order)
    for metric in (
        classification.macro_auc,
        classification.balanced_accuracy,
        classification.brier,
        classification.expected_calibration_error,
    ):
        assert metric(labels, probabilities) == pytest.approx(metric(labels[order], probabilities[order]))


@settings(deadline=None)
@given(predictions())
def test_an_auc_sees_only_the_order_of_scores(case):
    labels, probabilities, _ = case
    malignant, scores = (labels == 2).astype(int), probabilities[:, 2]
    assert classification.roc_auc(malignant, np.exp(3 * scores)) == pytest.approx(
        classification.roc_auc(malignant, scores)
    )
    assert classification.roc_auc(malignant, -scores) == pytest.approx(1 - classification.roc_auc(malignant, scores))


def test_what_is_undefined_is_refused_by_name():
    two, rows = np.array([0, 0, 1]), PROBABILITIES[:3]
    for metric in (
        classification.macro_auc,
        classification.balanced_accuracy,
        classification.malignant_auc,
        classification.recall(2),
    ):
        with pytest.raises(classification.MetricError, match=f"{metric.name} is undefined here: it needs"):
            metric(two, rows)
    with pytest.raises(classification.MetricError, match="an image predicted as this class"):
        classification.precision(1)(two, rows)
    for metric in (
        classification.roc_auc,
        classification.probabilistic_f1,
        classification.sensitivity_at_specificity(0.9),
        classification.specificity_at_sensitivity(0.9),
    ):
        with pytest.raises(classification.MetricError, match="undefined"):
            metric([0, 0], [0.1, 0.2])
    with pytest.raises(classification.MetricError, match="both classes"):
        classification.roc_curve([1, 1], [0.1, 0.2])


@pytest.mark.parametrize(
    ("labels", "values", "rule"),
    [
        ([0, 1], [[0.5, 0.5]], "one label per image"),
        ([], np.zeros((0, 3)), "at least one"),
        ([0, 3], [[1, 0, 0], [1, 0, 0]], "from 0 to 2"),
        ([0.0, 1.0], [[1, 0, 0], [1, 0, 0]], "whole numbers"),
        ([0, 1], [[0.5, 0.6], [1, 0]], "sum to 1"),
        ([0, 1], [[np.nan, 1], [1, 0]], "finite"),
        ([0, 1], [[-0.5, 1.5], [1, 0]], "not below 0"),
        ([0, 1], [0.5, 0.5], "must be \\(images, classes\\)"),
    ],
)
def test_wrong_input_names_its_rule(labels, values, rule):
    with pytest.raises(classification.MetricError, match=rule):
        classification.accuracy(labels, values)


def test_wrong_scores_and_targets_name_their_rule():
    with pytest.raises(classification.MetricError, match="from 0 to 1"):
        classification.probabilistic_f1([0, 1], [0.5, 1.5])
    with pytest.raises(classification.MetricError, match="finite"):
        classification.roc_auc([0, 1], [0.5, np.inf])
    with pytest.raises(classification.MetricError, match="specificity=1.5 must lie in 0..1"):
        classification.sensitivity_at_specificity(1.5)


def test_calibration_bins_hold_every_image_once():
    labels, probabilities, _ = cases()
    bins = classification.calibration_bins(labels, probabilities)
    assert sum(point["images"] for point in bins) == len(labels)
    gap = sum(point["images"] * abs(point["confidence"] - point["accuracy"]) for point in bins) / len(labels)
    assert gap == pytest.approx(classification.expected_calibration_error(labels, probabilities))


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_one():
    # Confidence 0.5 lies in (0.4, 0.5], 0.55 in (0.5, 0.6]. In one bin, the gaps -0.5 and +0.55 would cancel.
    probabilities = [[0.5, 0.5], [0.55, 0.45]]
    bins = classification.calibration_bins([0, 1], probabilities)
    assert [(point["confidence"], point["accuracy"], point["images"]) for point in bins] == [(0.5, 1, 1), (0.55, 0, 1)]
    assert classification.expected_calibration_error([0, 1], probabilities) == pytest.approx((0.5 + 0.55) / 2)
    # Certainty is in the highest bin, together with 0.95.
    bins = classification.calibration_bins([0, 1], [[1.0, 0.0], [0.95, 0.05]])
    assert [point["images"] for point in bins] == [2]
