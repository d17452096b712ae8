"""Incomplete, unusual and unreadable headers in the check that a request is one exam."""

import warnings

import pytest

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.contract.request import Priors
from mammopipe.inference.payload.exam_body import ReceivedImage
from mammopipe.inference.payload.identity import check_exam
from mammopipe.processing.read_config import Limits
from tests.inference.payload.examples import dicom
from tests.inference.payload.test_identity import exam_of, pair
from tests.inference.payload.test_priors import PRIOR


def test_a_header_that_cannot_be_read_names_its_image() -> None:
    sources = [ReceivedImage(dicom(1), index=3, archived=True), ReceivedImage(dicom(2)[:150], index=5, archived=True)]
    with pytest.raises(RequestError) as caught:
        check_exam(sources, Limits())
    assert caught.value.detail == {"image": 5} and caught.value.message.startswith("file 5: <bytes>: no TransferSyntax")


def test_the_instance_of_the_file_s_meta_information_counts_too() -> None:
    """PS3.10 7.1: Media Storage SOP Instance UID (0002,0003) is that of the data set."""
    with pytest.raises(RequestError) as caught:
        exam_of(dicom(1, SOPInstanceUID=None), dicom(1, SOPInstanceUID=None))
    assert (caught.value.code, caught.value.detail) == ("duplicate_image", {"image": 1})


@pytest.mark.parametrize(
    ("one", "other", "group"),
    [
        ("Doe^Jane=\u7530", "Doe^Jane=\u5c71", ", ideographic"),
        ("Doe^Jane==\u30c0", "Doe^Jane==\u30bf", ", phonetic"),
        ("Doe^Jane", "Roe^Jane", ""),
    ],
)
def test_the_group_of_a_name_that_differs_is_named(one: str, other: str, group: str) -> None:
    utf8 = {"SpecificCharacterSet": "ISO_IR 192"}
    with pytest.raises(RequestError) as caught:
        pair({"PatientName": one, **utf8}, {"PatientName": other, **utf8})
    named = f"PatientName (0010,0010){group}"
    assert caught.value.message.endswith(f"{named} differs from that of an earlier image; an exam has one patient")


def test_an_image_of_no_known_study_is_refused_in_words() -> None:
    with pytest.raises(RequestError) as caught:
        exam_of(dicom(1), dicom(2, **PRIOR), b"P5 1 1 255\n\0", priors=Priors.IGNORE)
    message = "the image does not state to which of the exam's studies it belongs"
    assert caught.value.message.endswith(message) and caught.value.detail == {"image": 2}


def test_a_date_with_a_time_is_a_date() -> None:
    """Old files have a date and a time in one attribute; the day decides."""
    undated = {"StudyInstanceUID": None, "StudyDate": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the date
        long = {**undated, "AcquisitionDate": "20260101120000"}
        assert len(pair(long, {**undated, "AcquisitionDate": "20260102"}).sources) == 2
        with pytest.raises(RequestError, match="another study"):
            pair(long, {**undated, "AcquisitionDate": "20260103"})


def test_bytes_of_no_character_set_differ_by_each_byte() -> None:
    def of(text: bytes, number: int) -> bytes:
        plain = dicom(number, PatientName="AAAA", SpecificCharacterSet="ISO_IR 100")
        return plain.replace(b"AAAA", text).replace(b"ISO_IR 100", b"ISO_IR 192")

    for one, other in ((b"\x80aaa", b"aaa\x80"), (b"\x80\xe9aa", b"\xe9\x80aa"), (b"\x80aaa", b"\x81aaa")):
        with pytest.raises(RequestError, match="PatientName"):
            exam_of(of(one, 1), of(other, 2))
