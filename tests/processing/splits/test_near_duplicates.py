"""Features and their agreement, on points and pixels whose answer is known."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.processing.splits.near_duplicates import (
    FEATURES,
    HEIGHT,
    NO_MATCH,
    Features,
    Variant,
    features,
    match,
)

PIXELS = np.array([[0, 1, 2], [300, 65534, 65535]], np.uint16)
INVERTED = [[0, 65535, 65534], [65236, 2, 1]]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (Variant.AS_IT_IS, PIXELS.tolist()),
        (Variant.MIRRORED, PIXELS[::-1].tolist()),
        (Variant.INVERTED, INVERTED),
        (Variant.MIRRORED_AND_INVERTED, INVERTED[::-1]),
    ],
)
def test_a_variant_alters_the_tissue_and_leaves_the_air(variant: Variant, expected: list[list[int]]) -> None:
    found = variant.of(PIXELS)
    assert found.tolist() == expected and found.dtype == np.uint16 and found.flags.c_contiguous


def texture(seed: int, height: int = HEIGHT, width: int = 192) -> NDArray[np.uint16]:
    """Return smooth noise on an ellipse in air."""
    noise = np.random.default_rng(seed).normal(size=(HEIGHT, 192)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    pixels = np.clip(30000 + 12000 * smooth / smooth.std(), 1, 65535).astype(np.uint16)
    mask = cv2.ellipse(np.zeros((HEIGHT, 192), np.uint8), (96, 160), (85, 150), 0, 0, 360, 1, -1)
    return np.asarray(cv2.resize(pixels * mask, (width, height), interpolation=cv2.INTER_NEAREST), np.uint16)


def test_features_lie_in_the_tissue_away_from_its_rim() -> None:
    found = features(texture(1))
    assert 250 < len(found.points) <= FEATURES
    assert found.points.dtype == np.float32 and found.points.shape == (len(found.points), 2)
    assert found.descriptors.dtype == np.uint8 and found.descriptors.shape == (len(found.points), 32)
    # 4 pixels of the tissue are left out along the outline, and the outline itself is round.
    radius = np.hypot((found.points[:, 0] - 96) / 82, (found.points[:, 1] - 160) / 147)
    assert radius.max() < 1


def orb(pixels: NDArray[np.uint16]) -> list[tuple[float, float, float]]:
    """Return place and response of the features of OpenCV's detector, on tissue with equal contrast."""
    inside = cv2.erode((pixels > 0).astype(np.uint8), np.ones((9, 9), np.uint8))
    even = cv2.createCLAHE(4.0, (6, 4)).apply((pixels >> 8).astype(np.uint8))
    found = cv2.ORB.create(nfeatures=300, fastThreshold=4).detect(even, inside)
    return [(point.pt[0], point.pt[1], point.response) for point in found]


@pytest.mark.parametrize("blur", [0.1, 12.0])
def test_the_strongest_features_come_first(blur: float) -> None:
    """Weak detail has fewer features than are kept, and each counts."""
    pixels = np.asarray(cv2.GaussianBlur(texture(1), (0, 0), blur), np.uint16)
    known = orb(pixels)
    assert (len(known) < 250) is (blur == 12.0)
    ordered = sorted(known, key=lambda point: -point[2])
    assert features(pixels).points.tolist() == pytest.approx(np.array(ordered, np.float32)[:, :2])


def test_the_rim_of_a_ragged_outline_is_left_out() -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(3).normal(size=(HEIGHT, 192)), (0, 0), 6)
    pixels = np.where(noise > 0, texture(1), 0).astype(np.uint16)
    pixels[:, :40] = pixels[:, -40:] = 0
    places = np.rint(features(pixels).points).astype(int)
    depth = cv2.distanceTransform((pixels > 0).astype(np.uint8), cv2.DIST_C, 3)[places[:, 1], places[:, 0]]
    assert len(places) > 30 and depth.min() >= 3, "four pixels, but for the scales of the detector"
    ordered = sorted(orb(pixels), key=lambda point: -point[2])
    assert features(pixels).points.tolist() == pytest.approx(np.array(ordered, np.float32)[:, :2])


