"""The breast is found on synthetic films whose masks are known."""

import json
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.processing.breast.pectoral import find_pectoral
from mammopipe.processing.breast.segmentation import Side, segment_breast
from mammopipe.processing.datasets.manifest import Label, Laterality, Lesion, View
from mammopipe.processing.errors import ImageError, NoBreastError
from mammopipe.processing.jobs.contact_sheets import draw_contours


@dataclass(frozen=True)
class Film:
    """A left oblique film, chest wall at the left, with its true masks."""

    pixels: NDArray[np.uint16]
    breast: NDArray[np.bool_]
    muscle: NDArray[np.bool_]


def make_film(
    height: int = 512,
    width: int = 512,
    *,
    padding: float = 0.15,
    muscle: bool = True,
    label: bool = False,
    tape: bool = False,
    border: bool = False,
    seed: int = 0,
) -> Film:
    y, x = np.mgrid[:height, :width].astype(np.float32) / height
    image = (x >= padding) & (x < width / height - padding)
    x = x - padding
    # Depth below the skin, 0 at the skin and up to 1; the breast is half an ellipse on the chest wall.
    depth = 1 - np.sqrt((x / 0.42) ** 2 + ((y - 0.45) / 0.52) ** 2)
    breast = (depth > 0) & image
    corner = (x < 0.22 - 0.4 * y) & breast
    values = np.where(breast, 60 + 70 * np.clip(depth * 6, 0, 1), 4 * image)
    if muscle:
        values[corner] = 210
    if label:
        values[(abs(x - 0.55) < 0.05) & (abs(y - 0.08) < 0.06)] = 250
    if tape:
        values[(abs(x - 0.5) < 0.004) & image] = 180
    if border:
        values[image & (x > width / height - 2 * padding - 0.03)] = 255
        values[image & (y > 0.985)] = 90
    noise = np.random.default_rng(seed).normal(0, 1.5, values.shape) * image
    values = cv2.GaussianBlur(values, (0, 0), height / 400) + noise
    return Film((np.clip(values, 0, 255) * 257).astype(np.uint16), breast, corner & muscle)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def test_finds_breast_muscle_and_chest_side() -> None:
    image = make_film()
    region = segment_breast(image.pixels, laterality=Laterality.LEFT, view=View.MLO)
    assert region.mask.shape == region.pectoral.shape == image.pixels.shape
    assert region.mask.dtype == region.pectoral.dtype == np.bool_
    assert dice(region.mask, image.breast) > 0.98
    assert dice(region.pectoral, image.muscle) > 0.95
    assert not (region.pectoral & ~region.mask).any()
    assert region.chest_side is Side.LEFT
    assert region.quality["flags"] == []


@pytest.mark.parametrize("clutter", ["label", "tape", "border"])
def test_leaves_out_what_is_not_breast(clutter: str) -> None:
    image = make_film(label=clutter == "label", tape=clutter == "tape", border=clutter == "border")
    region = segment_breast(image.pixels, view=View.MLO)
    assert dice(region.mask, image.breast) > 0.975
    assert dice(region.pectoral, image.muscle) > 0.95


def test_separates_a_label_that_touches_the_skin() -> None:
    image = make_film()
    pixels = image.pixels.copy()
    edge = int(np.flatnonzero(image.breast[60])[-1])
    pixels[20:80, edge - 2 : edge + 60] = 64000
    region = segment_breast(pixels, view=View.MLO)
    assert dice(region.mask, image.breast) > 0.97


def test_an_abdomen_strip_below_the_breast_is_cut_off() -> None:
    image = make_film()
    pixels = np.vstack([image.pixels, np.full((100, 512), 1000, np.uint16)])
    left = int(np.flatnonzero(image.breast[250])[0])
    pixels[450:, left : left + 16] = 40000
    region = segment_breast(pixels, view=View.MLO)
    assert dice(region.mask[:512], image.breast) > 0.97
    assert not region.mask[520:].any()


@pytest.mark.parametrize("left", [True, False])
def test_an_abdomen_beside_the_lower_end_of_the_breast_is_cut_off(left: bool) -> None:
    """The breast hangs lower than the fold, so no row holds the abdomen alone."""
    y, x = np.mgrid[0:512, 0:400]
    breast = ((x - 90) / 150) ** 2 + ((y - 260) / 200) ** 2 < 1
    fold = int(np.flatnonzero(breast[:, 26])[-1])
    pixels = np.where(breast, 20000 + 40 * y, 0).astype(np.uint16)
    pixels[fold - 10 : fold + 28, :26] = 52000
    turn = slice(None) if left else slice(None, None, -1)
    region = segment_breast(np.ascontiguousarray(pixels[:, turn]), view=View.CC)
    assert dice(region.mask[:, turn], breast) > 0.98
    assert not region.mask[fold + 16 :, turn][:, :26].any()


