"""Answers as JSON: their schema, the forms of an exam, options, errors, the log's facts and limits."""

import base64
import dataclasses
import io
import json
import zipfile

import numpy as np
import pydicom
import pytest

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.contract.media_types import AnswerType
from mammopipe.inference.contract.request import RequestOptions
from mammopipe.inference.contract.schema import Answer, ExamAnswer
from mammopipe.inference.contract.task import Task
from mammopipe.inference.prediction.handler import answer
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.images.mammogram import ReadConfig
from tests.inference.prediction.handler.handler_requests import (
    DICOM,
    JSON,
    PGM,
    ZIP,
    exam,
    refused,
    run,
    validate,
)


def test_the_answer_to_an_image_obeys_its_schema(predictor: Predictor, pgms: list[bytes]) -> None:
    reply = run(predictor, PGM, pgms[0], heatmap="true", operating_point="specificity")
    validate("Answer", reply.body)
    answer = Answer.model_validate_json(reply.body)
    assert (answer.schema_version, answer.request_id) == (2, "r1")
    assert answer.decision is not None and answer.decision.finding == "not_suspicious"
    assert answer.heatmap is not None and (answer.heatmap.rows, answer.heatmap.columns) == (304, 260)
    assert {"unpack", "read", "preprocess", "infer", "explain"} <= set(answer.timings_ms)
    assert not answer.referral.refer and answer.decile is None and answer.entropy == pytest.approx(np.log(3), abs=0.1)
    assert "refer=false" in reply.attributes and "request_id=r1" in reply.attributes


def test_the_answer_to_an_exam_obeys_its_schema(predictor: Predictor, pgms: list[bytes]) -> None:
    reply = run(predictor, JSON, exam(pgms, options={"heatmap": True}))
    validate("ExamAnswer", reply.body)
    answer = ExamAnswer.model_validate_json(reply.body)
    assert [image.index for image in answer.images] == [0, 1, 2]
    assert [image.image.rows for image in answer.images] == [304, 305, 306]
    assert all(image.heatmap is not None for image in answer.images)
    assert [(breast.laterality, breast.images, breast.rule) for breast in answer.breasts] == [
        ("L", [0, 2], "max"),
        ("R", [1], "max"),
    ]
    scores = [image.malignancy_score for image in answer.images]
    assert answer.breasts[0].malignancy_score == pytest.approx(max(scores[0], scores[2]))
    assert answer.exam.malignancy_score == pytest.approx(max(scores))
    assert answer.exam.decision is not None and answer.exam.decision.threshold == 0.1
    assert [warning.code for warning in answer.warnings] == ["identity-incomplete"], "these files have no header"
    single = Answer.model_validate_json(run(predictor, PGM, pgms[1]).body)
    assert single.probabilities == answer.images[1].probabilities


def test_the_form_of_an_exam_does_not_matter(predictor: Predictor, pgms: list[bytes]) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for index in (2, 0, 1):
            target.writestr(f"{index}.pgm", pgms[index])
    parts = (
        b"".join(
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n' + data + b"\r\n" for data in pgms
        )
        + b"--b--\r\n"
    )
    replies = [
        run(predictor, JSON, exam(pgms)),
        run(predictor, ZIP, archive.getvalue()),
        run(predictor, "multipart/form-data; boundary=b", parts),
    ]
    answers = [ExamAnswer.model_validate_json(reply.body) for reply in replies]
    assert answers[0].breasts == answers[1].breasts == answers[2].breasts
    assert [image.image.sha256 for image in answers[1].images] == [image.image.sha256 for image in answers[0].images]


def test_what_the_request_says_of_an_image_outdoes_a_guess_but_not_the_file(
    predictor: Predictor, pgms: list[bytes], dicoms: list[bytes]
) -> None:
    images = [{"data": base64.b64encode(pgms[0]).decode(), "laterality": "R", "view": "MLO"}]
    answer = ExamAnswer.model_validate_json(run(predictor, JSON, json.dumps({"images": images}).encode()).body)
    assert answer.images[0].image.laterality == "R"
    assert "chest-side-against-laterality" in {warning.code for warning in answer.images[0].warnings}
    assert answer.exam.referral.refer and answer.exam.referral.reasons[0].code == "segmentation"
    side = pydicom.dcmread(io.BytesIO(dicoms[0])).ImageLaterality
    images = [{"data": base64.b64encode(dicoms[0]).decode(), "laterality": "L" if side == "R" else "R"}]
    error = refused(predictor, JSON, json.dumps({"images": images}).encode())
    assert (error.status, error.code, error.detail) == (400, "contradiction", {"image": 0})


def test_the_bad_image_of_an_exam_is_named(predictor: Predictor, pgms: list[bytes]) -> None:
    error = refused(predictor, JSON, exam([pgms[0], b"P5 64 64 255\n" + bytes(64 * 64)]))
    assert (error.status, error.code, error.detail) == (422, "no_breast", {"image": 1})
    assert refused(predictor, JSON, exam([b"no film"])).detail == {"image": 0}


def test_what_the_log_may_know_identifies_nobody(predictor: Predictor, dicoms: list[bytes]) -> None:
    named = pydicom.dcmread(io.BytesIO(dicoms[0]))
    named.PatientName, named.PatientBirthDate = "DOE^JANE", "19610102"
    target = io.BytesIO()
    named.save_as(target, enforce_file_format=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("DOE^JANE.dcm", target.getvalue())
    for kind, body in ((DICOM, target.getvalue()), (ZIP, archive.getvalue())):
        facts = run(predictor, kind, body).facts
        text = json.dumps(facts)
        for value in ("DOE", "JANE", "19610102", str(named.PatientID), str(named.StudyInstanceUID)):
            assert value not in text
        assert {"images", "rows", "columns", "score", "finding", "refer", "reasons", "warnings", "ms"} <= set(facts)
        assert facts["refer"] in (True, False)


def test_limits_of_the_task_are_obeyed(predictor: Predictor, pgms: list[bytes]) -> None:
    task = Task("r", exam(pgms), RequestOptions(), AnswerType.JSON, content_type=JSON, max_views=2)
    with pytest.raises(RequestError, match="limit of 2"):
        answer(predictor, task, ReadConfig())
    with pytest.raises(RequestError, match="more than 9 bytes"):
        answer(predictor, dataclasses.replace(task, max_views=3, max_bytes=9), ReadConfig())
