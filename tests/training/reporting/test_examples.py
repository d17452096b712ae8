"""The example images of a report: which are chosen, and how they are drawn."""

import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Split
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.predictions import TestPredictions, ValidationPredictions
from mammopipe.training.reporting.examples import overlay, pick_examples


def test_examples_are_the_right_and_wrong_predictions_with_the_highest_probability():
    logits = np.log([[0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.3, 0.6]])
    names = tuple("abcde")
    test = TestPredictions(names, names, names, np.array([0, 0, 0, 2, 2]), logits)
    validation = ValidationPredictions(names[:1], names[:1], names[:1], np.array([0]), logits[:1])
    examples = pick_examples(
        {Split.VALIDATION: validation, Split.TEST: test}, Calibration(), ["normal", "benign", "malignant"]
    )
    keys = ("split", "image_id", "truth", "predicted", "correct")
    assert [tuple(item[key] for key in keys) for item in examples] == [
        ("test", "e", "malignant", "malignant", True),
        ("test", "d", "malignant", "benign", False),
        ("test", "b", "normal", "normal", True),
        ("test", "c", "normal", "benign", False),
        ("validation", "a", "normal", "normal", True),
    ]
    assert examples[0]["probabilities"]["malignant"] == pytest.approx(0.6)


def test_an_overlay_is_the_image_where_there_is_no_heat():
    image = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
    heat = np.zeros((4, 6), np.float32)
    heat[3] = 1
    mixed = overlay(image, heat)
    assert mixed.shape == (4, 6, 3) and mixed.dtype == np.uint8
    assert (mixed[:3] == image[:3, :, None]).all()
    assert (mixed[3] != image[3, :, None]).any()