@pytest.mark.parametrize("width", [8, 14])
def test_a_bright_strip_below_the_muscle_stays_breast(width: int) -> None:
    image = make_film()
    pixels = image.pixels.copy()
    first = int(np.flatnonzero(image.breast.any(axis=0))[0])
    strip = np.zeros_like(image.breast)
    strip[: int(0.93 * 512), first : first + width] = True
    pixels[strip & image.breast] = image.pixels[image.muscle].max()
    region = segment_breast(pixels, view=View.MLO)
    assert dice(region.pectoral, image.muscle) > 0.9
    lowest = np.flatnonzero(image.muscle.any(axis=1))[-1]
    assert not region.pectoral[lowest + 60 :].any()


@pytest.mark.parametrize("height", [14, 48])
def test_a_dark_band_across_the_upper_edge_is_no_breast(height: int) -> None:
    image = make_film()
    pixels = image.pixels.copy()
    pixels[:height] = np.where(image.breast[:height], 257 * 40, pixels[:height])
    region = segment_breast(pixels, view=View.MLO)
    assert not region.mask[: height - 3].any()
    below = np.arange(512)[:, None] > height + 4
    assert dice(region.mask & below, image.breast & below) > 0.97


def test_a_flipped_image_gives_the_flipped_masks() -> None:
    image = make_film(label=True)
    plain = segment_breast(image.pixels, view=View.MLO)
    flipped = segment_breast(np.ascontiguousarray(image.pixels[:, ::-1]), view=View.MLO)
    assert flipped.chest_side is Side.RIGHT
    assert dice(flipped.mask[:, ::-1], plain.mask) > 0.995
    assert dice(flipped.pectoral[:, ::-1], plain.pectoral) > 0.97


@pytest.mark.parametrize(("height", "width"), [(200, 200), (1024, 1024), (2776, 2082)])
def test_every_size_gives_the_same_masks(height: int, width: int) -> None:
    image = make_film(height, width, padding=0.0 if width < height else 0.15)
    region = segment_breast(image.pixels, view=View.MLO)
    assert dice(region.mask, image.breast) > 0.97
    assert dice(region.pectoral, image.muscle) > 0.93


def test_the_reduced_copy_gives_the_segmentation_of_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_film(1024, 1024, label=True)
    reduced = segment_breast(image.pixels, view=View.MLO)
    monkeypatch.setattr("mammopipe.processing.breast.working_copy.WORKING_SIZE", 1024)
    whole = segment_breast(image.pixels, view=View.MLO)
    assert dice(reduced.mask, whole.mask) > 0.98
    assert dice(reduced.pectoral, whole.pectoral) > 0.97


@pytest.mark.parametrize(("gain", "offset"), [(0.7, 0), (0.9, 9000), (1.15, -1000)])
def test_exposure_does_not_move_the_masks(gain: float, offset: int) -> None:
    image = make_film()
    pixels = np.clip(image.pixels * gain + offset, 0, 65535).astype(np.uint16)
    region = segment_breast(pixels, view=View.MLO)
    assert dice(region.mask, image.breast) > 0.975
    assert dice(region.pectoral, image.muscle) > 0.95


@pytest.mark.parametrize("degrees", [-14, 9, 14])
def test_a_tilted_image_with_black_wedges_is_segmented(degrees: float) -> None:
    image = make_film()
    turn = cv2.getRotationMatrix2D((256, 256), degrees, 1.0)
    pixels = cv2.warpAffine(image.pixels, turn, (512, 512)).astype(np.uint16)
    breast = cv2.warpAffine(image.breast.astype(np.uint8), turn, (512, 512)) > 0
    region = segment_breast(pixels, view=View.MLO)
    assert region.chest_side is Side.LEFT
    assert dice(region.mask, breast) > 0.97


def test_no_muscle_is_found_where_there_is_none() -> None:
    image = make_film(muscle=False)
    region = segment_breast(image.pixels, view=View.MLO)
    assert not region.pectoral.any()
    assert region.quality["flags"] == ["pectoral-not-found"]


def test_a_craniocaudal_view_keeps_its_bright_corner() -> None:
    region = segment_breast(make_film().pixels, view=View.CC)
    assert not region.pectoral.any()
    assert region.quality["flags"] == []


def test_an_unknown_view_is_inferred_and_the_answer_says_so() -> None:
    oblique = segment_breast(make_film().pixels)
    assert oblique.pectoral.any()
    assert oblique.quality["view_inferred"] == "MLO" and oblique.quality["view_confidence"] >= 0.9
    assert oblique.quality["flags"] == ["view-inferred"]


def test_no_muscle_is_removed_where_the_view_is_unclear() -> None:
    unclear = segment_breast(make_film(muscle=False).pixels)
    assert not unclear.pectoral.any()
    assert unclear.quality["flags"] == ["view-unclear"]


def test_a_chest_wall_against_the_laterality_is_flagged() -> None:
    region = segment_breast(make_film().pixels, laterality=Laterality.RIGHT, view=View.MLO)
    assert region.chest_side is Side.LEFT
    assert region.quality["flags"] == ["chest-side-against-laterality"]


