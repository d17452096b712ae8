"""Two images that share features are the same only where their pixels say so, too."""

import cv2
import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.processing.splits.pixel_confirmation import (
    ALLOWED_FALSE_ALARMS,
    CORRELATION,
    Confirmation,
    correlation,
    detail,
)

SAME = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def film(seed: int) -> np.ndarray:
    return make_film(seed, label=Label.BENIGN, laterality=Laterality.LEFT, height=320, width=200).pixels


def turned(pixels: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a film turned about its centre, and the transform of the film's points."""
    turn = cv2.getRotationMatrix2D((100, 160), degrees, 1.0)
    return np.asarray(cv2.warpAffine(pixels, turn, (200, 320)), np.uint16), turn


def test_a_copy_correlates_once_it_is_turned_back():
    original = film(3)
    copy, turn = turned(original, 8)
    lighter = np.rint(65535 * (copy / 65535) ** 0.7).astype(np.uint16)
    assert correlation(detail(original), detail(lighter), turn) > CORRELATION.most
    assert correlation(detail(original), detail(lighter), SAME) < CORRELATION.least, (
        "the transform is what lays them over"
    )


def test_a_mirrored_copy_correlates_by_a_transform_that_mirrors():
    original = film(3)
    mirrored = np.ascontiguousarray(original[::-1])
    mirror = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 319.0]])
    assert correlation(detail(original), detail(mirrored), mirror) > 0.95


def test_different_images_do_not_correlate_however_they_are_laid():
    values = [correlation(detail(film(3)), detail(film(seed)), SAME) for seed in (4, 5, 6)]
    assert max(values) < CORRELATION.least


def test_without_a_common_block_there_is_no_answer():
    away = np.array([[1.0, 0.0, 1000.0], [0.0, 1.0, 0.0]])
    assert correlation(detail(film(3)), detail(film(3)), away) is None
    assert correlation(detail(np.zeros((320, 200), np.uint16)), detail(film(3)), SAME) is None


@pytest.mark.parametrize("pairs", [0, 1, 10, 100, 10_000])
def test_the_limit_follows_the_number_of_pairs(pairs):
    different = list(np.random.default_rng(0).normal(0.3, 0.12, 200))
    found = Confirmation.of(different, pairs)
    assert CORRELATION.least <= found.limit <= CORRELATION.most
    assert found.limit >= Confirmation.of(different, pairs // 10).limit
    assert found.expected_false_alarms <= ALLOWED_FALSE_ALARMS * 1.01 or found.limit == CORRELATION.most


def test_few_pairs_are_held_against_what_was_measured_before():
    assert Confirmation.of([0.9] * 3, 5) == Confirmation.of([], 5)
