"""Probabilities at another prevalence of cancer, by Bayes' rule."""

import numpy as np
import pytest

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.prevalence import PrevalenceShift, adjusted

SHARES = {Level.IMAGE: 0.1, Level.BREAST: 0.2, Level.PATIENT: 0.4}


def by_bayes(probability: float, held: float, wanted: float) -> float:
    """Return the posterior with the same likelihood ratio at another prior."""
    odds = probability / (1 - probability) * (1 - held) / held * wanted / (1 - wanted)
    return odds / (1 + odds)


def test_each_level_moves_to_its_own_prevalence() -> None:
    shift = PrevalenceShift(SHARES, 0.02)
    # The stated prevalence is that of women; their images and breasts show cancer as often as in validation.
    assert shift.prevalence == pytest.approx({Level.IMAGE: 0.005, Level.BREAST: 0.01, Level.PATIENT: 0.02})
    for level, share in SHARES.items():
        for probability in (0.03, 0.3, 0.97):
            expected = by_bayes(probability, share, shift.prevalence[level] or 0)
            assert shift.malignancy(level, probability) == pytest.approx(expected)
        assert shift.malignancy(level, share) == pytest.approx(shift.prevalence[level])
        assert shift.malignancy(level, np.array([0.0, 1.0])).tolist() == [0, 1]


def test_the_other_classes_keep_their_ratio() -> None:
    shift, given = PrevalenceShift(SHARES, 0.02), np.array([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    found = shift.classes(given)
    assert found.sum(axis=1) == pytest.approx([1, 1])
    assert found[:, 2] == pytest.approx([by_bayes(value, 0.1, 0.005) for value in (0.3, 0.8)])
    assert found[:, 0] / found[:, 1] == pytest.approx([2.5, 1])
    assert shift.classes(given[:, ::-1], malignant=0) == pytest.approx(found[:, ::-1])


def test_without_a_stated_prevalence_nothing_moves() -> None:
    shift = PrevalenceShift(SHARES)
    assert shift.prevalence == SHARES and shift.malignancy(Level.BREAST, 0.3) == pytest.approx(0.3)
    given = np.array([[0.5, 0.2, 0.3]])
    assert shift.classes(given) == pytest.approx(given)
    unknown = PrevalenceShift({})
    assert unknown.prevalence == dict.fromkeys(Level) and unknown.malignancy(Level.IMAGE, 0.3) == pytest.approx(0.3)


def test_the_prevalence_is_that_of_the_model() -> None:
    stated = {str(level): share for level, share in SHARES.items()}
    assert PrevalenceShift.of({"calibration": {"prevalence": stated}}, 0.02) == PrevalenceShift(SHARES, 0.02)
    for calibration in ({}, {"prevalence": None}):
        assert PrevalenceShift.of({"calibration": calibration}, None) == PrevalenceShift({})


@pytest.mark.parametrize("stated", [0.0, 0.9e-5, 0.91, 1.0])
def test_a_prevalence_out_of_range_is_refused(stated: float) -> None:
    with pytest.raises(ConfigError) as caught:
        PrevalenceShift(SHARES, stated)
    assert str(caught.value) == f"prevalence={stated} must be a proportion of the examined women, from 1e-05 to 0.9"


def test_the_bounds_of_the_range_are_accepted() -> None:
    assert [PrevalenceShift(SHARES, stated).stated for stated in (1e-5, 0.9)] == [1e-5, 0.9]


@pytest.mark.parametrize(
    "shares", [{}, {Level.IMAGE: 0.1, Level.PATIENT: 0.4}, {**SHARES, Level.IMAGE: 0.0}, {**SHARES, Level.BREAST: 1.0}]
)
def test_a_model_without_a_prevalence_between_0_and_1_at_each_level_cannot_be_adjusted(
    shares: dict[Level, float],
) -> None:
    with pytest.raises(ConfigError) as caught:
        PrevalenceShift(shares, 0.02)
    assert str(caught.value) == (
        "prevalence=0.02: the model's calibration.prevalence must state the proportions of malignant images, breasts "
        "and patients in validation, each above 0 and below 1; without them, probabilities cannot be adjusted"
    )


def test_a_prevalence_at_which_every_image_shows_cancer_is_refused() -> None:
    shares = {Level.IMAGE: 0.5, Level.BREAST: 0.3, Level.PATIENT: 0.4}
    with pytest.raises(ConfigError) as caught:
        PrevalenceShift(shares, 0.8)
    assert str(caught.value) == (
        "prevalence=0.8: in validation, 0.5 of the images and 0.4 of the women are malignant; at this prevalence, more "
        "images than there are would be malignant"
    )
    assert PrevalenceShift(shares, 0.79).prevalence[Level.IMAGE] == pytest.approx(0.9875)


def test_a_probability_is_adjusted_there_and_back() -> None:
    assert adjusted(0.3, prevalence=0.1, to=0.02) == pytest.approx(by_bayes(0.3, 0.1, 0.02))
    assert adjusted(adjusted(0.3, prevalence=0.1, to=0.02), prevalence=0.02, to=0.1) == pytest.approx(0.3)