@pytest.mark.parametrize("height", [640, 480, 200, 160])
def test_a_large_image_is_averaged_and_a_small_one_interpolated(height: int) -> None:
    pixels = texture(1, height, height * 3 // 5)
    way = cv2.INTER_AREA if height > HEIGHT else cv2.INTER_LINEAR
    scaled = np.asarray(cv2.resize(pixels, (192, HEIGHT), interpolation=way), np.uint16)
    found, expected = features(pixels), features(scaled)
    assert np.array_equal(found.points, expected.points) and np.array_equal(found.descriptors, expected.descriptors)


@pytest.mark.parametrize("factor", [2, 0.5])
def test_features_do_not_depend_on_the_size_of_the_image(factor: float) -> None:
    """Images are scaled to one height, and the width follows."""
    plain, scaled = features(texture(1)), features(texture(1, round(HEIGHT * factor), round(192 * factor)))
    found = match(plain, scaled)
    assert found.agreeing > 50 and found.transform is not None
    assert found.transform == pytest.approx(np.eye(3)[:2], abs=0.03 * 96)
    assert found.transform[:, :2] == pytest.approx(np.eye(2), abs=0.02)


@pytest.mark.parametrize("pixels", [np.zeros((320, 192), np.uint16), np.zeros((700, 30), np.uint16)])
def test_an_image_without_tissue_has_no_features(pixels: NDArray[np.uint16]) -> None:
    found = features(pixels)
    assert found.points.shape == (0, 2) and found.points.dtype == np.float32
    assert found.descriptors.shape == (0, 32) and found.descriptors.dtype == np.uint8
    assert match(found, found) is NO_MATCH and match(features(texture(1)), found) is NO_MATCH


# --- agreement on one transform


def described(points: NDArray[np.float32], seed: int = 0) -> Features:
    """Return features at these points; the same number of the same seed has the same descriptor."""
    return Features(points, np.random.default_rng(seed).integers(0, 256, (len(points), 32)).astype(np.uint8))


PLACES = np.random.default_rng(5).uniform(20, 300, (40, 2)).astype(np.float32)
TURNED = np.array([[0.9, -0.3, 12.0], [0.3, 0.9, -7.0]])


def moved(points: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(points @ TURNED[:, :2].T + TURNED[:, 2], np.float32)


@pytest.mark.parametrize("count", [4, 40])
def test_features_that_one_transform_moves_agree(count: int) -> None:
    found = match(described(PLACES[:count]), described(moved(PLACES[:count])))
    assert found.agreeing == count
    assert found.transform is not None and found.transform.dtype == np.float64
    assert found.transform == pytest.approx(TURNED, abs=1e-3)


def test_three_features_of_either_image_are_too_few() -> None:
    some, all_of = described(PLACES[:3]), described(PLACES)
    assert match(some, all_of) is NO_MATCH and match(all_of, some) is NO_MATCH
    assert (NO_MATCH.agreeing, NO_MATCH.transform) == (0, None)


@pytest.mark.parametrize(("off", "counts"), [(3.5, True), (4.5, False)])
def test_a_feature_may_lie_four_pixels_beside(off: float, counts: bool) -> None:
    places = moved(PLACES)
    places[7] += (off, 0)
    assert match(described(PLACES), described(places)).agreeing == 39 + counts


def test_each_feature_has_one_partner() -> None:
    # Of the four features of the second image, two look alike: three partners are too few.
    first, second = described(PLACES[:8]), described(moved(PLACES[:4]))
    assert match(first, second).agreeing == 4
    second.descriptors[3] = second.descriptors[2]
    assert match(first, second) is NO_MATCH and match(second, first) is NO_MATCH


def test_descriptors_are_compared_bit_by_bit() -> None:
    """One changed bit is nearer than two, whatever the bits are worth as numbers."""
    first = Features(PLACES[:4], np.repeat(np.arange(1, 5, dtype=np.uint8)[:, None] * 16, 32, axis=1))
    copies, others = first.descriptors.copy(), first.descriptors.copy()
    copies[:, 0] ^= 128
    others[:, :2] ^= 1
    places = np.concatenate([np.array([[1, 1], [300, 7], [5, 200], [90, 91]], np.float32), moved(PLACES[:4])])
    found = match(first, Features(places, np.concatenate([others, copies])))
    assert found.agreeing == 4 and found.transform == pytest.approx(TURNED, abs=1e-3)


def test_features_at_one_place_agree_on_no_transform() -> None:
    assert match(described(np.full((6, 2), 5, np.float32)), described(PLACES[:6])) is NO_MATCH


def test_the_agreement_is_the_same_in_every_run() -> None:
    first, second = described(PLACES), described(np.random.default_rng(9).uniform(20, 300, (40, 2)).astype(np.float32))
    found = []
    for seed in range(8):
        cv2.setRNGSeed(seed)
        found.append(match(first, second))
    assert len({each.agreeing for each in found}) == 1 and found[0].transform is not None
    assert all(np.array_equal(each.transform, found[0].transform) for each in found if each.transform is not None)
