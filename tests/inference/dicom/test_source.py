"""The patient of a DICOM result: copied byte by byte, never shown in a message, never guessed."""

import logging
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from mammopipe.inference.contract.errors import NoSourceIdentityError, RequestError
from mammopipe.inference.dicom.results import mammography_cad_report, overlay_capture, structured_report
from mammopipe.processing.images.mammogram import read_mammogram
from tests.inference.dicom.dicom_examples import SECRETS, changed, exam, heat_over, one, opened, results


def test_results_keep_patient_and_study_to_the_byte(exams: list[list[bytes]]) -> None:
    issuer = Dataset()
    issuer.PatientID, issuer.IssuerOfPatientID = "OTHER-1", "CLINIC"
    data = changed(
        exams[0][0],
        **{
            **SECRETS,
            "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
            "PatientName": "Yamada^Tarou=山田^太郎",
            "OtherPatientIDsSequence": [issuer],
        },
    )
    source = opened(data)
    for result in map(opened, results(data)):
        for keyword in (*SECRETS, "SpecificCharacterSet", "OtherPatientIDsSequence", "StudyInstanceUID"):
            assert result[keyword].value == source[keyword].value, keyword
        assert str(result.PatientName) == "Yamada^Tarou=山田^太郎"


def test_malformed_attributes_of_a_source_are_kept_and_nothing_of_it_is_told(
    exams: list[list[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    data = changed(exams[0][0], **SECRETS)
    for right, wrong in ((b"19610203", b"3.2.1961"), (b"DOE^JANE", b"DOE JANE"), (b"20260101", b"2026 Jan")):
        assert data.count(right) == 1
        data = data.replace(right, wrong)
    with caplog.at_level(logging.DEBUG):
        written = results(data)
    assert all(b"3.2.1961" in result and b"DOE JANE" in result for result in written)
    uid = str(opened(exams[0][0]).SOPInstanceUID)
    assert not [secret for secret in (*SECRETS.values(), "3.2.1961", "DOE JANE", uid) if secret in caplog.text]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_encoding_of_the_source_does_not_matter(exams: list[list[bytes]], syntax: UID) -> None:
    dataset = opened(changed(exams[1][0], **SECRETS))
    dataset.decompress()
    dataset.file_meta.TransferSyntaxUID = syntax
    stream = BytesIO()
    dataset.save_as(stream, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    for result in map(opened, results(stream.getvalue())):
        assert {keyword: str(result[keyword].value) for keyword in SECRETS} == SECRETS


def test_an_unknown_character_set_is_no_obstacle(exams: list[list[bytes]]) -> None:
    data = changed(exams[0][0], SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    data = data.replace(b"ISO_IR 100", b"KLINGON 99")
    assert all(b"KLINGON 99" in result and "Müller^Jörg".encode("latin-1") in result for result in results(data))


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_a_source_without_identity_is_refused_by_the_name_of_the_tag(exams: list[list[bytes]], keyword: str) -> None:
    data = changed(exams[0][0], **{**SECRETS, keyword: None})
    for write in (
        lambda: structured_report([data], one(data)),
        lambda: overlay_capture(data, heat_over(read_mammogram(data)), one(data)),
    ):
        with pytest.raises(NoSourceIdentityError, match=rf"{keyword} \(00.*is missing") as caught:
            write()
        assert (caught.value.status, caught.value.code) == (422, "no_source_identity")
        assert not [secret for secret in SECRETS.values() if secret in str(caught.value)]


def test_a_uid_that_is_none_is_refused_and_not_repeated(exams: list[list[bytes]]) -> None:
    uid = str(opened(exams[0][0]).StudyInstanceUID).encode()
    data = exams[0][0].replace(
        b"UI" + len(uid).to_bytes(2, "little") + uid,
        b"UI" + len(uid).to_bytes(2, "little") + b"DOE^JANE".ljust(len(uid)),
    )
    assert data != exams[0][0]
    with pytest.raises(NoSourceIdentityError, match=r"StudyInstanceUID \(0020,000D\) is not a UID") as caught:
        structured_report([data], one(data))
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("form", ["pgm", "png"])
def test_a_source_that_is_not_dicom_is_refused(phantom: Any, form: str) -> None:
    data = getattr(phantom, form)
    with pytest.raises(NoSourceIdentityError, match="a DICOM result needs a DICOM file"):
        structured_report([data], one(data))


@pytest.mark.parametrize(
    ("keyword", "value", "code"),
    [
        ("StudyInstanceUID", "2.25.99", "mixed_studies"),
        ("PatientID", "MRN-0815", "mixed_patients"),
        ("IssuerOfPatientID", "ST ANNE", ""),
        ("PatientName", "ROE^RICHARD", "mixed_patients"),
        ("PatientBirthDate", "19700101", "mixed_patients"),
        ("PatientSex", "M", "mixed_patients"),
        ("SOPInstanceUID", "", "duplicate_image"),
    ],
)
def test_images_of_several_patients_are_refused(exams: list[list[bytes]], keyword: str, value: str, code: str) -> None:
    """The rule is that of every exam: contradictions are refused, and what only some files state is none."""
    files = [changed(data, **SECRETS) for data in exams[0]]
    other = value or opened(files[0]).SOPInstanceUID
    files[2] = changed(files[2], **{keyword: other})
    if not code:
        assert opened(structured_report(files, exam(files)))[keyword].value == other
        return
    with pytest.raises(RequestError) as caught:
        structured_report(files, exam(files))
    assert (caught.value.status, caught.value.code, caught.value.detail) == (422, code, {"image": 2})
    assert not [secret for secret in (*SECRETS.values(), other) if secret in str(caught.value)]


def test_a_result_names_the_patient_whom_any_of_the_files_names(exams: list[list[bytes]]) -> None:
    """One file without an identity, and one whose name is spelled otherwise, are the same woman's for JSON, too."""
    files = [changed(data, **SECRETS) for data in exams[0]]
    files[0] = changed(files[0], PatientID=None, PatientName="", PatientBirthDate="")
    files[1] = changed(files[1], PatientName="Doe^Jane^^^")
    for make in (structured_report, mammography_cad_report):
        report = opened(make(files, exam(files)))
        assert (report.PatientID, report.PatientBirthDate) == (SECRETS["PatientID"], SECRETS["PatientBirthDate"])


def test_an_answer_on_another_image_is_a_fault(exams: list[list[bytes]]) -> None:
    first, second, *_ = exams[0]
    with pytest.raises(ValueError, match="image 0 of the answer does not belong to its source"):
        structured_report([second, first], exam([first, second]))
    with pytest.raises(ValueError, match="1 sources for an answer on 2 images"):
        structured_report([first], exam([first, second]))
    with pytest.raises(ValueError, match="overlay of shape"):
        overlay_capture(first, np.zeros((4, 4, 3), np.uint8), one(first))
