"""The calibration of a model: computed by hand, and its JSON values in model.json."""

import numpy as np
import pytest

from mammopipe.training.model.calibration import Calibration, softmax

CLASSES = ("normal", "benign", "malignant")


def test_the_logits_are_divided_by_the_temperature_and_then_the_intercepts_are_added() -> None:
    found = Calibration(2.0, (0.5, 0.0, -1.0)).probabilities(np.array([[2.0, 4.0, -2.0]]))
    powers = np.exp([1.0 + 0.5, 2.0, -1.0 - 1.0])
    assert found[0] == pytest.approx(powers / powers.sum())


def test_without_intercepts_nothing_is_added() -> None:
    logits = np.array([[0.3, -1.0], [5.0, 4.0]])
    assert Calibration(0.5).probabilities(logits) == pytest.approx(softmax(logits * 2))
    assert Calibration().probabilities(logits) == pytest.approx(softmax(logits))


def test_softmax_of_each_row_sums_to_one_for_logits_of_any_size() -> None:
    found = softmax([[1, 2, 3], [-3000, 0, 3000], [-1e6, -1e6, -1e6]])
    assert found.dtype == np.float64 and found.shape == (3, 3)
    assert found.sum(axis=1) == pytest.approx([1, 1, 1])
    assert found[0] == pytest.approx(np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum())
    assert found[1].tolist() == [0, 0, 1] and found[2] == pytest.approx([1 / 3] * 3)


def test_float32_logits_are_calibrated_in_float64() -> None:
    logits = np.array([[0.1, 0.2, 0.7], [3.3, -0.1, 1e-3]], np.float32)
    wide = logits.astype(np.float64)
    assert softmax(logits).dtype == np.float64 and np.array_equal(softmax(logits), softmax(wide))
    calibration = Calibration(1.7, (0.1, 0.2, 0.3))
    assert np.array_equal(calibration.probabilities(logits), calibration.probabilities(wide))
    assert Calibration().temperature == 1 and Calibration().intercepts == ()


def test_the_json_values_are_those_that_are_read_by_class_name() -> None:
    calibration = Calibration(1.5, (0.1, -0.2, 0.3))
    stated = calibration.as_dict(CLASSES)
    assert stated == {"temperature": 1.5, "intercepts": {"normal": 0.1, "benign": -0.2, "malignant": 0.3}}
    assert Calibration.read(stated, CLASSES) == calibration
    assert Calibration.read(stated, CLASSES[::-1]).intercepts == (0.3, -0.2, 0.1)
    assert Calibration(2.0).as_dict(CLASSES)["intercepts"] == dict.fromkeys(CLASSES, 0.0)
    assert Calibration.read({"temperature": 3}, CLASSES) == Calibration(3.0)
    with pytest.raises(ValueError):
        calibration.as_dict(CLASSES[:2])


def test_a_model_that_compares_breasts_has_a_calibration_of_its_own_for_that() -> None:
    description = {"classes": CLASSES, "calibration": Calibration(1.5, (0.1, 0.2, 0.3)).as_dict(CLASSES)}
    assert Calibration.of(description) == Calibration(1.5, (0.1, 0.2, 0.3))
    assert Calibration.of_comparison(description) is None
    description["calibration"]["comparison"] = Calibration(0.7, (0.0, 0.0, 1.0)).as_dict(CLASSES)
    assert Calibration.of_comparison(description) == Calibration(0.7, (0.0, 0.0, 1.0))
    assert Calibration.of(description) == Calibration(1.5, (0.1, 0.2, 0.3))
