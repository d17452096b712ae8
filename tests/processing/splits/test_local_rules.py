"""The rules by which features agree place by place, on points and blocks whose answer is known."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.processing.splits.local_agreement import (
    FITTING,
    LOCALLY_ALIKE,
    LocalMatch,
    deformed_pairs,
    fitting_places,
    local_match,
)
from mammopipe.processing.splits.near_duplicates import Features
from mammopipe.processing.splits.pixel_confirmation import Confirmation, Detail

Points = NDArray[np.float64]
CODES = np.random.default_rng(0).integers(0, 256, (300, 32)).astype(np.uint8)


def described(points: Points | Sequence[Sequence[float]]) -> Features:
    """Return features at these points; the same number has the same descriptor."""
    places = np.asarray(points, np.float32)
    return Features(places, CODES[: len(places)].copy())


# --- which features agree


@pytest.mark.parametrize(
    ("step", "change", "near"),
    [
        ((4, 0), (0, 0), True),
        ((0, 3.9), (0, 0), False),
        ((59.9, 0), (0, 0), True),
        ((0, 60), (0, 0), False),
        ((36, 48), (0, 0), False),
        ((10, 0), (5.4, 0), True),
        ((10, 0), (5.5, 0), False),
        ((0, 10), (-3.3, 4.4), False),
        ((0, 10), (-3.2, 4.3), True),
        ((40, 0), (0, 15.9), True),
        ((40, 0), (0, 16.1), False),
    ],
)
def test_neighbours_are_4_to_60_pixels_away_and_keep_their_distance(
    step: tuple[float, float], change: tuple[float, float], near: bool
) -> None:
    """The vector to a neighbour changes by less than 35 percent and two pixels."""
    first, second = np.array([[100.0, 100.0], [100.0, 100.0]]), np.array([[30.0, 50.0], [30.0, 50.0]])
    first[1] += step
    second[1] += np.add(step, change)
    found = local_match(described(first), described(second))
    assert found.near.tolist() == [[False, near], [near, False]]
    assert np.allclose(found.first, first, atol=1e-4) and np.allclose(found.second, second, atol=1e-4)
    assert found.first.dtype == found.second.dtype == np.float64


@pytest.mark.parametrize(("bits", "matches"), [(48, 1), (49, 0)])
def test_matching_descriptors_differ_in_at_most_48_bits(bits: int, matches: int) -> None:
    changed = np.unpackbits(CODES[:1], axis=1)
    changed[0, :bits] ^= 1
    found = local_match(described([[1, 2]]), Features(np.array([[3, 4]], np.float32), np.packbits(changed, axis=1)))
    assert found.first.tolist() == [[1, 2]] * matches and found.second.tolist() == [[3, 4]] * matches


def test_each_feature_matches_one_other() -> None:
    twice = Features(np.array([[1, 1], [2, 2], [3, 3]], np.float32), CODES[[0, 0, 1]])
    found = local_match(twice, described([[7, 7], [8, 8]]))
    assert found.first.tolist() == [[1, 1], [3, 3]] and found.second.tolist() == [[7, 7], [8, 8]]


def test_features_agree_with_five_neighbours_or_more() -> None:
    near = np.zeros((4, 7), bool)
    for row, neighbours in enumerate((4, 5, 6, 0)):
        near[row, :neighbours] = True
    found = LocalMatch(np.zeros((4, 2)), np.zeros((4, 2)), near)
    assert found.places.tolist() == [1, 2] and found.agreeing == 2


def on_rectangle(count: int, width: float, height: float) -> LocalMatch:
    """Return features on the corners and inside of a rectangle, and others far outside that do not agree."""
    inside = np.random.default_rng(0).uniform(0.1, 0.9, (count - 4, 2))
    corners = [[0, 0], [0, 1], [1, 0], [1, 1]]
    points = np.concatenate([np.concatenate([corners, inside]) * (width, height) + 50, [[0, 0], [300, 300]]])
    near = np.ones((count + 2, 6), bool)
    near[count:] = False
    return LocalMatch(points, points, near)


@pytest.mark.parametrize(
    ("count", "width", "height", "alike"), [(18, 50, 40, True), (17, 50, 40, False), (18, 50, 39.9, False)]
)
def test_images_are_alike_if_18_features_agree_over_2000_square_pixels(
    count: int, width: float, height: float, alike: bool
) -> None:
    found = on_rectangle(count, width, height)
    assert (found.agreeing, found.alike) == (count, alike) and LOCALLY_ALIKE == 18


# --- whether the places between them fit


def noise(seed: int = 0, height: int = 150, width: int = 130) -> Detail:
    values = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    return Detail(values, np.ones((height, width), np.uint8))


def shifted(image: Detail, right: int, down: int) -> Detail:
    return Detail(np.roll(image.values, (down, right), (0, 1)), np.roll(image.inside, (down, right), (0, 1)))


def grid(height: int = 150, width: int = 130, step: int = 22) -> Points:
    return np.array([[x, y] for y in range(5, height, step) for x in range(5, width, step)], float)


def agreeing(first: Points, second: Points) -> LocalMatch:
    return LocalMatch(first, second, np.ones((len(first), 5), bool))


def places(points: Points, height: int = 150, width: int = 130) -> list[tuple[int, int]]:
    """Return the compared places: on a grid of 12, with a block of 24 inside the image, between features."""
    found = []
    for y in range(12, height - 12, 12):
        for x in range(12, width - 12, 12):
            away = np.sort(np.hypot(*(points - (x, y)).T))
            if len(away) >= 5 and away[0] > 10 and away[4] < 40:
                found.append((x, y))
    return found


@pytest.mark.parametrize("move", [(0, 0), (5, -3), (-20, 11)])
def test_all_places_fit_where_the_features_moved_with_the_image(move: tuple[int, int]) -> None:
    points = grid()
    inner = np.flatnonzero((np.abs(points - (65, 75)) < 35).all(axis=1))
    found = agreeing(points[inner], points[inner] + move)
    assert fitting_places(noise(), shifted(noise(), *move), found) == 1


@pytest.mark.parametrize(("off", "fits"), [(6, True), (12, False), (18, False)])
def test_a_block_may_lie_six_pixels_beside(off: int, fits: bool) -> None:
    found = agreeing(grid(), grid() + (0, off))
    assert ((fitting_places(noise(), noise(), found) or 0) > 0.9) is fits


def test_the_share_is_of_the_places_between_the_features() -> None:
    """Half of the second image shows something else."""
    other = noise()
    other.values[75:] = noise(1).values[75:]
    share = fitting_places(noise(), other, agreeing(grid(), grid()))
    rows = np.array([y for _, y in places(grid())])
    above, below = int((rows <= 63).sum()), int((rows >= 87).sum())
    between = len(rows) - above - below
    assert share is not None and above > 8 and below > 8
    chance = below / 9  # one of nine positions fits best by chance
    assert above <= round(share * len(rows)) <= above + between + 3 * chance


@pytest.mark.parametrize("count", [7, 8])
def test_fewer_than_eight_places_give_no_share(count: int) -> None:
    """The tissue of the first image holds the blocks of just so many places."""
    first = noise(width=300)
    points = np.array([[x, y] for y in (56, 88) for x in range(4, 300, 16)], float)
    row = [(x, y) for x, y in places(points, width=300) if y == 72 and x > 18]
    kept = row[:count]
    assert len(row) > 8
    first.inside[:] = 0
    for x, y in kept:
        first.inside[y - 12 : y + 12, x - 12 : x + 12] = 1
    covered = [
        (x, y) for x, y in places(points, width=300) if first.inside[y - 12 : y + 12, x - 12 : x + 12].mean() >= 0.95
    ]
    share = fitting_places(first, noise(width=300), agreeing(points, points))
    assert len(covered) == count and share == (1 if count == 8 else None)


@pytest.mark.parametrize(("count", "compared"), [(4, False), (5, True)])
def test_a_place_lies_between_five_features(count: int, compared: bool) -> None:
    angles = np.arange(count) * 2 * np.pi / count
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 24
    rings = np.concatenate([ring + (x, 72) for x in (72, 192, 312)])
    share = fitting_places(noise(width=400), noise(width=400), agreeing(rings, rings))
    assert share == (1 if compared else None)
    assert (len(places(rings, width=400)) >= 8) is compared


def test_tissue_of_the_second_image_must_hold_the_block() -> None:
    second = noise()
    second.inside[:] = 0
    assert fitting_places(noise(), second, agreeing(grid(), grid())) is None
    second.inside[60:, :] = 1
    second.values[:60] = noise(1).values[:60]
    assert fitting_places(noise(), second, agreeing(grid(), grid())) == 1, "places that are covered count alone"


def test_a_stretched_image_fits_where_its_features_are() -> None:
    """Blocks are turned and stretched with the nearest features, hardly at all with few."""
    smooth = np.asarray(cv2.GaussianBlur(noise(0, 200, 200).values, (0, 0), 2), np.float32)
    turn = cv2.getRotationMatrix2D((100, 100), 12, 1.1)
    second = np.asarray(cv2.warpAffine(smooth, turn, (200, 200)), np.float32)
    points = grid(200, 200, 15)
    points = points[(np.abs(points - 100) < 65).all(axis=1)]
    target = points @ turn[:, :2].T + turn[:, 2]
    full = np.ones((200, 200), np.uint8)
    share = fitting_places(Detail(smooth, full), Detail(second, full), agreeing(points, target))
    assert share is not None and share > 0.9


# --- pairs of a set


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def test_pairs_that_are_alike_and_fit_are_named_with_what_was_measured(pool: ThreadPoolExecutor) -> None:
    points = grid()
    seen = {
        "a": described(points),
        "copy": described(points + (3, 2)),
        "b": Features(points.astype(np.float32), CODES[200:][: len(points)]),
    }
    shown = {"a": noise(), "copy": shifted(noise(), 3, 2), "b": noise(1), "other": noise(2)}
    seen["other"] = seen["copy"]
    pairs = [("b", "a"), ("a", "copy"), ("a", "other"), ("copy", "a")]
    found, confirmation = deformed_pairs(pairs, seen, shown.__getitem__, pool)
    reason = (
        f"{len(points)} features agree place by place, different images have fewer than 18, "
        "and 100% of the places between them fit"
    )
    assert found == {1: reason, 3: reason}
    assert confirmation == Confirmation.of([], 3, FITTING), "three pairs are alike"


@pytest.mark.parametrize(("count", "measured"), [(5, 5), (200, 200), (201, 101), (401, 134)])
def test_at_most_200_pairs_of_different_images_are_measured(
    pool: ThreadPoolExecutor, count: int, measured: int
) -> None:
    """Pairs with 6 to 17 agreeing features are of different images."""
    points = np.array([[70, 70], [80, 70], [90, 70], [70, 80], [80, 80], [90, 80]], float)
    asked: list[str] = []

    def shown(name: str) -> Detail:
        asked.append(name)
        return noise(0, 30, 30)

    seen = {"a": described(points), "b": described(points), "few": described(points[:5])}
    found, confirmation = deformed_pairs([*[("a", "b")] * count, ("a", "few")], seen, shown, pool)
    assert found == {} and len(asked) == 2 * measured
    assert confirmation == Confirmation.of([], 0, FITTING), "none of them has places to compare"


def test_pairs_of_different_images_give_the_usual_share(pool: ThreadPoolExecutor) -> None:
    """Seventeen features of a copy are too few to be alike; their places all fit."""
    points = grid(step=30)[:17]
    seen = {"a": described(points), "b": described(points)}
    images = {"a": noise(), "b": noise()}
    assert local_match(seen["a"], seen["b"]).agreeing in range(6, 18)
    _, confirmation = deformed_pairs([("a", "b")] * 30, seen, images.__getitem__, pool)
    assert confirmation == Confirmation.of([1.0] * 30, 0, FITTING) != Confirmation.of([], 0, FITTING)
