"""The figures of a threshold: by hand, against scikit-learn, and their relations to each other."""

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from mammopipe.training.metrics.bootstrap import MetricError, Resamples, bootstrap_interval
from mammopipe.training.metrics.thresholds import (
    AT_A_THRESHOLD,
    SCREENING_PREVALENCE,
    f1_at,
    npv_at,
    ppv_at,
    recall_rate_at,
    screening_npv_at,
    screening_ppv_at,
    sensitivity_at,
    specificity_at,
)

LABELS, SCORES = [0, 0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.8, 0.25, 0.9]


def test_figures_by_hand():
    # At 0.3: called 0.3, 0.8 and 0.9, of which one is positive.
    assert sensitivity_at(0.3)(LABELS, SCORES) == 0.5
    assert specificity_at(0.3)(LABELS, SCORES) == 0.5
    assert recall_rate_at(0.3)(LABELS, SCORES) == 0.5
    assert ppv_at(0.3)(LABELS, SCORES) == pytest.approx(1 / 3)
    assert f1_at(0.3)(LABELS, SCORES) == pytest.approx(2 / 5)
    assert sensitivity_at(0.25)(LABELS, SCORES) == 1, "a score at the threshold is called"
    assert f1_at(0.95)(LABELS, SCORES) == 0
    # At 0.3, three are not called, of which two are negative.
    assert npv_at(0.3)(LABELS, SCORES) == pytest.approx(2 / 3)


def test_predictive_values_at_another_prevalence_by_hand():
    # At 0.5: sensitivity 1/2, specificity 3/4.
    assert screening_ppv_at(0.5, 0.1)(LABELS, SCORES) == pytest.approx(0.05 / (0.05 + 0.225))
    assert screening_npv_at(0.5, 0.1)(LABELS, SCORES) == pytest.approx(0.675 / (0.675 + 0.05))
    assert SCREENING_PREVALENCE == 0.006
    found = 0.006 / 2
    assert screening_ppv_at(0.5)(LABELS, SCORES) == pytest.approx(found / (found + 0.994 / 4))
    assert screening_npv_at(0.5)(LABELS, SCORES) == pytest.approx(0.994 * 0.75 / (0.994 * 0.75 + found))
    # At the prevalence of the cases themselves they are the plain predictive values.
    assert screening_ppv_at(0.3, 1 / 3)(LABELS, SCORES) == pytest.approx(ppv_at(0.3)(LABELS, SCORES))
    assert screening_npv_at(0.3, 1 / 3)(LABELS, SCORES) == pytest.approx(npv_at(0.3)(LABELS, SCORES))


def test_each_figure_has_the_name_of_its_key_in_the_evaluation():
    assert [of(0.5).name for of in AT_A_THRESHOLD] == [
        "sensitivity",
        "specificity",
        "recall_rate",
        "ppv",
        "npv",
        "f1",
        "screening_ppv",
        "screening_npv",
    ]


def test_the_patients_of_the_images_that_enter_a_figure_give_its_degrees_of_freedom():
    labels, scores = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.5, 0.5, 0.6, 0.2])
    kinds = {of(0.5).name: of(0.5).kinds(labels, scores).tolist() for of in AT_A_THRESHOLD}
    assert kinds == {
        "sensitivity": [-1, -1, 0, 0, 0],
        "specificity": [0, 0, -1, -1, -1],
        "recall_rate": [0, 0, 0, 0, 0],
        "ppv": [-1, 0, 0, 0, -1],
        "npv": [0, -1, -1, -1, 0],
        "f1": [-1, -1, 0, 0, 0],
        "screening_ppv": [0, 0, 1, 1, 1],
        "screening_npv": [0, 0, 1, 1, 1],
    }


def test_an_undefined_figure_states_what_it_needs():
    for metric, labels, needs in [
        (sensitivity_at(0.5), [0, 0], "a positive case"),
        (specificity_at(0.5), [1, 1], "a negative case"),
        (ppv_at(0.99), [0, 1], "a case called positive"),
        (f1_at(0.99), [0, 0], "a positive case, or a case called positive"),
        (npv_at(0.05), [0, 1], "a case not called positive"),
        (screening_ppv_at(0.99), [0, 1], "a case called positive, and cases of both kinds"),
        (screening_ppv_at(0.1), [1, 1], "a case called positive, and cases of both kinds"),
        (screening_npv_at(0.05), [0, 1], "a case not called positive, and cases of both kinds"),
        (screening_npv_at(0.5), [0, 0], "a case not called positive, and cases of both kinds"),
    ]:
        with pytest.raises(MetricError, match=f"^{metric.name} is undefined here: it needs {needs}$"):
            metric(labels, [0.1, 0.2])
    assert recall_rate_at(0.5).needs == "at least one case"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=3, max_size=30), st.integers(0, 4))
def test_figures_are_those_of_scikit_learn(rows, threshold):
    labels, scores = np.array([0, 1, *(row[0] for row in rows)]), np.array([0, 4, *(row[1] for row in rows)]) / 4
    called = (scores >= threshold / 4).astype(int)
    at = threshold / 4
    assert sensitivity_at(at)(labels, scores) == pytest.approx(reference.recall_score(labels, called))
    assert specificity_at(at)(labels, scores) == pytest.approx(reference.recall_score(labels, called, pos_label=0))
    assert ppv_at(at)(labels, scores) == pytest.approx(reference.precision_score(labels, called))
    assert f1_at(at)(labels, scores) == pytest.approx(reference.f1_score(labels, called))
    assert recall_rate_at(at)(labels, scores) == pytest.approx(called.mean())


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_resampled_figures_are_those_of_the_repeated_cases(seed):
    generator = np.random.default_rng(seed)
    labels, scores = generator.integers(0, 2, 20), generator.integers(0, 5, 20) / 4
    labels[:2] = 0, 1
    counts = Resamples.draw([str(index // 2) for index in range(20)], n=5, seed=1).counts
    for metric in (of(0.5) for of in AT_A_THRESHOLD):
        for count, found in zip(counts, metric.weighted(labels, scores, counts.astype(float)), strict=True):
            again = np.repeat(np.arange(20), count)
            if np.isnan(found):
                with pytest.raises(MetricError):
                    metric(labels[again], scores[again])
            else:
                assert metric(labels[again], scores[again]) == pytest.approx(found), metric.name


def test_rates_that_no_draw_changes_have_exact_bounds_and_f1_has_none():
    labels, scores, groups = [0] * 9 + [1] * 9, [0.1] * 9 + [0.9] * 9, [str(index) for index in range(18)]
    for metric in (sensitivity_at(0.5), specificity_at(0.5), ppv_at(0.5)):
        found = bootstrap_interval(metric, labels, scores, groups=groups)
        assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 9)), 1), metric.name
    whole = bootstrap_interval(f1_at(0.5), labels, scores, groups=groups)
    assert (whole.value, whole.low) == (1, None)
    for metric in (npv_at(0.5), recall_rate_at(0.05)):
        found = bootstrap_interval(metric, labels, scores, groups=groups)
        assert (found.value, found.high) == (1, 1) and found.low == pytest.approx(
            0.025 ** (1 / (9 if metric.name == "npv" else 18))
        )
    for metric in (screening_ppv_at(0.5), screening_npv_at(0.5)):
        found = bootstrap_interval(metric, labels, scores, groups=groups)
        assert (found.value, found.low) == (1, None), f"{metric.name} is no share of cases"
    share = bootstrap_interval(recall_rate_at(0.5), labels, scores, groups=groups)
    assert share.low < share.value == 0.5 < share.high
