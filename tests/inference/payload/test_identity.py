"""The images of a request must belong to one patient and one study, in every form of body."""

import base64
import json
import warnings
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.contract.request import Priors
from mammopipe.inference.payload.exam_body import ReceivedImage, unpack
from mammopipe.inference.payload.identity import OneExam, check_exam
from mammopipe.processing.read_config import Limits
from tests.inference.payload.examples import LIMITS, dicom, zipped

NOT_TO_BE_NAMED = ("4711", "DOE", "Doe", "JANE", "19610203", "1.2.3", "20160101", "MARY", "4712", "ROE")


def exam_of(*files: bytes, priors: Priors = Priors.REFUSE) -> OneExam:
    return check_exam([ReceivedImage(data, index=index) for index, data in enumerate(files)], Limits(), priors=priors)


def pair(first: dict[str, Any], second: dict[str, Any], **options: Any) -> OneExam:
    return exam_of(dicom(1, **first), dicom(2, **second), **options)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ({}, {"PatientID": "MRN-4712"}, "mixed_patients"),
        ({}, {"PatientID": "mrn-4711"}, "mixed_patients"),
        ({"PatientID": None}, {"PatientID": "", "PatientName": "Roe^Mary"}, "mixed_patients"),
        ({"PatientID": None}, {"PatientID": None, "PatientBirthDate": "19610204"}, "mixed_patients"),
        ({}, {"PatientID": None, "PatientName": "Roe^Mary"}, "mixed_patients"),
        ({}, {"IssuerOfPatientID": "ST ANNE"}, "mixed_patients"),
        ({}, {"PatientName": "Doe^Janet"}, "mixed_patients"),
        ({}, {"PatientName": "Doe"}, "mixed_patients"),
        ({}, {"PatientBirthDate": "19610204"}, "mixed_patients"),
        ({}, {"PatientSex": "M"}, "mixed_patients"),
        ({}, {"StudyInstanceUID": "1.2.4"}, "mixed_studies"),
        ({}, {"StudyDate": "20160101"}, "mixed_studies"),
        ({"StudyInstanceUID": None}, {"StudyDate": "20160101"}, "mixed_studies"),
        ({"StudyInstanceUID": None, "AccessionNumber": "A1"}, {"AccessionNumber": "A2"}, "mixed_studies"),
        (
            {"StudyInstanceUID": None, "StudyDate": None, "AcquisitionDate": "20160101"},
            {"AcquisitionDate": "20260101"},
            "mixed_studies",
        ),
        ({"SOPInstanceUID": "1.2.3.1"}, {"SOPInstanceUID": "1.2.3.1"}, "duplicate_image"),
    ],
)
def test_a_contradiction_is_refused_whichever_image_comes_first(
    first: dict[str, Any], second: dict[str, Any], code: str
) -> None:
    for one, other in ((first, second), (second, first)):
        with pytest.raises(RequestError) as caught:
            pair(one, other)
        assert (caught.value.status, caught.value.code, caught.value.detail) == (422, code, {"image": 1})
        assert not any(value in caught.value.message for value in NOT_TO_BE_NAMED)


