"""The breast is found on every kind of image that hospitals send: detectors, films, implants, cut-off breasts."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.processing.breast.segmentation import BreastRegion, Side, segment_breast
from mammopipe.processing.datasets.manifest import Laterality, View
from tests.support.clinical_phantoms import ClinicalPhantom, Kind, make_clinical_phantom

IMAGES = 8
"""Number of images of each kind: both sides and both views in turn."""
NO_SIDE = (Kind.FULL_FIELD, Kind.CUT_OFF)
"""Kinds that touch both sides of the image, so that only a header shows the chest wall's side."""


@dataclass(frozen=True)
class Segmented:
    """A phantom, and its segmentation with the true header."""

    phantom: ClinicalPhantom
    region: BreastRegion


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float(2 * (first & second).sum() / max(int(first.sum() + second.sum()), 1))


@pytest.fixture(scope="module")
def segmented() -> dict[Kind, list[Segmented]]:
    found: dict[Kind, list[Segmented]] = {kind: [] for kind in Kind}
    for kind in Kind:
        for seed in range(IMAGES):
            phantom = make_clinical_phantom(
                seed,
                kind,
                laterality=list(Laterality)[seed % 2],
                view=(View.MLO, View.CC)[seed // 2 % 2],
                bits=(8, 12, 16)[seed % 3],
                rows=320,
                columns=240,
            )
            region = segment_breast(phantom.pixels, laterality=phantom.laterality, view=phantom.view)
            found[kind].append(Segmented(phantom, region))
    return found


@pytest.mark.parametrize("kind", Kind)
def test_the_breast_is_found_whole(segmented: dict[Kind, list[Segmented]], kind: Kind) -> None:
    assert min(dice(each.region.mask, each.phantom.breast) for each in segmented[kind]) >= 0.97


def test_a_true_header_is_never_contradicted(segmented: dict[Kind, list[Segmented]]) -> None:
    for each in (each for found in segmented.values() for each in found):
        assert each.region.chest_side is Side.of(each.phantom.laterality), each.phantom.kind
        assert not {"chest-side-unclear", "chest-side-against-laterality"} & set(each.region.quality["flags"])


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in NO_SIDE])
def test_the_image_shows_the_side_where_the_header_is_mirrored_or_missing(
    segmented: dict[Kind, list[Segmented]], kind: Kind
) -> None:
    for each in segmented[kind][:4]:
        phantom = each.phantom
        for laterality, flags in ((phantom.laterality.other, {"chest-side-against-laterality"}), (None, set())):
            region = segment_breast(phantom.pixels, laterality=laterality, view=phantom.view)
            assert region.chest_side is Side.of(phantom.laterality)
            assert {flag for flag in region.quality["flags"] if flag.startswith("chest-side")} == flags


@pytest.mark.parametrize("kind", [Kind.DARK_FAT, Kind.NOISY_AIR])
def test_black_columns_beside_the_breast_hide_no_side(kind: Kind) -> None:
    phantom = make_clinical_phantom(1, kind, laterality=Laterality.LEFT, rows=320, columns=240)
    padded = np.pad(phantom.pixels, ((0, 0), (60, 30)))
    for laterality in (Laterality.LEFT, Laterality.RIGHT, None):
        region = segment_breast(padded, laterality=laterality, view=View.MLO)
        assert region.chest_side is Side.LEFT
        assert ("chest-side-against-laterality" in region.quality["flags"]) == (laterality is Laterality.RIGHT)
        assert dice(region.mask[:, 60:-30], phantom.breast) >= 0.97


def test_a_header_wins_where_the_breast_touches_both_sides(segmented: dict[Kind, list[Segmented]]) -> None:
    for each in segmented[Kind.CUT_OFF][:4]:
        region = segment_breast(each.phantom.pixels, laterality=each.phantom.laterality.other, view=each.phantom.view)
        assert region.chest_side is not Side.of(each.phantom.laterality)
        assert "chest-side-against-laterality" not in region.quality["flags"]


def test_flags_name_what_the_image_shows_and_nothing_else(segmented: dict[Kind, list[Segmented]]) -> None:
    expected = {
        Kind.IMPLANT: {"implant"},
        Kind.CUT_OFF: {"skin-cut-off"},
        Kind.FULL_FIELD: {"skin-cut-off", "coverage-high"},
    }
    watched = {"implant", "skin-cut-off", "coverage-high", "coverage-low", "chest-side-unclear", "view-unclear"}
    for each in (each for found in segmented.values() for each in found):
        flags = set(each.region.quality["flags"]) & watched
        assert flags == expected.get(each.phantom.kind, set()), each.phantom.kind


