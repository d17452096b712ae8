"""Two images that share features are the same only where their pixels say so, too."""

from statistics import NormalDist, pstdev

import cv2
import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.images.fine_detail import DetailScales
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.processing.splits.pixel_confirmation import (
    ALLOWED_FALSE_ALARMS,
    CORRELATION,
    Confirmation,
    Detail,
    Range,
    correlation,
    detail,
)

SAME = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def phantom(seed: int) -> np.ndarray:
    return make_film(seed, label=Label.BENIGN, laterality=Laterality.LEFT, height=320, width=200).pixels


def turned(pixels: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Return an image turned about its centre, and the transform of its points."""
    turn = cv2.getRotationMatrix2D((100, 160), degrees, 1.0)
    return np.asarray(cv2.warpAffine(pixels, turn, (200, 320)), np.uint16), turn


def test_a_copy_correlates_once_it_is_turned_back():
    original = phantom(3)
    copy, turn = turned(original, 8)
    lighter = np.rint(65535 * (copy / 65535) ** 0.7).astype(np.uint16)
    assert correlation(detail(original), detail(lighter), turn) > CORRELATION.most
    assert correlation(detail(original), detail(lighter), SAME) < CORRELATION.least, (
        "the transform is what lays them over"
    )


def test_a_mirrored_copy_correlates_by_a_transform_that_mirrors():
    original = phantom(3)
    mirrored = np.ascontiguousarray(original[::-1])
    mirror = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 319.0]])
    assert correlation(detail(original), detail(mirrored), mirror) > 0.95


def test_different_images_do_not_correlate_under_any_transform():
    values = [correlation(detail(phantom(3)), detail(phantom(seed)), SAME) for seed in (4, 5, 6)]
    assert max(values) < CORRELATION.least


def test_without_a_common_block_there_is_no_correlation():
    away = np.array([[1.0, 0.0, 1000.0], [0.0, 1.0, 0.0]])
    assert correlation(detail(phantom(3)), detail(phantom(3)), away) is None
    assert correlation(detail(np.zeros((320, 200), np.uint16)), detail(phantom(3)), SAME) is None


@pytest.mark.parametrize("pairs", [0, 1, 10, 100, 10_000])
def test_the_limit_follows_the_number_of_pairs(pairs):
    different = list(np.random.default_rng(0).normal(0.3, 0.12, 200))
    found = Confirmation.of(different, pairs)
    assert CORRELATION.least <= found.limit <= CORRELATION.most
    assert found.limit >= Confirmation.of(different, pairs // 10).limit
    assert found.expected_false_alarms <= ALLOWED_FALSE_ALARMS * 1.01 or found.limit == CORRELATION.most


def test_few_pairs_are_judged_by_earlier_measurements():
    assert Confirmation.of([0.9] * 3, 5) == Confirmation.of([], 5)


ANY = Range(least=-9.0, most=9.0, mean=0.3, deviation=0.15)


@pytest.mark.parametrize("pairs", [1, 10, 1000])
@pytest.mark.parametrize("measured", [0, 29, 30, 31])
def test_the_limit_is_the_quantile_that_allows_a_hundredth_of_a_false_alarm(pairs: int, measured: int) -> None:
    different = list(np.linspace(0.1, 0.5, measured))
    mean, deviation = (float(np.mean(different)), pstdev(different)) if measured >= 30 else (0.3, 0.15)
    found = Confirmation.of(different, pairs, ANY)
    assert found.limit == pytest.approx(mean + deviation * NormalDist().inv_cdf(1 - 0.01 / pairs), rel=1e-9)
    assert (found.pairs, found.expected_false_alarms) == (pairs, pytest.approx(0.01, rel=1e-6))


def test_the_limit_stays_in_its_range_and_equal_figures_have_a_deviation() -> None:
    narrow = Range(least=0.4, most=0.5, mean=0.3, deviation=0.15)
    assert Confirmation.of([0.1] * 30, 1, narrow).limit == 0.4
    high = Confirmation.of([0.6] * 30, 7, narrow)
    assert high.limit == 0.5 and high.expected_false_alarms == pytest.approx(7), "all of them would exceed the limit"
    assert Confirmation.of([0.45] * 30, 1, narrow).limit == pytest.approx(0.45 + 1e-3 * NormalDist().inv_cdf(0.99))
    none = Confirmation.of([], 0, ANY)
    assert (none.pairs, none.expected_false_alarms) == (0, 0)
    assert none.limit == Confirmation.of([], 1, ANY).limit


def noise(height: int, width: int, seed: int = 0) -> Detail:
    values = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    return Detail(values, np.ones((height, width), np.uint8))


def shifted(image: Detail, down: int, right: int) -> Detail:
    return Detail(np.roll(image.values, (down, right), (0, 1)), image.inside)


@pytest.mark.parametrize(("height", "width", "compared"), [(44, 44, True), (43, 44, False), (44, 43, False)])
def test_a_block_needs_room_to_move(height: int, width: int, compared: bool) -> None:
    image = noise(height, width)
    found = correlation(image, image, SAME)
    assert found == pytest.approx(1, abs=1e-5) if compared else found is None


@pytest.mark.parametrize("steps", [(6, 0), (0, 6), (-6, 0), (0, -6)])
def test_a_block_may_move_six_pixels(steps: tuple[int, int]) -> None:
    image = noise(44, 44)
    assert correlation(image, shifted(image, *steps), SAME) == pytest.approx(1, abs=1e-5)
    farther = shifted(image, *(step * 7 // 6 for step in steps))
    assert (correlation(image, farther, SAME) or 0) < 0.5


def test_the_transform_maps_points_of_the_first_image_to_the_second() -> None:
    first, second = noise(100, 120), shifted(noise(100, 120), 9, 20)
    there, back = np.array([[1.0, 0, 20], [0, 1, 9]]), np.array([[1.0, 0, -20], [0, 1, -9]])
    assert correlation(first, second, there) == pytest.approx(1, abs=1e-5)
    assert correlation(second, first, back) == pytest.approx(1, abs=1e-5)
    assert (correlation(first, second, back) or 0) < 0.5


def test_the_correlation_is_the_median_of_the_blocks() -> None:
    first, second = noise(44, 108), noise(44, 108)
    second.values[:, 76:] = noise(44, 108, seed=1).values[:, 76:]
    assert correlation(first, second, SAME) == pytest.approx(1, abs=1e-5), "two blocks of three are equal"
    second.values[:, 44:] = noise(44, 108, seed=1).values[:, 44:]
    assert (correlation(first, second, SAME) or 0) < 0.5, "one block of three is equal"
    down = noise(108, 44)
    other = noise(108, 44)
    other.values[76:] = noise(108, 44, seed=1).values[76:]
    assert correlation(down, other, SAME) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("of_first", "of_second", "compared"), [(51, 0, 1), (52, 0, 0), (0, 96, 1), (0, 97, 0)])
def test_a_block_is_tissue_to_95_percent_in_both_images(of_first: int, of_second: int, compared: int) -> None:
    """32 x 32 pixels in the first image; with their room to move, 44 x 44 in the second."""
    first, second = noise(44, 44), noise(44, 44)
    first.inside[6:8, 6:38] = np.where(np.arange(64) < of_first, 0, 1).reshape(2, 32)
    second.inside[:3] = np.where(np.arange(132) < of_second, 0, 1).reshape(3, 44)
    assert (correlation(first, second, SAME) is not None) == compared


@pytest.mark.parametrize(("height", "width"), [(320, 100), (640, 200), (160, 50)])
def test_the_detail_is_of_the_tissue_at_one_height(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(20_000, 20_100, (height, width)).astype(np.uint16)
    found = detail(pixels)
    inside = np.zeros((320, 100), np.uint8)
    inside[4:-4, 4:-4] = 1
    assert np.array_equal(found.inside, inside) and found.inside.dtype == np.uint8
    way = cv2.INTER_AREA if height > 320 else cv2.INTER_LINEAR
    image = np.float32(cv2.resize(pixels, (100, 320), interpolation=way)) / np.float32(65535)
    # The contrast is of the order of the floor, below which it counts as noise.
    scales = DetailScales(fine=2.0, coarse=8.0, contrast=16.0, floor=1e-4, tissue_only=True)
    assert np.allclose(found.values, scales.of(image, inside > 0), rtol=0, atol=1e-5)
    assert 0.1 < found.values.std() < 0.9
