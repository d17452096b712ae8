"""The maps of `model.json` from scores to probabilities: every value is checked on reading."""

from contextlib import nullcontext

import pytest

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.calibration import ScoreMap, read_score_maps
from mammopipe.training.model.exam_scores import Level

MAP = {"slope": 0.8, "intercept": -0.5, "cases": 200, "malignant": 20}
SHARES = {"image": 0.2, "breast": 0.1, "patient": 0.1}


def read(maps, shares=SHARES, *, of_all=True):
    return read_score_maps(maps, shares, "calibration.scores", "model.json", of_all=of_all)


def test_a_map_is_what_was_written_and_a_reason_is_no_map():
    written = ScoreMap(0.8, -0.5, 200, 20)
    assert read({"breast": written.as_dict(), "patient": {"reason": "too few"}}) == {Level.BREAST: written}
    assert written.prevalence == 0.1 and read(None) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": 0}, None),
        ({"slope": -1e-9}, "slope=-1e-09 must be a number from 0 to 100"),
        ({"slope": 101}, "slope"),
        ({"slope": float("nan")}, "slope"),
        ({"slope": True}, "slope"),
        ({"intercept": float("inf")}, "intercept"),
        ({"intercept": "1"}, "intercept='1' must be a number from -2000 to 2000"),
        ({"cases": 20}, "malignant=20 must be from 1 to below cases"),
        ({"cases": 10**400, "malignant": 10**399}, "cases"),
        ({"malignant": 0}, "malignant"),
        ({"malignant": 20.0}, "malignant"),
        ({"malignant": 21}, "calibration.prevalence.breast=0.1 must be malignant / cases, 0.105"),
        ({"reason": "too few"}, "must be an object of slope, intercept, cases, malignant, or of a reason alone"),
    ],
)
def test_each_value_has_its_range(change, message):
    for other in ({"reason": "too few"}, MAP):
        with pytest.raises(ConfigError, match=message) if message else nullcontext():
            read({"breast": {**MAP, **change}, "patient": other})


@pytest.mark.parametrize(
    ("maps", "shares", "message"),
    [
        ([], SHARES, r"model.json: calibration.scores=\[\] must be an object with the keys breast, patient"),
        ({"breast": MAP}, SHARES, "the keys breast, patient"),
        ({"breast": MAP, "patient": MAP, "image": MAP}, SHARES, "the keys breast, patient"),
        ({"breast": None, "patient": MAP}, SHARES, "calibration.scores.breast=None must be an object of slope"),
        ({"breast": {"reason": 1}, "patient": MAP}, SHARES, "calibration.scores.breast"),
        ({"breast": MAP, "patient": MAP}, {"image": 0.2, "breast": 0.1}, "calibration.prevalence.patient=None must be"),
    ],
)
def test_maps_of_another_kind_are_refused(maps, shares, message):
    with pytest.raises(ConfigError, match=message):
        read(maps, shares)


def test_the_cases_of_compared_breasts_are_not_all_but_validation_states_a_prevalence():
    maps = {"breast": MAP, "patient": MAP}
    assert len(read(maps, {"breast": 0.3, "patient": 0.2}, of_all=False)) == 2
    for share in (0, 1):
        with pytest.raises(ConfigError, match=f"calibration.prevalence.patient={share} must be above 0 and below 1"):
            read(maps, {"breast": 0.3, "patient": share}, of_all=False)