OTHER_PATIENT = "{} differs from that of an earlier image; an exam has one patient"
OTHER_STUDY = "the image belongs to another study than an earlier one; an exam has one study, unless priors=ignore"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"PatientID": "MRN-4712"}, OTHER_PATIENT.format("PatientID (0010,0020)")),
        ({"PatientName": "Roe^Mary"}, OTHER_PATIENT.format("PatientName (0010,0010)")),
        ({"StudyInstanceUID": "1.2.4"}, OTHER_STUDY),
        (
            {"SOPInstanceUID": "1.2.3.1"},
            "SOPInstanceUID (0008,0018) is that of an earlier image: the same instance twice",
        ),
    ],
)
def test_a_refusal_names_place_attribute_and_rule(second: dict[str, Any], message: str) -> None:
    files = ((4, dicom(1)), (7, dicom(2, **second)))
    sources = [ReceivedImage(data, index=index, archived=True) for index, data in files]
    with pytest.raises(RequestError) as caught:
        check_exam(sources, Limits())
    assert (caught.value.message, caught.value.detail) == (f"file 7: {message}", {"image": 7})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"AccessionNumber": ("A1", "A2", "A1")}, "AccessionNumber (0008,0050) (image 0, 2 / 1)"),
        ({"AccessionNumber": ("A1", None, "A2")}, "AccessionNumber (0008,0050) (image 0 / 2)"),
        ({"StudyID": ("1", "1", "2")}, "StudyID (0020,0010) (image 0, 1 / 2)"),
        (
            {"AcquisitionDate": ("20260101", "20260101", "20260120")},
            "AcquisitionDate (0008,0022) (image 0, 1 / 2)",
        ),
        (
            {"AccessionNumber": ("A1", "A2", "A3"), "StudyID": ("1", "1", "2")},
            "AccessionNumber (0008,0050) (image 0 / 1 / 2); StudyID (0020,0010) (image 0, 1 / 2)",
        ),
        ({"AccessionNumber": ("A1", " A1 ", "A1"), "StudyID": (None, None, "2")}, None),
        ({"AcquisitionDate": ("20260101", "20260102", "20260101")}, None),
    ],
)
def test_images_of_one_study_that_state_different_orders_are_warned_of(
    values: dict[str, tuple[str | None, ...]], named: str | None
) -> None:
    files = [dicom(at, **{keyword: each[at] for keyword, each in values.items()}) for at in range(3)]
    json_body = json.dumps({"images": [{"data": base64.b64encode(file).decode()} for file in files]}).encode()
    part = b'--cut\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n%b\r\n'
    bodies = {
        "application/json": json_body,
        "multipart/form-data; boundary=cut": b"".join(part % file for file in files) + b"--cut--\r\n",
        "application/zip": zipped({f"{at}.dcm": file for at, file in enumerate(files)}),
    }
    text = "the images state one study, but different values, and may be of two examinations: "
    for kind, body in bodies.items():
        found = check_exam(unpack(kind, body, LIMITS).sources, Limits())
        assert len(found.sources) == 3
        expected = [("study-contradiction", text + named)] if named else []
        assert [(warning.code, warning.message) for warning in found.warnings] == expected, kind


def test_acquisitions_of_one_study_that_are_months_apart_are_two_examinations() -> None:
    near, far = {"AcquisitionDate": "20260401"}, {"AcquisitionDate": "20260402"}
    assert len(pair({"AcquisitionDate": "20260101"}, near).sources) == 2
    with pytest.raises(RequestError, match="another study"):
        pair({"AcquisitionDate": "20260101"}, far)