def test_a_craniocaudal_view_without_a_name_keeps_all_of_its_tissue(segmented: dict[Kind, list[Segmented]]) -> None:
    for each in (each for found in segmented.values() for each in found if each.phantom.view is View.CC):
        region = segment_breast(each.phantom.pixels, laterality=each.phantom.laterality)
        assert not region.pectoral.any(), each.phantom.kind
        assert {"view-inferred", "view-unclear"} & set(region.quality["flags"])


def test_an_oblique_view_without_a_name_is_recognised(segmented: dict[Kind, list[Segmented]]) -> None:
    oblique = [
        segment_breast(each.phantom.pixels, laterality=each.phantom.laterality).quality
        for kind, found in segmented.items()
        for each in found
        if each.phantom.view is View.MLO and kind not in NO_SIDE
    ]
    assert np.mean([quality["view_inferred"] == "MLO" for quality in oblique]) == 1.0
    assert np.mean(["view-inferred" in quality["flags"] for quality in oblique]) >= 0.9


def test_the_edge_of_a_cut_that_was_padded_later_is_no_skin() -> None:
    phantom = make_clinical_phantom(1, Kind.DARK_FAT, laterality=Laterality.LEFT, rows=320, columns=240)
    last = int(np.flatnonzero(phantom.breast.any(axis=0))[-1])
    cut = phantom.pixels.copy()
    cut[:, int(0.6 * last) :] = 0
    assert "skin-cut-off" in segment_breast(cut, laterality=Laterality.LEFT, view=View.MLO).quality["flags"]
    whole = segment_breast(phantom.pixels, laterality=Laterality.LEFT, view=View.MLO)
    assert "skin-cut-off" not in whole.quality["flags"]


def test_the_muscle_is_followed_to_the_chest_wall(segmented: dict[Kind, list[Segmented]]) -> None:
    overlaps = [
        dice(each.region.pectoral, each.phantom.pectoral)
        for found in segmented.values()
        for each in found
        if each.phantom.view is View.MLO
    ]
    assert np.median(overlaps) >= 0.93
    assert np.percentile(overlaps, 5) >= 0.8


@pytest.mark.parametrize(("seed", "kind"), [(211, Kind.TAPE), (156, Kind.MARKED), (119, Kind.SHUTTERED)])
def test_a_muscle_is_found_where_brighter_gland_overlaps_its_lower_part(seed: int, kind: Kind) -> None:
    phantom = make_clinical_phantom(seed, kind, laterality=list(Laterality)[seed // 2 % 2])
    region = segment_breast(phantom.pixels, laterality=phantom.laterality, view=View.MLO)
    assert dice(region.pectoral, phantom.pectoral) > 0.85


@pytest.mark.parametrize(
    ("seed", "kind"),
    [(162, Kind.FULL_FIELD), (280, Kind.IMPLANT), (729, Kind.WINDOWED), (802, Kind.NOISY_AIR), (865, Kind.IMPLANT)],
)
def test_the_long_edge_of_a_muscle_wins_over_shorter_edges_of_gland(seed: int, kind: Kind) -> None:
    phantom = make_clinical_phantom(seed, kind, laterality=list(Laterality)[seed // 2 % 2])
    region = segment_breast(phantom.pixels, laterality=phantom.laterality, view=View.MLO)
    assert dice(region.pectoral, phantom.pectoral) > 0.93


def test_a_mass_on_the_muscle_is_kept() -> None:
    phantom = make_clinical_phantom(4, Kind.DARK_FAT, laterality=Laterality.LEFT, rows=320, columns=240)
    rows, columns = np.nonzero(phantom.pectoral)
    y, x = int(np.percentile(rows, 30)), int(columns.max() * 0.35)
    distance = np.hypot(*np.meshgrid(np.arange(240) - x, np.arange(320) - y))
    mass = np.clip(phantom.pixels * (1 + 0.8 * np.exp(-((distance / 8) ** 2))), 0, 65535).astype(np.uint16)
    plain = segment_breast(phantom.pixels, laterality=phantom.laterality, view=View.MLO)
    with_mass = segment_breast(mass, laterality=phantom.laterality, view=View.MLO)
    assert plain.pectoral[y, x]
    assert not with_mass.pectoral[distance < 6].any()
    assert dice(with_mass.pectoral, plain.pectoral) > 0.8
