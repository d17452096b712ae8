"""Varied images: equal random numbers give equal images, air stays air, lesions follow, every switch has an effect."""

from dataclasses import fields, replace

import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Label, Lesion
from mammopipe.processing.variation import Variation, vary

NONE = Variation(1.0, *[False] * (len(fields(Variation)) - 1))
SHAPE = (96, 64)


def image(spot: tuple[int, int] | None = None) -> np.ndarray:
    """Return grey tissue within a border of air, with a bright spot at (row, column) where one is wanted."""
    made = np.zeros(SHAPE, np.float32)
    made[8:88, 0:52] = 0.3 + 0.1 * np.random.default_rng(1).random((80, 52), np.float32)
    if spot:
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        made[np.hypot(rows - spot[0], columns - spot[1]) <= 4] = 1
    return made


def varied(variation: Variation, seed: int = 0, *, craniocaudal: bool = False, given: np.ndarray | None = None):
    return vary(
        image() if given is None else given, (), np.random.default_rng(seed), variation, craniocaudal=craniocaudal
    )[0]


def test_the_same_numbers_make_the_same_image_and_others_another():
    original = image()
    given = original.copy()
    first = varied(Variation(), 3, given=given)
    assert np.array_equal(first, varied(Variation(), 3)) and not np.array_equal(first, varied(Variation(), 4))
    assert np.array_equal(given, original), "the image itself is left alone"
    assert first.dtype == np.float32 and first.shape == SHAPE and first.min() >= 0 and first.max() <= 1


def test_without_strength_or_switches_nothing_changes():
    for variation in (NONE, Variation(0.0)):
        for seed in range(6):
            np.testing.assert_allclose(varied(variation, seed, craniocaudal=True), image(), atol=1e-6)


@pytest.mark.parametrize("name", [item.name for item in fields(Variation)][1:])
def test_every_switch_alone_changes_the_image(name):
    alone = replace(NONE, **{name: True})
    assert any(not np.allclose(varied(alone, seed, craniocaudal=True), image(), atol=1e-3) for seed in range(12))


def test_only_craniocaudal_views_are_mirrored():
    flips = replace(NONE, flip=True)
    mirrored = [np.allclose(varied(flips, seed, craniocaudal=True), image()[::-1], atol=1e-6) for seed in range(20)]
    assert 4 <= sum(mirrored) <= 16
    assert all(np.allclose(varied(flips, seed), image(), atol=1e-6) for seed in range(20))


@pytest.mark.parametrize("seed", range(10))
def test_lesions_move_with_the_pixels(seed):
    lesion = Lesion(30.0, 50.0, 4.0, Label.MALIGNANT)
    moves = Variation(1.0, crop=False, tone=False, blur=False, downscale=False)
    found, (moved,) = vary(image((50, 30)), (lesion,), np.random.default_rng(seed), moves, craniocaudal=True)
    rows, columns = np.nonzero(found > 0.75)
    assert abs(rows.mean() - moved.y) < 1.5 and abs(columns.mean() - moved.x) < 1.5
    assert 0.84 * 4 < moved.radius < 1.16 * 4 and moved.label is Label.MALIGNANT
    area = np.pi * moved.radius**2
    assert 0.6 * area < len(rows) < 1.6 * area


@pytest.mark.parametrize("seed", range(8))
def test_air_stays_zero(seed):
    photometric = Variation(1.0, crop=False, flip=False, affine=False, elastic=False)
    assert (varied(photometric, seed)[image() == 0] == 0).all()
    tones = replace(NONE, tone=True)
    assert np.array_equal(varied(tones, seed) > 0, image() > 0), "and tissue stays tissue"


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_never_hides_every_lesion(seed):
    crops = replace(NONE, crop=True)
    lesion = Lesion(30.0, 50.0, 4.0, Label.MALIGNANT)
    found, _ = vary(image((50, 30)), (lesion,), np.random.default_rng(seed), crops, craniocaudal=False)
    assert found[50, 30] == 1
    assert (found > 0).sum() >= 0.3 * (image() > 0).sum()


def test_a_lesion_that_leaves_the_image_is_dropped():
    edge = Lesion(30.0, 1.0, 2.0, Label.BENIGN)
    turns = replace(NONE, affine=True)
    kept = [len(vary(image(), (edge,), np.random.default_rng(s), turns, craniocaudal=False)[1]) for s in range(20)]
    assert set(kept) == {0, 1}