@pytest.mark.parametrize(
    ("keyword", "one", "same", "other"),
    [
        ("PatientBirthDate", "19610203", "1961.02.03", "1961.03.02"),
        ("StudyDate", "20260101", "2026.01.01", "2026.01.02"),
        ("PatientSex", "F", "f", "m"),
        ("PatientName", "Doe^Jane=\u7530", "Doe^Jane=\u7530", "Doe^Jane=\u5c71"),
        ("PatientName", "Doe^Jane==\u30c0", "Doe^Jane==\u30c0", "Doe^Jane==\u30bf"),
        ("PatientName", "DOE^ J\u00e4ne", "doe^jane", "doe^joan"),
        ("IssuerOfPatientID", "ST MARY", "ST MARY ", "st mary"),
        ("AccessionNumber", "A1", " A1 ", "A2"),
        ("StudyID", "1", "1 ", "2"),
    ],
)
def test_spelling_is_no_contradiction_and_another_value_is(keyword: str, one: str, same: str, other: str) -> None:
    # Without a study UID the other attributes of the study decide.
    fixed = {"SpecificCharacterSet": "ISO_IR 192", "StudyInstanceUID": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of dates and names in old spelling
        assert len(pair({keyword: one, **fixed}, {keyword: same, **fixed}).sources) == 2
        with pytest.raises(RequestError):
            pair({keyword: one, **fixed}, {keyword: other, **fixed})


@pytest.mark.parametrize("name", ["ISO 2022 IR 999", "not\\known", "ISO_IR 192"])
def test_a_name_in_an_unknown_character_set_is_compared_byte_by_byte(name: str) -> None:
    def of(text: bytes, number: int) -> bytes:
        plain = dicom(number, PatientName="AAAA", SpecificCharacterSet="ISO_IR 100")
        return plain.replace(b"AAAA", text).replace(b"ISO_IR 100", name.encode()[:10].ljust(10))

    assert len(exam_of(of(b"\xe1\xe2\xe3\xe4", 1), of(b"\xe1\xe2\xe3\xe4", 2)).sources) == 2
    with pytest.raises(RequestError, match="PatientName"):
        exam_of(of(b"\xe1\xe2\xe3\xe4", 1), of(b"\xe1\xe2\xe3\xe5", 2))


def test_a_study_may_run_past_midnight_and_no_longer() -> None:
    undated = {"StudyInstanceUID": None, "StudyDate": None}
    assert (
        len(pair({**undated, "AcquisitionDate": "20260101"}, {**undated, "AcquisitionDate": "20260102"}).sources) == 2
    )
    with pytest.raises(RequestError, match="another study"):
        pair({**undated, "AcquisitionDate": "20260101"}, {**undated, "AcquisitionDate": "20260103"})


def test_a_contradiction_with_any_earlier_image_counts() -> None:
    with pytest.raises(RequestError, match="PatientName") as caught:
        exam_of(dicom(1), dicom(2, PatientName=None), dicom(3, PatientName="Roe^Mary"))
    assert caught.value.detail == {"image": 2}


@pytest.mark.parametrize(
    "second",
    [
        {},
        {"PatientID": "MRN-4711 "},
        {"PatientName": "DOE^JANE^^^"},
        {"PatientName": "Doe, Jane"},
        {"PatientName": "Döe^Jane", "SpecificCharacterSet": "ISO_IR 192"},
        {"PatientName": "Doe^Jane=X^Y"},
        {"AcquisitionDate": "20260102"},
    ],
)
def test_one_woman_written_in_two_ways_is_one(second: dict[str, Any]) -> None:
    found = pair({"AcquisitionDate": "20260101"}, second)
    assert len(found.sources) == 2 and found.skipped == ()
    assert {warning.code for warning in found.warnings} <= {"identity-incomplete"}


def test_two_character_sets_of_one_name_agree() -> None:
    found = pair(
        {"PatientName": "Müller^Ana", "SpecificCharacterSet": "ISO_IR 100"},
        {"PatientName": "Müller^Ana", "SpecificCharacterSet": "ISO_IR 192"},
    )
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({"PatientID": None}, {}, "PatientID (0010,0020) (image 0)"),
        ({}, {"PatientID": ""}, "PatientID (0010,0020) (image 1)"),
        ({}, {"IssuerOfPatientID": None}, "IssuerOfPatientID (0010,0021) (image 1)"),
        ({}, {"PatientBirthDate": None}, "PatientBirthDate (0010,0030) (image 1)"),
        ({"StudyInstanceUID": None}, {}, "StudyInstanceUID (0020,000D) (image 0)"),
    ],
)
def test_what_is_missing_is_said(first: dict[str, Any], second: dict[str, Any], named: str) -> None:
    found = pair(first, second)
    (warning,) = found.warnings
    assert warning.code == "identity-incomplete" and named in warning.message
    assert warning.message.startswith(
        "the files do not prove that all images belong to one patient and one study; not stated: "
    )
    assert not any(value in warning.message for value in NOT_TO_BE_NAMED)


def test_complete_headers_are_not_warned_of_and_neither_is_a_single_image() -> None:
    assert pair({}, {}).warnings == ()
    deidentified = dict.fromkeys(("PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID"))
    assert pair(deidentified, deidentified).warnings == (), "a pseudonym and a study in every file"
    assert exam_of(dicom(1, PatientID=None)).warnings == ()


def test_pictures_without_a_header_are_the_sender_s_word() -> None:
    (warning,) = exam_of(b"P5 1 1 255\n\0", b"P5 1 1 255\n\1").warnings
    assert warning.message.endswith(
        "not stated: PatientID (0010,0020) (image 0, 1); StudyInstanceUID (0020,000D) (image 0, 1)"
    )
    assert [warning.code for warning in exam_of(dicom(1), b"P5 1 1 255\n\0").warnings] == ["identity-incomplete"]


def test_the_universal_issuer_counts_too() -> None:
    def issued(entity: str) -> dict[str, Any]:
        item = Dataset()
        item.UniversalEntityID, item.UniversalEntityIDType = entity, "ISO"
        return {"IssuerOfPatientID": None, "IssuerOfPatientIDQualifiersSequence": Sequence([item])}

    assert pair(issued("1.2"), issued("1.2")).warnings == ()
    with pytest.raises(RequestError) as caught:
        pair(issued("1.2"), issued("1.3"))
    assert caught.value.code == "mixed_patients"
