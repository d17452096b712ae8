"""From images to breasts and patients: by hand, and by rules that hold for any exam."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule, Level, beside_other, both_breasts, cases_of, compared
from mammopipe.training.model.predictions import TestPredictions


def exam(views: list[tuple[str, int, float]]) -> TestPredictions:
    """Return predictions of (breast such as `aL`, malignant or not, score), whose scores come out at temperature 1."""
    names = tuple(str(index) for index in range(len(views)))
    scores = np.array([score for _, _, score in views])
    logits = np.log(np.clip(np.stack([(1 - scores) / 2, (1 - scores) / 2, scores], axis=1), 1e-300, 1))
    breasts = tuple(breast for breast, _, _ in views)
    return TestPredictions(
        names,
        tuple(breast[0] for breast in breasts),
        breasts,
        np.array([2 * malignant for _, malignant, _ in views]),
        logits,
    )


EXAM = exam([("bR", 0, 0.1), ("aL", 1, 0.2), ("bL", 0, 0.5), ("aR", 0, 0.7), ("aL", 1, 0.6), ("bL", 0, 0.25)])

ANY_EXAM = st.lists(
    st.tuples(st.sampled_from(["aL", "aR", "bL", "bR", "cL"]), st.integers(0, 1), st.floats(0, 1)),
    min_size=1,
    max_size=14,
)


@pytest.mark.parametrize(
    ("rule", "breasts", "patients"),
    [
        (BreastRule.MEAN, [0.4, 0.7, 0.375, 0.1], [0.7, 0.375]),
        (BreastRule.MAX, [0.6, 0.7, 0.5, 0.1], [0.7, 0.5]),
        (BreastRule.NOISY_OR, [1 - 0.8 * 0.4, 0.7, 1 - 0.5 * 0.75, 0.1], [0.7, 0.625]),
    ],
)
def test_an_exam_by_hand(rule, breasts, patients):
    found = cases_of(EXAM, Calibration(), rule)
    assert found[Level.IMAGE].scores == pytest.approx([0.1, 0.2, 0.5, 0.7, 0.6, 0.25])
    assert found[Level.BREAST].scores == pytest.approx(breasts), "aL, aR, bL, bR"
    assert found[Level.BREAST].malignant.tolist() == [1, 0, 0, 0]
    assert found[Level.PATIENT].scores == pytest.approx(patients), "a, b"
    assert found[Level.PATIENT].malignant.tolist() == [1, 0]


def test_a_case_is_represented_by_one_of_its_images():
    for level, cases in cases_of(EXAM, Calibration(), BreastRule.MAX).items():
        names = {Level.IMAGE: EXAM.image_ids, Level.BREAST: EXAM.breasts, Level.PATIENT: EXAM.patients}[level]
        expected = list(EXAM.image_ids) if level is Level.IMAGE else sorted(set(names))
        assert [names[image] for image in cases.images] == expected
        assert cases.level is level and cases.malignant.dtype == np.int64


def test_predictions_of_breasts_are_combined_into_patients_alone():
    views = tuple((f"{breast}1", f"{breast}2") for breast in EXAM.breasts)
    found = cases_of(replace(EXAM, views=views), Calibration(), BreastRule.MEAN)
    assert list(found) == [Level.BREAST, Level.PATIENT] and all(cases.level is level for level, cases in found.items())
    assert found[Level.BREAST].scores == pytest.approx([0.1, 0.2, 0.5, 0.7, 0.6, 0.25]), "each row is a breast"
    assert found[Level.PATIENT].scores == pytest.approx([0.7, 0.5]), "the most suspicious, whatever the rule of views"
    assert found[Level.PATIENT].malignant.tolist() == [1, 0] and found[Level.PATIENT].images.tolist() == [1, 0]


def test_compared_breasts_have_the_logits_of_the_comparison():
    both = replace(EXAM, breasts=("b-R", "a-L", "b-L", "a-R", "a-L", "b-L"))
    kept, places = compared(both, 0.5)
    assert places.tolist() == list(range(6))
    assert kept.logits == pytest.approx(beside_other(both.logits, both.patients, both.breasts, 0.5))
    assert kept.logits[3] == pytest.approx(both.logits[3] - 0.5 * both.logits[[1, 4]].mean(axis=0))
    assert both_breasts(both.patients, both.breasts).dtype == np.bool_


def test_nothing_is_compared_with_nothing():
    assert beside_other(np.zeros((0, 3)), [], [], 0.5).shape == (0, 3)


def test_scores_are_calibrated_before_they_are_combined():
    tempered = cases_of(EXAM, Calibration(2.0), BreastRule.MEAN)[Level.BREAST].scores
    probabilities = EXAM.probabilities(Calibration(2.0))[:, 2]
    assert tempered[0] == pytest.approx((probabilities[1] + probabilities[4]) / 2)


@settings(deadline=None)
@given(ANY_EXAM, st.sampled_from(BreastRule))
def test_a_breast_lies_where_its_rule_says_between_its_views(views, rule):
    predictions = exam(views)
    images, breasts = (cases_of(predictions, Calibration(), rule)[level] for level in (Level.IMAGE, Level.BREAST))
    for place, name in enumerate(sorted(set(predictions.breasts))):
        own = images.scores[np.array(predictions.breasts) == name]
        score = breasts.scores[place]
        lowest, highest = {
            BreastRule.MEAN: (own.min(), own.max()),
            BreastRule.MAX: (own.max(), own.max()),
            BreastRule.NOISY_OR: (own.max(), min(1, own.sum())),
        }[rule]
        assert lowest - 1e-12 <= score <= highest + 1e-12
        if len(own) == 1:
            assert score == pytest.approx(own[0], abs=1e-12)


@settings(deadline=None)
@given(ANY_EXAM, st.sampled_from(BreastRule), st.randoms(use_true_random=False))
def test_the_order_of_images_changes_no_breast_and_no_patient(views, rule, random):
    shuffled = list(views)
    random.shuffle(shuffled)
    first, second = cases_of(exam(views), Calibration(), rule), cases_of(exam(shuffled), Calibration(), rule)
    for level in (Level.BREAST, Level.PATIENT):
        assert first[level].scores == pytest.approx(second[level].scores)
        assert first[level].malignant.tolist() == second[level].malignant.tolist()


@settings(deadline=None)
@given(ANY_EXAM)
def test_repeated_views_change_neither_mean_nor_maximum_and_raise_a_noisy_or(views):
    for rule in (BreastRule.MEAN, BreastRule.MAX):
        once, twice = (cases_of(exam(taken), Calibration(), rule)[Level.BREAST].scores for taken in (views, views * 2))
        assert once == pytest.approx(twice)
    once, twice = (
        cases_of(exam(taken), Calibration(), BreastRule.NOISY_OR)[Level.BREAST].scores for taken in (views, views * 2)
    )
    assert (twice >= once - 1e-12).all()


@settings(deadline=None)
@given(ANY_EXAM, st.sampled_from(BreastRule))
def test_a_malignant_image_makes_its_breast_and_patient_malignant(views, rule):
    predictions = exam(views)
    cases = cases_of(predictions, Calibration(), rule)
    malignant = [name for name, label in zip(predictions.breasts, predictions.labels, strict=True) if label == 2]
    assert cases[Level.BREAST].malignant.sum() == len(set(malignant))
    assert cases[Level.PATIENT].malignant.sum() == len({name[0] for name in malignant})
    assert len(cases[Level.PATIENT].scores) <= len(cases[Level.BREAST].scores) <= len(views)
    highest = max(cases[Level.BREAST].scores)
    assert max(cases[Level.PATIENT].scores) == highest, "the worst breast of all is its patient's"
