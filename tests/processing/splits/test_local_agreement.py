"""Elastically deformed copies: their features agree place by place, and those of different images do not."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import ImageRecord, Split
from mammopipe.processing.splits.leakage_audit import audit_leakage
from mammopipe.processing.splits.local_agreement import (
    FITTING,
    LEAST_HEIGHT,
    LOCALLY_ALIKE,
    LocalMatch,
    fitting_places,
    local_match,
)
from mammopipe.processing.splits.near_duplicates import Features, features, match
from mammopipe.processing.splits.pixel_confirmation import CORRELATION, correlation, detail
from tests.processing.splits.test_leakage_findings import Pixels, row, stored, texture


def deformed(pixels: Pixels, size: float = 0.02, seed: int = 0) -> Pixels:
    """Move each pixel smoothly by up to this share of the height."""
    random, (height, width) = np.random.default_rng(seed), pixels.shape
    across, down = (
        np.asarray(cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
        for each in random.uniform(-1, 1, (2, 8, 5)).astype(np.float32) * np.float32(size * height)
    )
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.asarray(cv2.remap(pixels, x + across, y + down, cv2.INTER_LINEAR), np.uint16)


def test_a_deformed_copy_agrees_place_by_place_where_no_one_transform_fits() -> None:
    original, copy = texture(1), deformed(texture(1))
    found, under_one = (of(features(original), features(copy)) for of in (local_match, match))
    share = fitting_places(detail(original), detail(copy), found)
    assert found.alike and share is not None and share > FITTING.most
    assert under_one.transform is not None
    assert (correlation(detail(original), detail(copy), under_one.transform) or 0) < CORRELATION.least
    # Each agreeing feature is where the deformation moved it.
    moves = found.second[found.places] - found.first[found.places]
    assert 3 < np.abs(moves).max() < 0.05 * original.shape[0]


def test_places_fit_where_the_features_say_and_in_no_other_image() -> None:
    original, copy = texture(1), deformed(texture(1))
    found = local_match(features(original), features(copy))
    elsewhere = replace(found, second=found.second + (18, 0))
    for image, places in ((texture(2), found), (copy, elsewhere)):
        share = fitting_places(detail(original), detail(image), places)
        assert share is not None and share < FITTING.least


@pytest.mark.parametrize(("side", "alike"), [(30, False), (120, True)])
def test_one_structure_in_two_images_does_not_make_them_alike(side: int, alike: bool) -> None:
    points = np.random.default_rng(0).uniform(100, 100 + side, (30, 2))
    found = LocalMatch(points, points + 8, np.ones((30, 30), bool))
    assert found.agreeing == 30 and found.alike is alike


@pytest.mark.parametrize("seed", range(2, 6))
def test_different_images_agree_nowhere(seed: int) -> None:
    found = local_match(features(texture(1)), features(texture(seed)))
    assert found.agreeing < LOCALLY_ALIKE / 2
    assert fitting_places(detail(texture(1)), detail(texture(seed)), found) is None


def test_images_without_features_do_not_agree() -> None:
    none = Features(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
    for first, second in ((none, none), (none, features(texture(1))), (features(texture(1)), none)):
        found = local_match(first, second)
        assert found.agreeing == 0 and fitting_places(detail(texture(1)), detail(texture(1)), found) is None


def deformed_set(folder: Path, height: int, seed: int) -> list[ImageRecord]:
    """Return four images of this height, of which one is a deformed copy of another in another split."""
    pictures = {
        "z-train": texture(1),
        "other": texture(2),
        "a-test": deformed(texture(1), 0.025, seed),
        "b-test": texture(3),
    }
    return [
        stored(
            folder,
            row(name, Split.TEST if name.endswith("test") else Split.TRAIN),
            np.asarray(cv2.resize(pixels, (height * 3 // 5, height), interpolation=cv2.INTER_AREA), np.uint16),
        )
        for name, pixels in pictures.items()
    ]


def test_the_audit_finds_a_deformed_copy_and_says_how(tmp_path: Path) -> None:
    [finding] = audit_leakage(deformed_set(tmp_path, 320, seed=2), tmp_path).findings
    assert (finding.kind, finding.images) == ("same-film", ("z-train", "a-test"))
    assert f"features agree place by place, different images have fewer than {LOCALLY_ALIKE}, and" in finding.message


@pytest.mark.parametrize("below", [0, 16])
def test_small_images_are_not_compared_place_by_place(tmp_path: Path, below: int) -> None:
    """They hold no fine detail, and different images of smooth patterns would be taken for one."""
    findings = audit_leakage(deformed_set(tmp_path, LEAST_HEIGHT - below, seed=2), tmp_path).findings
    assert len(findings) == (below == 0)