def test_coverage_outside_the_limits_is_flagged() -> None:
    small = np.zeros((512, 512), np.uint16)
    small[:256, :256] = cv2.resize(make_film(padding=0.0).pixels, (256, 256))
    assert "coverage-low" in segment_breast(small, view=View.MLO).quality["flags"]
    image = make_film(padding=0.0)
    large = np.ascontiguousarray(image.pixels[40:400, :200])
    assert "coverage-high" in segment_breast(large, view=View.MLO).quality["flags"]
    assert "skin-cut-off" in segment_breast(large, view=View.MLO).quality["flags"]


def test_padding_is_no_part_of_the_image() -> None:
    coverage = [
        segment_breast(make_film(padding=padding).pixels, view=View.MLO).quality["coverage"] for padding in (0.0, 0.15)
    ]
    assert coverage[1] == pytest.approx(coverage[0] / 0.7, rel=0.05)


def test_quality_can_be_written_as_json() -> None:
    quality = segment_breast(make_film().pixels, view=View.MLO).quality
    assert json.loads(json.dumps(dict(quality), allow_nan=False)) == quality


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((300, 300), np.uint16), "one value"),
        (np.full((300, 300), 30000, np.uint16), "one value"),
        (np.zeros((300, 20), np.uint16), "20 x 300"),
    ],
)
def test_an_image_without_structure_is_refused(pixels: NDArray[np.uint16], reason: str) -> None:
    with pytest.raises(NoBreastError, match=reason):
        segment_breast(pixels)


def test_an_image_with_only_a_label_is_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (400, 400)).astype(np.uint16)
    pixels[20:80, 300:360] = 64000
    with pytest.raises(ImageError, match="no breast"):
        segment_breast(pixels)


def test_a_tiny_bright_spot_is_refused() -> None:
    pixels = np.zeros((400, 400), np.uint16)
    cv2.circle(pixels, (200, 200), 34, 20000, -1)
    cv2.circle(pixels, (200, 200), 10, 60000, -1)
    with pytest.raises(NoBreastError, match="3%"):
        segment_breast(pixels)


@pytest.mark.parametrize("pixels", [np.zeros((64, 64, 3), np.uint16), np.zeros((64, 64), np.uint8)])
def test_wrong_arrays_are_a_fault_of_the_caller(pixels: NDArray[np.uint16]) -> None:
    with pytest.raises(ValueError, match="2-D uint16"):
        segment_breast(pixels)


def test_the_thumbnail_shows_all_contours() -> None:
    image = make_film()
    region = segment_breast(image.pixels, view=View.MLO)
    picture = draw_contours(image.pixels, region, [Lesion(200, 300, 30, Label.BENIGN)], height=256)
    assert picture.shape == (256, 256, 3) and picture.dtype == np.uint8
    for colour in ((0, 255, 0), (255, 0, 0), (255, 255, 0)):
        assert (picture == colour).all(axis=2).sum() > 20


@pytest.mark.parametrize("chest_left", [True, False])
def test_a_breast_that_leaves_the_upper_corner_empty_has_no_muscle(chest_left: bool) -> None:
    """As in a rotated image: no curve of a muscle begins inside the breast."""
    rows, columns = np.mgrid[:240, :160]
    mask = (columns if chest_left else 159 - columns) / 160 + rows / 240 > 1
    assert find_pectoral(np.where(mask, 0.5, 0).astype(np.float32), mask, chest_left=chest_left) is None


def breast_with_wedge(above: float, below: float) -> tuple[NDArray[np.uint16], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return an image, its breast and a bright wedge at the chest wall, with its width above and below in columns."""
    rows, columns = np.mgrid[:640, :480]
    depth = 1 - np.hypot(columns / 420, (rows - 300) / 320)
    wedge = (rows > 420) & (columns < above + (below - above) * (rows - 420) / 180)
    grey = np.where(depth > 0, 6000 + 40000 * np.clip(1.6 * depth, 0, 1), 0)
    return np.where(wedge, 45000, grey).astype(np.uint16), (depth > 0) & ~wedge, wedge


@pytest.mark.parametrize("side", list(Laterality))
@pytest.mark.parametrize(("above", "below", "kept"), [(5, 80, False), (40, 40, False), (90, 5, True)])
def test_a_fold_over_the_lower_corner_is_left_out_and_what_narrows_downward_stays(
    above: float, below: float, kept: bool, side: Laterality
) -> None:
    """A muscle or an implant that runs to the lower edge narrows there; a fold of the abdomen widens."""
    turn = slice(None) if side is Laterality.LEFT else slice(None, None, -1)
    pixels, breast, wedge = (np.ascontiguousarray(each[:, turn]) for each in breast_with_wedge(above, below))
    mask = segment_breast(pixels, laterality=side, view=View.MLO).mask
    assert mask[breast].mean() > 0.99
    assert mask[wedge].mean() > 0.99 if kept else mask[wedge].mean() < 0.1
