"""The maps of `model.json` from scores to probabilities: every value is checked on reading."""

from contextlib import nullcontext

import numpy as np
import pytest

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.calibration import ScoreMap, log_odds, read_score_maps
from mammopipe.training.model.exam_scores import Level

MAP = {"slope": 0.8, "intercept": -0.5, "cases": 200, "malignant": 20}
KEYS = "slope, intercept, cases, malignant, or of a reason alone$"
SHARES = {"image": 0.2, "breast": 0.1, "patient": 0.1}


def read(maps, shares=SHARES, *, of_all=True):
    return read_score_maps(maps, shares, "calibration.scores", "model.json", of_all=of_all)


def test_a_map_is_what_was_written_and_a_reason_is_no_map():
    written = ScoreMap(0.8, -0.5, 200, 20)
    assert read({"breast": written.as_dict(), "patient": {"reason": "too few"}}) == {Level.BREAST: written}
    assert written.prevalence == 0.1 and read(None) == {}
    found = read({"breast": {"reason": "too few"}, "patient": {**MAP, "slope": 1, "intercept": 2}})[Level.PATIENT]
    assert (type(found.slope), type(found.intercept)) == (float, float)


def test_the_log_odds_of_a_score_are_mapped_to_a_probability():
    odds = 0.5 * np.log([1 / 3, 1, 3]) - 0.2
    shares = ScoreMap(0.5, -0.2, 200, 20).probabilities([[0.25, 0.5, 0.75]])
    assert shares.shape == (1, 3) and shares[0] == pytest.approx(np.exp(odds) / (1 + np.exp(odds)))
    assert log_odds(np.float32([0.0, 1e-7])) == pytest.approx([np.log(1e-6 / (1 - 1e-6))] * 2, rel=1e-14)
    assert log_odds([1e-6, 2e-6]) == pytest.approx(np.log([1e-6, 2e-6]), abs=1e-5)
    assert log_odds([1.0, 1 - 1e-6, 1 - 2e-6]) == pytest.approx(-np.log([1e-6, 1e-6, 2e-6]), abs=1e-5)
    steep = ScoreMap(100.0, 0.0, 200, 20).probabilities([0.0, 1.0])
    assert np.isfinite(steep).all() and steep[0] < 1e-300 and steep[1] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": 0}, None),
        ({"slope": -1e-9}, "slope=-1e-09 must be a number from 0 to 100"),
        ({"slope": 100}, None),
        ({"slope": 100.01}, "slope=100.01 must be a number from 0 to 100$"),
        ({"slope": float("nan")}, "slope"),
        ({"slope": True}, "slope"),
        ({"intercept": float("inf")}, "intercept"),
        ({"intercept": "1"}, "intercept='1' must be a number from -2000 to 2000"),
        ({"intercept": -2000}, None),
        ({"intercept": 2000.0}, None),
        ({"intercept": 2000.01}, "intercept=2000.01 must be a number from -2000 to 2000$"),
        ({"intercept": -2000.01}, "intercept=-2000.01 must be"),
        ({"cases": 20}, "malignant=20 must be from 1 to below cases"),
        ({"cases": 10, "malignant": 1}, None),
        ({"cases": 10**9, "malignant": 10**8}, None),
        ({"cases": 10**9 + 1}, "cases=1000000001 must be a whole number from 1 to 1000000000$"),
        ({"cases": 10**400, "malignant": 10**399}, "cases"),
        ({"cases": 0}, "cases=0 must be a whole number"),
        ({"cases": True}, "cases=True must be a whole number"),
        ({"cases": 200.0}, "cases=200.0 must be a whole number"),
        ({"malignant": True}, "malignant=True must be from 1 to below cases$"),
        ({"malignant": 0}, "malignant"),
        ({"malignant": 20.0}, "malignant"),
        ({"malignant": 21}, "calibration.prevalence.breast=0.1 must be malignant / cases, 0.105"),
        ({"reason": "too few"}, "calibration.scores.breast={.*} must be an object of " + KEYS),
    ],
)
def test_each_value_has_its_range(change, message):
    where = "" if message and message.startswith("calibration") else r"calibration.scores.breast\."
    for other in ({"reason": "too few"}, MAP):
        with pytest.raises(ConfigError, match=f"^model.json: {where}{message}") if message else nullcontext():
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
        message = (
            f"^model.json: calibration.prevalence.patient={share} must be above 0 and below 1, "
            "beside calibration.scores.patient$"
        )
        with pytest.raises(ConfigError, match=message):
            read(maps, {"breast": 0.3, "patient": share}, of_all=False)


def test_a_prevalence_may_differ_by_rounding_alone():
    rare = {**MAP, "cases": 10**9, "malignant": 1}
    for share in (2e-9, 1e-9):
        assert len(read({"breast": rare, "patient": rare}, {"breast": share, "patient": share})) == 2
    with pytest.raises(ConfigError, match="prevalence.patient=3e-09 must be malignant / cases, 1e-09, beside"):
        read({"breast": rare, "patient": rare}, {"breast": 1e-9, "patient": 3e-9})
