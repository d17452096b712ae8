"""Images that are stored mirrored, upside down or transposed, and display shutters."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.images.mammogram import CorruptImageError, Mammogram, ReadConfig, read_mammogram

MakeDicom = Callable[..., bytes]
J2K = "1.2.840.10008.1.2.4.90"
OPPOSITE = {"A": "P", "P": "A", "H": "F", "F": "H", "L": "R", "R": "L"}
# PS3.17 annex A, as mammograms are read: the directions of rows and columns for each side and kind of view.
AS_READ = {
    ("L", "MLO"): ("A", "FR"),
    ("R", "MLO"): ("P", "FL"),
    ("L", "CC"): ("A", "R"),
    ("R", "CC"): ("P", "L"),
    ("L", "ML"): ("A", "F"),
    ("R", "ML"): ("P", "F"),
}


def breast(side: str, rows: int = 96, columns: int = 64) -> NDArray[np.uint16]:
    """Return a breast at the edge of its side, brighter towards the top."""
    y, x = np.mgrid[0:rows, 0:columns]
    x = x if side == "L" else columns - 1 - x
    inside = np.hypot((y - rows / 2) / (rows * 0.45), x / (columns * 0.6)) < 1
    return np.where(inside, 3000 - y * 10 - x * 3, 0).astype(np.uint16)


def opposite(direction: str) -> str:
    return "".join(OPPOSITE[letter] for letter in direction)


def stored(
    pixels: NDArray[np.uint16], directions: tuple[str, str], mirrored: bool, upside_down: bool, on_its_side: bool
) -> tuple[NDArray[np.uint16], list[str]]:
    """Return an image as it may be stored, and the Patient Orientation that states how."""
    row, column = directions
    if mirrored:
        pixels, row = pixels[:, ::-1], opposite(row)
    if upside_down:
        pixels, column = pixels[::-1], opposite(column)
    if on_its_side:
        pixels, row, column = pixels.T, column, row
    return np.ascontiguousarray(pixels), [row, column]


WAYS = list(itertools.product((False, True), repeat=3))


@pytest.mark.parametrize("named", [True, False], ids=["side stated", "side not stated"])
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(("side", "view"), AS_READ)
def test_an_image_is_turned_as_its_orientation_says(
    make_dicom: MakeDicom, side: str, view: str, way: tuple[bool, bool, bool], named: bool
) -> None:
    picture = breast(side)
    cells, orientation = stored(picture, AS_READ[side, view], *way)
    values: dict[str, Any] = {"ViewPosition": view, "PatientOrientation": orientation}
    if named or view != "MLO":  # Only an oblique image's orientation tells its side.
        values["ImageLaterality"] = side
    image = read_mammogram(make_dicom(cells, bits=12, **values))
    plain = read_mammogram(make_dicom(picture, bits=12, ImageLaterality=side))
    assert np.array_equal(image.pixels, plain.pixels) and image.pixels.flags.c_contiguous
    assert image.laterality == side and image.view == view
    assert ("turned" in image.flags) == any(way) == bool(image.turn)
    for x, y in ((0, 0), (5, 40), (40, 20)):
        column, row = image.turn.from_stored(x, y)
        assert cells[y, x] == picture[int(row), int(column)]


def test_the_side_of_a_record_turns_an_image_too(make_dicom: MakeDicom) -> None:
    record = ImageRecord("1", "1", "rsna", Laterality.LEFT, View.CC, Label.NORMAL)
    cells, orientation = stored(breast("L"), AS_READ["L", "CC"], True, False, False)
    image = read_mammogram(make_dicom(cells, bits=12, PatientOrientation=orientation), record=record)
    assert image.laterality is Laterality.LEFT and "turned" in image.flags
    assert image.pixels[40, 0] and not image.pixels[40, -1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"PatientOrientation": ["A", "FR"], "ImageLaterality": "R"},
            "orientation of a L breast, but the laterality is R",
        ),
        ({"PatientOrientation": ["P", "HL"], "ImageLaterality": "R"}, "orientation of a L breast"),
    ],
)
def test_an_orientation_of_the_other_side_is_refused(
    make_dicom: MakeDicom, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(CorruptImageError, match=rf"PatientOrientation \(0020,0020\).*{message}"):
        read_mammogram(make_dicom(breast("L"), bits=12, **values))


@pytest.mark.parametrize("orientation", [["P", "F"], ["P", "L"], ["P", "H"]])
def test_side_and_image_together_outweigh_an_orientation(make_dicom: MakeDicom, orientation: list[str]) -> None:
    """Some writers put one orientation into the images of both sides."""
    image = read_mammogram(make_dicom(breast("L"), bits=12, ImageLaterality="L", PatientOrientation=orientation))
    plain = read_mammogram(make_dicom(breast("L"), bits=12, ImageLaterality="L"))
    assert np.array_equal(image.pixels, plain.pixels) and not image.turn
    assert "orientation-conflict" in image.flags and "turned" not in image.flags


@pytest.mark.parametrize("orientation", [["A", "P"], ["A"], ["F", "R"], ["X", "Y"], ["A", "F", "R"], ["AAAA", "F"]])
def test_an_orientation_of_no_two_directions_turns_nothing(make_dicom: MakeDicom, orientation: list[str]) -> None:
    image = read_mammogram(make_dicom(breast("L"), bits=12, PatientOrientation=orientation, ImageLaterality="L"))
    assert "attribute-ignored" in image.flags and "turned" not in image.flags


def test_a_view_in_the_place_of_the_orientation_is_taken(make_dicom: MakeDicom) -> None:
    """As the collection CBIS-DDSM is written."""
    image = read_mammogram(make_dicom(breast("L"), bits=12, PatientOrientation="MLO", Laterality="L"))
    assert image.view is View.MLO and "view-inferred" in image.flags and not image.turn


# ---- display shutter: the reference decides for one pixel at a time ----


def shown(shutter: dict[str, Any], row: int, column: int) -> bool:
    """C.7.6.11: rows and columns count from 1; all shapes together leave the least amount of image."""
    y, x = row + 1, column + 1
    shapes = shutter["ShutterShape"]
    if "RECTANGULAR" in shapes:
        upper, lower = int(shutter["ShutterUpperHorizontalEdge"]), int(shutter["ShutterLowerHorizontalEdge"])
        left, right = int(shutter["ShutterLeftVerticalEdge"]), int(shutter["ShutterRightVerticalEdge"])
        if not (upper <= y <= lower and left <= x <= right):
            return False
    if "CIRCULAR" in shapes:
        center = [int(value) for value in shutter["CenterOfCircularShutter"]]
        return math.hypot(y - center[0], x - center[1]) <= int(shutter["RadiusOfCircularShutter"])
    return True


@st.composite
def shutters(draw: st.DrawFn) -> dict[str, Any]:
    shapes = draw(st.sampled_from([["RECTANGULAR"], ["CIRCULAR"], ["RECTANGULAR", "CIRCULAR"]]))
    upper, left = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    return {
        "ShutterShape": shapes,
        "ShutterUpperHorizontalEdge": str(upper),
        "ShutterLowerHorizontalEdge": str(upper + draw(st.integers(3, 60))),
        "ShutterLeftVerticalEdge": str(left),
        "ShutterRightVerticalEdge": str(left + draw(st.integers(3, 60))),
        "CenterOfCircularShutter": [str(draw(st.integers(5, 40))), str(draw(st.integers(5, 30)))],
        "RadiusOfCircularShutter": str(draw(st.integers(4, 60))),
    }


FLAT = np.full((48, 36), 2000, np.uint16)


@settings(max_examples=80)
@given(shutter=shutters(), way=st.sampled_from(WAYS), half=st.booleans())
def test_a_shutter_hides_what_the_reference_hides(
    make_dicom: MakeDicom, shutter: dict[str, Any], way: tuple[bool, bool, bool], half: bool
) -> None:
    """The shutter's geometry is that of the stored pixels, however they are turned, at full or half resolution."""
    cells, orientation = stored(FLAT, AS_READ["L", "MLO"], *way)
    rows, columns = cells.shape
    visible = np.array([[shown(shutter, row, column) for column in range(columns)] for row in range(rows)])
    values = {"PatientOrientation": orientation, **shutter}
    config = ReadConfig(enough_rows=rows // 2) if half else ReadConfig()
    image: Mammogram = read_mammogram(make_dicom(cells, bits=12, syntax=J2K, **values), config=config)
    if not visible.any():
        assert image.pixels.all() and "attribute-ignored" in image.flags
        return
    assert ("shutter" in image.flags) == (not visible.all())
    if half:
        assert image.facts["reduction"] == 2
        visible = visible.reshape(rows // 2, 2, columns // 2, 2).any((1, 3))
    back = visible.T if way[2] else visible
    back = back[::-1] if way[1] else back
    back = back[:, ::-1] if way[0] else back
    assert np.array_equal(image.pixels > 0, back)


def test_a_polygonal_shutter_and_one_that_is_incomplete(make_dicom: MakeDicom) -> None:
    corners = ["1", "1", "1", "20", "40", "20", "40", "1"]
    polygon = {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": corners}
    image = read_mammogram(make_dicom(FLAT, bits=12, **polygon))
    assert image.pixels[:40, :20].all() and not image.pixels[40:].any() and not image.pixels[:, 20:].any()
    for broken in (
        {"ShutterShape": "POLYGONAL"},
        {"ShutterShape": "OVAL"},
        {**polygon, "VerticesOfThePolygonalShutter": "1"},
    ):
        image = read_mammogram(make_dicom(FLAT, bits=12, **broken))
        assert image.pixels.all() and "attribute-ignored" in image.flags
