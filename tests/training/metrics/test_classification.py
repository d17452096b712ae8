"""Every metric against scikit-learn, against a case worked by hand, and against rules that hold for any input."""

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples, bootstrap_interval
from mammopipe.training.metrics.scale import Scale

SENSITIVITY_AT, SPECIFICITY_AT = classification.sensitivity_at_specificity, classification.specificity_at_sensitivity

# Four images: the third is a malignant film called normal, the fourth a benign one called rightly.
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
        ([0, 1], [[0.5, 0.5]], "one an image"),
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


def test_the_interval_widens_when_images_of_a_patient_agree():
    labels, probabilities, _ = cases(20)
    labels, probabilities = np.repeat(labels, 10), np.repeat(probabilities, 10, axis=0)
    by_image = classification.bootstrap_interval(
        classification.accuracy, labels, probabilities, groups=[str(i) for i in range(200)]
    )
    by_patient = classification.bootstrap_interval(
        classification.accuracy, labels, probabilities, groups=[str(i // 10) for i in range(200)]
    )
    assert by_patient.value == by_image.value
    assert by_patient.high - by_patient.low > 2.5 * (by_image.high - by_image.low), "a factor of 10 ** 0.5 is expected"


def test_the_interval_of_a_mean_is_the_one_of_theory():
    labels = np.array([0] * 60 + [1] * 40)
    interval = classification.bootstrap_interval(
        classification.accuracy,
        labels,
        np.tile([0.9, 0.1], (100, 1)),
        groups=[str(index) for index in range(100)],
        n=4000,
    )
    assert interval.value == 0.6
    assert interval.low == pytest.approx(0.6 - 1.96 * 0.049, abs=0.015)
    assert interval.high == pytest.approx(0.6 + 1.96 * 0.049, abs=0.015)


def test_the_interval_is_that_of_its_seed_and_narrows_with_its_level():
    labels, probabilities, patients = cases()
    draw = dict(groups=patients, n=500)
    first = classification.bootstrap_interval(classification.macro_auc, labels, probabilities, seed=3, **draw)
    assert first == classification.bootstrap_interval(classification.macro_auc, labels, probabilities, seed=3, **draw)
    assert (Resamples.draw(patients, n=500, seed=3).counts != Resamples.draw(patients, n=500, seed=4).counts).any()
    half = classification.bootstrap_interval(classification.macro_auc, labels, probabilities, seed=3, level=0.5, **draw)
    assert first.low < half.low < first.value < half.high < first.high


def test_memory_bounded_steps_change_nothing(monkeypatch):
    labels, probabilities, patients = cases()
    whole = classification.bootstrap_interval(classification.macro_auc, labels, probabilities, groups=patients, n=100)
    monkeypatch.setattr("mammopipe.training.metrics.bootstrap._CELLS_AT_ONCE", 7 * len(labels))
    assert whole == classification.bootstrap_interval(
        classification.macro_auc, labels, probabilities, groups=patients, n=100
    )


def test_an_interval_stays_inside_the_range_of_its_figure():
    labels, powers = np.array([0, 1, 2] * 5), np.exp(np.random.default_rng(1).normal(size=(15, 3)) * 4)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    interval = bootstrap_interval(classification.brier, labels, probabilities, groups=np.arange(15) // 3)
    assert 0 < interval.low < interval.value < interval.high < 2
    # The derivative that the interval uses is that of the scale.
    for scale, value in ((Scale.SHARE, 0.3), (Scale.UP_TO_TWO, 0.7), (Scale.POSITIVE, 3.0), (Scale.REAL, -1.0)):
        near = scale.to(np.array([value - 1e-6, value + 1e-6]))
        assert np.diff(near)[0] / 2e-6 == pytest.approx(scale.slope(value), rel=1e-4)
        assert scale.back(scale.to(np.array([value])))[0] == pytest.approx(value)


def test_undefined_resamples_are_counted_and_too_many_give_no_interval():
    rare = np.array([0] * 20 + [1, 2])
    probabilities = np.tile([0.6, 0.2, 0.2], (22, 1))
    patients = [str(index) for index in range(22)]
    interval = classification.bootstrap_interval(classification.recall(2), rare, probabilities, groups=patients)
    assert 250 < interval.undefined < 450, "a given patient is missed by (1 - 1/22) ** 22 = 0.36 of the draws"
    assert interval.as_dict() == {
        "value": 0,
        "low": 0,
        "high": pytest.approx(0.975),
        "undefined_resamples": interval.undefined,
    }
    both = classification.bootstrap_interval(classification.balanced_accuracy, rare, probabilities, groups=patients)
    assert both.undefined > 500 and both.low is None and both.high is None and both.value == pytest.approx(1 / 3)
    one = classification.bootstrap_interval(classification.accuracy, rare, probabilities, groups=["same"] * 22)
    assert one.low is None, "one patient has no spread to measure"


def test_a_share_that_no_draw_changes_has_the_exact_bounds_of_its_patients():
    # Twelve patients of two images each, all right; three more patients have no image of class 1.
    labels = np.array([1] * 24 + [0] * 3)
    patients = [str(index // 2) for index in range(24)] + ["x", "y", "z"]
    right = np.eye(2)[labels]
    exact = stats.binomtest(12, 12).proportion_ci(0.95, method="exact")
    found = classification.bootstrap_interval(classification.recall(1), labels, right, groups=patients)
    assert (found.value, found.low, found.high) == (1, pytest.approx(exact.low), 1)
    missed = classification.bootstrap_interval(classification.recall(1), labels, 1 - right, groups=patients)
    assert (missed.value, missed.low, missed.high) == (0, 0, pytest.approx(1 - exact.low))


def test_a_figure_that_is_no_share_has_no_interval_where_no_draw_changes_it():
    labels, groups = np.array([0, 1] * 10), [str(index) for index in range(20)]
    perfect = classification.bootstrap_interval(classification.f1(1), labels, np.eye(2)[labels], groups=groups)
    assert (perfect.value, perfect.low, perfect.high) == (1, None, None)


def test_a_perfect_area_has_the_exact_bounds_of_the_patients_of_the_rarer_kind():
    labels = np.array([1] * 8 + [0] * 12)
    groups = [str(index // 2) for index in range(20)]
    for metric, values in ((classification.macro_auc, np.eye(2)[labels]), (classification.roc_auc, labels * 1.0)):
        perfect = classification.bootstrap_interval(metric, labels, values, groups=groups)
        assert (perfect.value, perfect.low, perfect.high) == (1, pytest.approx(0.025 ** (1 / 4)), 1)


def test_an_interval_is_wider_where_few_patients_cause_the_variance():
    # Two of 30 malignant patients rank low; elsewhere all rank a little low. The numbers of patients are equal.
    labels, groups = np.array([1] * 30 + [0] * 30), [str(index) for index in range(60)]
    few, all_alike = np.arange(60.0)[::-1].copy(), np.random.default_rng(0).normal(size=60) + 1.5 * labels
    few[[3, 17]] = [4.5, 12.5]
    intervals = {}
    for name, scores in (("few", few), ("alike", all_alike)):
        draws = Resamples.draw(groups, n=2000, seed=0)
        found = draws.interval(classification.roc_auc, labels, scores, level=0.95)
        spread = np.nanstd(classification.roc_auc.weighted(labels, scores, draws.counts.astype(float)), ddof=1)
        middle, slope = np.log(found.value / (1 - found.value)), 1 / (found.value * (1 - found.value))
        intervals[name] = (np.log(found.high / (1 - found.high)) - middle) / (spread * slope)
    assert intervals["alike"] == pytest.approx(stats.t.ppf(0.975, 29), rel=0.08)
    assert intervals["few"] > 2.5, "as with four degrees of freedom or fewer"


def test_the_standard_error_is_not_below_that_of_the_jackknife():
    # Of a share, the jackknife's standard error is that of theory with n - 1; so few draws often give a smaller one.
    labels, groups = np.array([1] * 9 + [0] * 6), [str(index) for index in range(15)]
    scores = np.tile([0.4, 0.6], (15, 1))
    error = np.sqrt(0.6 * 0.4 / 14) / (0.6 * 0.4)
    for seed in range(6):
        found = Resamples.draw(groups, n=10, seed=seed).interval(classification.accuracy, labels, scores, level=0.95)
        reach = np.log(found.high / (1 - found.high)) - np.log(0.6 / 0.4)
        assert reach >= stats.t.ppf(0.975, 14) * error * (1 - 1e-9)


def test_the_interval_of_a_difference_is_recovered_from_those_of_its_sides():
    random = np.random.default_rng(5)
    labels, groups = np.repeat([0, 1], 40), [str(index // 2) for index in range(80)]
    first = 2.5 * labels + random.normal(size=80)
    other = first + random.normal(size=80) * 0.8
    draws = Resamples.draw(groups, n=4000, seed=0)
    found = draws.difference(classification.roc_auc, labels, first, other, level=0.95)
    one, two = (draws.interval(classification.roc_auc, labels, scores, level=0.95) for scores in (first, other))
    values = [classification.roc_auc.weighted(labels, each, draws.counts.astype(float)) for each in (first, other)]
    common = np.corrcoef(*values)[0, 1]
    down, up = (two.value - two.low, one.high - one.value), (two.high - two.value, one.value - one.low)
    low, high = (np.sqrt(a**2 + b**2 - 2 * common * a * b) for a, b in (down, up))
    assert (found.value - found.low, found.high - found.value) == pytest.approx((low, high), rel=1e-6)
    assert found.value - found.low > found.high - found.value, "a high area can fall farther than it can rise"
    same = draws.difference(classification.roc_auc, labels, first, first, level=0.95)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_bootstrap_refuses_what_it_cannot_do():
    labels, probabilities, patients = cases()
    with pytest.raises(classification.MetricError, match="undefined"):
        classification.bootstrap_interval(classification.recall(2), np.zeros(40, int), probabilities, groups=patients)
    with pytest.raises(classification.MetricError, match="level=95"):
        classification.bootstrap_interval(classification.accuracy, labels, probabilities, groups=patients, level=95)
    with pytest.raises(classification.MetricError, match="0 resamples"):
        classification.bootstrap_interval(classification.accuracy, labels, probabilities, groups=patients, n=0)
    with pytest.raises(classification.MetricError, match="40 labels for 39"):
        classification.bootstrap_interval(classification.accuracy, labels, probabilities, groups=patients[1:])


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_one():
    # Confidence 0.5 lies in (0.4, 0.5], 0.55 in (0.5, 0.6]. In one bin, the gaps -0.5 and +0.55 would cancel.
    probabilities = [[0.5, 0.5], [0.55, 0.45]]
    bins = classification.calibration_bins([0, 1], probabilities)
    assert [(point["confidence"], point["accuracy"], point["images"]) for point in bins] == [(0.5, 1, 1), (0.55, 0, 1)]
    assert classification.expected_calibration_error([0, 1], probabilities) == pytest.approx((0.5 + 0.55) / 2)
    # Certainty is in the highest bin, together with 0.95.
    bins = classification.calibration_bins([0, 1], [[1.0, 0.0], [0.95, 0.05]])
    assert [point["images"] for point in bins] == [2]


def test_far_bounds_of_an_interval_end_at_the_bounds_of_the_range() -> None:
    far = np.array([-1200.0, 1200.0])
    assert Scale.SHARE.back(far).tolist() == [0, 1] and Scale.UP_TO_TWO.back(far).tolist() == [0, 2]
    assert Scale.POSITIVE.back(far).tolist() == [0, np.inf]
