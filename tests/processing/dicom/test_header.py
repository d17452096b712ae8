"""Laterality, view and spacing, from all the attributes that can state them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mammopipe.processing.dicom.view_text import find_view, read_view_text
from mammopipe.processing.images.mammogram import (
    CorruptImageError,
    Mammogram,
    UnsupportedImageError,
    read_mammogram,
)

MakeDicom = Callable[..., bytes]
MakeItem = Callable[..., Any]
CELLS = (np.add.outer(np.arange(64), np.arange(48)) * 36).astype(np.uint16)


def read(make_dicom: MakeDicom, **values: Any) -> Mammogram:
    return read_mammogram(make_dicom(CELLS, bits=12, **values))


@pytest.mark.parametrize(
    ("text", "view", "other", "side"),
    [
        ("CC", "CC", "", None),
        ("cc ", "CC", "", None),
        ("R CC", "CC", "", "R"),
        ("RCC", "CC", "", "R"),
        ("L-MLO", "MLO", "", "L"),
        ("LLMO", "LMO", "", "L"),
        ("RLM", "LM", "", "R"),
        ("LML", "ML", "", "L"),
        ("LM", "LM", "", None),
        ("MLOID", "MLO", "", None),
        ("CCRL", "CC", "", None),
        ("RXCCL", None, "XCCL", "R"),
        ("CCXM", None, "XCCM", None),
        ("FB", None, "FB", None),
        ("MLO AT", "AT", "", None),
        ("left medio-lateral oblique", "MLO", "", "L"),
        ("Cranio-Caudal", "CC", "", None),
        ("AP", None, "", None),
        ("RM", None, "", None),
        ("CC L", "CC", "", "L"),
        ("MLO-R", "MLO", "", "R"),
        ("MLO (left)", "MLO", "", "L"),
        ("CCR", "CC", "", "R"),
        ("MLOL", "MLO", "", "L"),
        ("RT CC", "CC", "", "R"),
        ("MLO RT 2", "MLO", "", "R"),
        ("CCRL", "CC", "", None),
        ("XCCL", None, "XCCL", None),
        ("L CC R", "CC", "", None),
        ("L MLO VIEW", "MLO", "", "L"),
        ("MG R CC", "CC", "", "R"),
        ("Breast OML", "MLO", "", None),
        ("CC 10", "CC", "", None),
        ("LAT", None, "", None),
        ("R LAT", None, "", None),
        ("RAT", "AT", "", "R"),
    ],
)
def test_spellings_of_a_view(text: str, view: str | None, other: str, side: str | None) -> None:
    found = read_view_text(text)
    assert (found.view, found.other, found.side, found.refused) == (view, other, side, "")


def test_a_description_names_a_view_only_where_it_names_one() -> None:
    assert find_view("Mammo R CC").view == "CC" and find_view("Mammo R CC").side == "R"
    assert find_view("Routine CC and MLO").view is None and find_view("look at the left").view is None
    assert find_view("lat view of the mat").view is None and find_view("Links CC").side == "L"


@pytest.mark.parametrize(
    ("values", "side", "source"),
    [
        ({"ImageLaterality": "l"}, "L", "ImageLaterality"),
        ({"ImageLaterality": " R "}, "R", "ImageLaterality"),
        ({"ImageLaterality": "left"}, "L", "ImageLaterality"),
        ({"ImageLaterality": "U", "Laterality": "L"}, "L", "Laterality"),
        ({"Laterality": "B", "ImageLaterality": "R"}, "R", "ImageLaterality"),
        ({"BodyPartExamined": "LBREAST"}, "L", "BodyPartExamined"),
        ({"BodyPartExamined": "Right Breast"}, "R", "BodyPartExamined"),
        *(
            ({"BodyPartExamined": f"{part}"}, "L", "BodyPartExamined")
            for part in (
                "BREAST_LEFT",
                "LEFTBREAST",
                "L BREAST",
                "BREAST-L",
                "MAMMA LINKS",
                "MAMA IZQUIERDA",
                "SEIN GAUCHE",
            )
        ),
        ({"ImageLaterality": "RT"}, "R", "ImageLaterality"),
        ({"ImageLaterality": "LEFT BREAST"}, "L", "ImageLaterality"),
        ({"ViewPosition": "RMLO"}, "R", "ViewPosition"),
        ({"SeriesDescription": "LEFT MLO"}, "L", "SeriesDescription"),
        ({"PatientOrientation": ["P", "FL"]}, "R", "PatientOrientation"),
        ({"PatientOrientation": ["P", "FR"]}, "L", "PatientOrientation"),
    ],
)
def test_sources_of_the_side(make_dicom: MakeDicom, values: dict[str, Any], side: str, source: str) -> None:
    image = read(make_dicom, **values)
    assert image.laterality == side and str(image.facts["laterality_source"]).startswith(source + " (")


def test_the_coded_anatomy_states_the_side(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    left = make_item(CodeValue="76752008", AnatomicRegionModifierSequence=[make_item(CodeValue="7771000")])
    assert read(make_dicom, AnatomicRegionSequence=[left]).laterality == "L"
    assert read(make_dicom, AnatomicRegionSequence=[make_item(CodeValue="T-04020")]).laterality == "R"
    region, right = make_item(CodeValue="76752008"), make_item(CodeValue="24028007")
    beside = {"AnatomicRegionSequence": [region], "AnatomicRegionModifierSequence": [right]}
    assert read(make_dicom, **beside).laterality == "R"
    frame = make_item(FrameAnatomySequence=[make_item(FrameLaterality="R")])
    assert read(make_dicom, SharedFunctionalGroupsSequence=[frame]).laterality == "R"


@pytest.mark.parametrize(
    "values",
    [
        {"ImageLaterality": "L", "Laterality": "R"},
        {"ImageLaterality": "L", "BodyPartExamined": "Right Breast"},
        {"Laterality": "R", "BodyPartExamined": "LBREAST"},
    ],
)
def test_side_attributes_that_differ_are_refused(make_dicom: MakeDicom, values: dict[str, Any]) -> None:
    first, second = values
    with pytest.raises(CorruptImageError, match=rf"{first} \(.* but {second} \("):
        read(make_dicom, **values)


def test_a_side_in_a_view_position_gives_way_with_a_flag(make_dicom: MakeDicom) -> None:
    image = read(make_dicom, ImageLaterality="L", ViewPosition="R CC")
    assert image.laterality == "L" and image.view == "CC" and "laterality-conflict" in image.flags


def test_the_more_specific_of_two_views_counts_either_way_round(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    def both(position: str, code: str) -> Mammogram:
        return read(make_dicom, ViewPosition=position, ViewCodeSequence=[make_item(CodeValue=code)])

    one, other = both("CC", "399192008"), both("XCCL", "399162004")
    for image in (one, other):
        assert image.view is None and image.facts["view_reported"] == "XCCL"
        assert {"view-conflict", "exaggerated-view"} <= set(image.flags)
    with pytest.raises(CorruptImageError, match=r"ViewPosition \(0018,5101\) is CC but ViewCodeSequence .* means MLO"):
        both("CC", "399368009")


def test_a_view_of_another_code_counts_by_its_meaning(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    image = read(make_dicom, ViewCodeSequence=[make_item(CodeValue="Y-X1770", CodeMeaning="cranio-caudal")])
    assert image.view == "CC"


@pytest.mark.parametrize(
    ("values", "spacing"),
    [
        ({"PixelSpacing": ["0", "0"]}, None),
        ({"PixelSpacing": "0.07"}, None),
        ({"PixelSpacing": ["-0.07", "0.07"]}, None),
        ({"PixelSpacing": ("LO", ["a", "b"])}, None),
        ({"PixelSpacing": ["0.07", "0.07", "0.07"]}, None),
        ({"PixelSpacing": ["0", "0"], "ImagerPixelSpacing": ["0.1", "0.1"]}, 0.1),
        ({"PixelSpacing": ["0.070", "0.072"]}, None),
        ({"PixelAspectRatio": ["0", "0"], "PixelSpacing": ["0.1", "0.1"]}, 0.1),
    ],
)
def test_a_spacing_that_cannot_be_used_costs_no_image(
    make_dicom: MakeDicom, values: dict[str, Any], spacing: float | None
) -> None:
    image = read(make_dicom, **values)
    assert image.pixel_spacing_mm == spacing and "spacing-unusable" in image.flags


@pytest.mark.parametrize("values", [{"PixelSpacing": ["0.07", "0.14"]}, {"PixelAspectRatio": ["1", "2"]}])
def test_pixels_that_are_not_square_are_refused(make_dicom: MakeDicom, values: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedImageError, match="square pixels are read"):
        read(make_dicom, **values)
