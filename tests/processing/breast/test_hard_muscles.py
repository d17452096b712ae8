"""Pectoral muscles that are hard to find: faint, layered, with a bright seam at the chest wall, hidden by gland."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.processing.breast.segmentation import segment_breast
from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.phantoms.muscle import MuscleTrait
from tests.support.clinical_phantoms import ClinicalPhantom, Kind, make_clinical_phantom

KINDS = (Kind.FILM, Kind.BORDER, Kind.DARK_FAT, Kind.SKIN_LINE, Kind.NOISY_AIR, Kind.WINDOWED, Kind.SHUTTERED)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float(2 * (first & second).sum() / max(int(first.sum() + second.sum()), 1))


def overlap(phantom: ClinicalPhantom) -> float:
    region = segment_breast(phantom.pixels, laterality=phantom.laterality, view=phantom.view)
    return dice(region.pectoral, phantom.pectoral)


def test_most_muscles_of_every_trait_are_found() -> None:
    overlaps = [
        overlap(make_clinical_phantom(seed, kind, trait=trait, rows=320, columns=240))
        for trait in MuscleTrait
        for seed, kind in enumerate(KINDS[:4])
    ]
    assert np.median(overlaps) >= 0.93
    assert np.percentile(overlaps, 10) >= 0.8


@pytest.mark.parametrize("trait", MuscleTrait)
def test_a_trait_changes_the_muscle_and_nothing_else(trait: MuscleTrait) -> None:
    plain, phantom = (make_clinical_phantom(1, Kind.FILM, rows=160, columns=120, trait=each) for each in (None, trait))
    assert phantom.pectoral.any() and not (phantom.pectoral & ~phantom.breast).any()
    assert not np.array_equal(phantom.pixels, plain.pixels)
    assert not (phantom.breast & ~plain.breast).any()
    if trait is not MuscleTrait.CUT_CORNER:
        assert np.array_equal(phantom.breast, plain.breast)


@pytest.mark.parametrize("trait", [MuscleTrait.SEAM, MuscleTrait.LAYERED])
def test_a_craniocaudal_view_has_no_trait(trait: MuscleTrait) -> None:
    phantom = make_clinical_phantom(2, Kind.DARK_FAT, view=View.CC, rows=320, columns=240, trait=trait)
    region = segment_breast(phantom.pixels, laterality=phantom.laterality, view=View.CC)
    assert not phantom.pectoral.any() and not region.pectoral.any()


@pytest.mark.parametrize(("seed", "kind"), [(5013, Kind.SKIN_LINE), (5014, Kind.NOISY_AIR), (5033, Kind.SKIN_LINE)])
def test_a_bright_strip_along_the_chest_wall_hides_no_muscle(seed: int, kind: Kind) -> None:
    side = list(Laterality)[seed % 2]
    phantom = make_clinical_phantom(seed, kind, laterality=side, trait=MuscleTrait.SEAM)
    assert overlap(phantom) > 0.9


@pytest.mark.parametrize(("seed", "kind"), [(520, Kind.IMPLANT), (594, Kind.WINDOWED), (896, Kind.DEEP_MUSCLE)])
def test_a_strong_edge_is_enough_where_gland_hides_half_of_it(seed: int, kind: Kind) -> None:
    assert overlap(make_clinical_phantom(seed, kind, laterality=list(Laterality)[seed // 2 % 2])) > 0.85


def test_many_bright_spots_keep_little_of_the_muscle() -> None:
    phantom = make_clinical_phantom(4, Kind.DARK_FAT, rows=320, columns=240)
    y, x = np.mgrid[0:320, 0:240]
    spots = np.zeros(phantom.pixels.shape)
    for row in range(12, 120, 22):
        for column in range(8, 80, 22):
            spots += phantom.pectoral[row, column] * np.exp(-(((x - column) ** 2 + (y - row) ** 2) / 20))
    spotted = np.minimum(phantom.pixels * (1 + 0.7 * spots), 65535).astype(np.uint16)
    plain, found = (
        segment_breast(each, laterality=phantom.laterality, view=View.MLO) for each in (phantom.pixels, spotted)
    )
    assert found.pectoral[phantom.pectoral].mean() > 0.85
    assert dice(found.pectoral, plain.pectoral) > 0.93


@pytest.mark.parametrize(("seed", "trait"), [(5038, MuscleTrait.CONVEX), (5008, MuscleTrait.KNEE)])
def test_a_white_muscle_below_a_shutter_is_no_implant(seed: int, trait: MuscleTrait) -> None:
    phantom = make_clinical_phantom(seed, Kind.SHUTTERED, laterality=list(Laterality)[seed % 2], trait=trait)
    region = segment_breast(phantom.pixels, laterality=phantom.laterality, view=View.MLO)
    assert "implant" not in region.quality["flags"]
    assert dice(region.pectoral, phantom.pectoral) > 0.9
