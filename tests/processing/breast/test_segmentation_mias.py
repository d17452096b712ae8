"""The golden facts of segmentation on the 322 real films, if they are available."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.processing.breast.segmentation import BreastRegion, Side, segment_breast
from mammopipe.processing.datasets.manifest import ImageRecord, Lesion
from mammopipe.processing.datasets.mias import read_labels

MISPLACED = ("mdb212", "mdb214")
"""Their coordinates in the label table lie outside the breast."""


def circle(lesion: Lesion, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((x - lesion.x) ** 2 + (y - lesion.y) ** 2 <= lesion.radius**2)


@pytest.fixture(scope="module")
def regions(mias_folder: Path) -> list[tuple[ImageRecord, BreastRegion]]:
    found = []
    for record in read_labels(mias_folder / "Info.txt"):
        image = cv2.imread(str(mias_folder / f"{record.image_id}.pgm"), cv2.IMREAD_UNCHANGED)
        assert image is not None
        pixels = image.astype(np.uint16) * np.uint16(257)
        found.append((record, segment_breast(pixels, laterality=record.laterality, view=record.view)))
    return found


def test_lesions_stay_inside(regions: list[tuple[ImageRecord, BreastRegion]]) -> None:
    total = before = after = 0
    for record, region in regions:
        for lesion in record.lesions if record.image_id not in MISPLACED else ():
            inside = circle(lesion, region.mask.shape)
            total += int(inside.sum())
            before += int((inside & region.mask).sum())
            after += int((inside & region.mask & ~region.pectoral).sum())
    assert total > 1_000_000
    assert before / total >= 0.995
    assert after / total >= 0.992


def test_coverage_is_plausible_or_flagged(regions: list[tuple[ImageRecord, BreastRegion]]) -> None:
    for record, region in regions:
        coverage = region.quality["coverage"]
        assert 0.3 < coverage < 0.95, record.image_id
        assert ("coverage-high" in region.quality["flags"]) == (coverage > 0.9), record.image_id
    assert 0.55 < np.median([region.quality["coverage"] for _, region in regions]) < 0.75


def test_every_chest_wall_is_on_its_side(regions: list[tuple[ImageRecord, BreastRegion]]) -> None:
    for record, region in regions:
        assert record.laterality is not None
        assert region.chest_side is Side.of(record.laterality), record.image_id


def test_the_muscle_is_found_on_nearly_all_images(regions: list[tuple[ImageRecord, BreastRegion]]) -> None:
    shares = [region.quality["pectoral_share"] for _, region in regions]
    assert sum(share > 0 for share in shares) >= 300
    assert 0.05 < np.median(shares) < 0.2
    assert max(shares) < 0.45


def test_the_breast_is_one_piece(regions: list[tuple[ImageRecord, BreastRegion]]) -> None:
    for record, region in regions:
        count, _ = cv2.connectedComponents(region.mask.astype(np.uint8))
        assert count == 2, record.image_id


def test_flags_are_rare(regions: list[tuple[ImageRecord, BreastRegion]]) -> None:
    raised = [flag for _, region in regions for flag in region.quality["flags"]]
    others = [flag for flag in raised if flag != "pectoral-not-found"]
    assert max(others.count(flag) for flag in set(others)) <= 0.05 * len(regions)
    # Some of the films show no muscle.
    assert raised.count("pectoral-not-found") <= 0.06 * len(regions)
    assert not {"chest-side-unclear", "chest-side-against-laterality", "implant"} & set(raised)
