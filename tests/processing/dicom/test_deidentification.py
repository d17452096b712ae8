"""Identifying attributes are named, their values never told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from mammopipe.processing.dicom.deidentification import IDENTIFYING
from mammopipe.processing.images.mammogram import CorruptImageError, identity_fields, write_png

CELLS = np.zeros((4, 4), np.uint16)


def test_filled_identifying_attributes_are_named(
    make_dicom: Callable[..., bytes], make_item: Callable[..., Any]
) -> None:
    data = make_dicom(
        CELLS,
        PatientName="Doe^Jane",
        PatientBirthDate="19500101",
        OperatorsName="",
        AccessionNumber=" ",
        OtherPatientIDsSequence=[make_item(PatientID="7")],
        Manufacturer="X",
        PatientAge="050Y",
    )
    assert identity_fields(data) == ("PatientName", "PatientBirthDate", "OtherPatientIDsSequence")


@pytest.mark.parametrize("keyword", IDENTIFYING)
def test_each_identifying_attribute_is_named_at_any_depth(
    make_dicom: Callable[..., bytes], make_item: Callable[..., Any], keyword: str
) -> None:
    """PS3.15 table E.1-1; the values that a pseudonym replaced lie in Original Attributes Sequence."""
    vr = dictionary_VR(keyword)
    value: Any = {"SQ": [make_item(CodeValue="1")], "DA": "19500101", "TM": "120000"}.get(vr, "1")
    assert identity_fields(make_dicom(CELLS, **{keyword: value})) == (keyword,)
    inner = make_item(**{keyword: value})
    for sequences in (
        {"RequestAttributesSequence": [inner]},
        {"OriginalAttributesSequence": [make_item(ModifiedAttributesSequence=[inner])]},
    ):
        assert identity_fields(make_dicom(CELLS, **sequences)) == (keyword,)
    assert identity_fields(make_dicom(CELLS, **{keyword: [] if vr == "SQ" else ""})) == ()


def test_a_patients_number_in_a_sequence_is_the_real_one(
    make_dicom: Callable[..., bytes], make_item: Callable[..., Any]
) -> None:
    original = make_item(ModifiedAttributesSequence=[make_item(PatientID="4711")])
    data = make_dicom(CELLS, PatientID="pseudonym", OriginalAttributesSequence=[original])
    assert identity_fields(data) == ("PatientID",)


def test_the_list_is_in_the_order_of_tags_and_of_known_attributes() -> None:
    tags = [tag_for_keyword(keyword) for keyword in IDENTIFYING]
    assert None not in tags and tags == sorted(set(tags), key=lambda tag: tag or 0)


def test_burned_in_text_counts(make_dicom: Callable[..., bytes]) -> None:
    assert identity_fields(make_dicom(CELLS, BurnedInAnnotation="YES")) == ("BurnedInAnnotation",)
    assert identity_fields(make_dicom(CELLS, BurnedInAnnotation="NO")) == ()


def test_a_pseudonymous_collection_is_tolerable(make_dicom: Callable[..., bytes]) -> None:
    data = make_dicom(CELLS, PatientID="10011", ContentDate="20221118", SOPInstanceUID="1.2.3")
    assert identity_fields(data) == ()
    assert identity_fields(data, patient_id=True) == ("PatientID",)


def test_the_real_files_have_none(rsna_folder: Path) -> None:
    assert [identity_fields(file) for file in sorted(rsna_folder.rglob("*.dcm"))] == [()] * 4


def test_pgm_and_png_have_none(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", CELLS)
    assert identity_fields(tmp_path / "a.png") == () == identity_fields(b"P5 2 1 255\nab")


def test_a_broken_file_is_an_error(make_dicom: Callable[..., bytes]) -> None:
    with pytest.raises(CorruptImageError, match="no Pixel Data"):
        identity_fields(make_dicom(CELLS)[:180])
