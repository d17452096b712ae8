"""Exams as JSON, multipart and zip: whose images they may hold, and which files are left out."""

import io
import json
import zipfile
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest

from mammopipe.inference.contract.media_types import AnswerType
from mammopipe.inference.contract.schema import ExamAnswer
from mammopipe.inference.prediction.predictor import Predictor
from tests.inference.prediction.handler.handler_requests import DICOM, JSON, ZIP, bodies, changed, exam, refused, run


def test_an_exam_is_one_patient_s(predictor: Predictor, dicoms: list[bytes]) -> None:
    error = refused(predictor, JSON, exam(dicoms[:3]))
    assert (error.status, error.code, error.detail) == (422, "mixed_patients", {"image": 2})
    patient = pydicom.dcmread(io.BytesIO(dicoms[2])).PatientID
    assert patient and patient not in error.message
    assert len(ExamAnswer.model_validate_json(run(predictor, JSON, exam(dicoms[:2])).body).images) == 2


@pytest.mark.parametrize("form", [AnswerType.JSON, AnswerType.DICOM])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"PatientID": "", "PatientName": "Roe^Mary"}, "mixed_patients"),
        ({"PatientBirthDate": "19500101"}, "mixed_patients"),
        ({"StudyInstanceUID": "1.2.3"}, "mixed_studies"),
        ({"SOPInstanceUID": "1.2.3"}, "duplicate_image"),
    ],
)
def test_every_form_of_body_and_answer_has_the_same_rule(
    predictor: Predictor, dicoms: list[bytes], form: AnswerType, change: dict[str, str], code: str
) -> None:
    named = {"PatientName": "Doe^Jane", "PatientBirthDate": "19610203", "SOPInstanceUID": "1.2.3"}
    second = {name: value for name, value in named.items() if name != "SOPInstanceUID"}
    for kind, body in bodies([changed(dicoms[0], **named), changed(dicoms[1], **(second | change))]):
        error = refused(predictor, kind, body, form=form)
        assert (error.status, error.code, error.detail) == (422, code, {"image": 1})
        assert not any(value in error.message for value in ("Doe", "Roe", "1961", "1950", "1.2.3"))
        assert ("file 1 (.dcm)" in error.message) is (kind == ZIP)


@pytest.mark.parametrize("change", [{"PatientID": None}, {"PatientName": "doe^jane"}, {"PatientBirthDate": None}])
def test_what_only_some_files_state_is_answered_in_every_form(
    predictor: Predictor, dicoms: list[bytes], change: dict[str, Any]
) -> None:
    named = {"PatientName": "Doe^Jane", "PatientID": "4711", "PatientBirthDate": "19610203"}
    pair = [changed(dicoms[0], **(named | change)), changed(dicoms[1], **named)]
    for kind, body in bodies(pair):
        reply = run(predictor, kind, body)
        codes = [warning["code"] for warning in json.loads(reply.body)["warnings"]]
        assert ("identity-incomplete" in codes) is (None in change.values())
        report = pydicom.dcmread(io.BytesIO(run(predictor, kind, body, form=AnswerType.DICOM).body))
        assert (report.PatientID, report.PatientBirthDate) == ("4711", "19610203")


def test_one_picture_in_two_files_is_a_duplicate(predictor: Predictor, pgms: list[bytes], dicoms: list[bytes]) -> None:
    pixels = cv2.imdecode(np.frombuffer(cv2.imencode(".png", image_of(pgms[0]))[1], np.uint8), cv2.IMREAD_UNCHANGED)
    as_png = cv2.imencode(".png", pixels)[1].tobytes()
    other_instance = changed(dicoms[0], SOPInstanceUID="1.2.3")
    for pair in ([pgms[0], as_png], [dicoms[0], other_instance]):
        error = refused(predictor, JSON, exam(pair))
        assert (error.code, error.detail) == ("duplicate_image", {"image": 1})


def image_of(pgm: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(pgm, np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_study_from_an_archive_is_judged_and_what_was_skipped_is_named(
    predictor: Predictor, dicoms: list[bytes]
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for name, data in (("DOE.dcm", dicoms[0]), ("README.txt", b"of Jane Doe"), ("a/DOE.dcm", dicoms[1])):
            target.writestr(name, data)
    answer = ExamAnswer.model_validate_json(run(predictor, ZIP, archive.getvalue()).body)
    assert [image.index for image in answer.images] == [0, 2]
    assert sorted(index for breast in answer.breasts for index in breast.images) == [0, 2]
    assert [(each.index, each.place, each.reason) for each in answer.skipped] == [(1, "file 1 (.txt)", "text")]
    named = [warning.message for warning in answer.warnings if warning.code == "skipped-files"]
    assert named == ["files that are not images were skipped: file 1 (.txt): text"]
    report = run(predictor, ZIP, archive.getvalue(), form=AnswerType.DICOM)
    assert pydicom.dcmread(io.BytesIO(report.body)).Modality == "SR"


def test_a_file_of_no_known_kind_refers_the_exam_and_changes_no_score(
    predictor: Predictor, dicoms: list[bytes]
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for name, data in (("DOE.dcm", dicoms[0]), ("IM1", np.random.default_rng(1).bytes(900)), ("a.dcm", dicoms[1])):
            target.writestr(name, data)
    answer = ExamAnswer.model_validate_json(run(predictor, ZIP, archive.getvalue()).body)
    without = ExamAnswer.model_validate_json(run(predictor, JSON, exam(dicoms[:2])).body)
    assert answer.exam.malignancy_score == without.exam.malignancy_score
    assert [(each.index, each.place, each.reason) for each in answer.skipped] == [(1, "file 1", "unknown")]
    for case in (answer.exam, *answer.breasts):
        reasons = {(reason.code, reason.message) for reason in case.referral.reasons}
        assert (
            case.referral.refer
            and (
                "excluded",
                "image 1: not judged: the file's type is unknown, and it may be a damaged image",
            )
            in reasons
        )


def test_priors_are_left_out_on_request(predictor: Predictor, dicoms: list[bytes]) -> None:
    current = changed(dicoms[0], StudyDate="20260101")
    prior = changed(dicoms[1], StudyDate="20160101", StudyInstanceUID="1.2.3")
    answer = ExamAnswer.model_validate_json(
        run(predictor, JSON, exam([prior, current], options={"priors": "ignore"})).body
    )
    assert [image.index for image in answer.images] == [1] and answer.breasts[0].images == [1]
    assert [each.reason for each in answer.skipped] == ["prior"]
    assert refused(predictor, DICOM, current, priors="ignore").code == "bad_option"
