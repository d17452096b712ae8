"""Answers as PNG overlay, DICOM and zip, and the options that each accepts."""

import base64
import io
import json
import zipfile
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest

from mammopipe.inference.contract.media_types import AnswerType
from mammopipe.inference.contract.schema import Answer
from mammopipe.inference.prediction.predictor import Predictor
from tests.inference.prediction.handler.handler_requests import (
    DICOM,
    JSON,
    PGM,
    exam,
    refused,
    run,
)


@pytest.mark.parametrize(
    ("form", "options", "status", "code"),
    [
        (AnswerType.OVERLAY, {}, 406, "not_acceptable"),
        (AnswerType.DICOM, {"result": "overlay"}, 406, "not_acceptable"),
        (AnswerType.JSON, {"laterality": "L"}, 400, "bad_option"),
        (AnswerType.JSON, {"view": "CC"}, 400, "bad_option"),
        (AnswerType.JSON, {"result": "report"}, 400, "bad_option"),
        (AnswerType.JSON, {"target": "benign"}, 400, "bad_option"),
    ],
)
def test_options_without_meaning_for_an_exam_are_refused(
    predictor: Predictor, pgms: list[bytes], form: AnswerType, options: dict[str, str], status: int, code: str
) -> None:
    error = refused(predictor, JSON, exam(pgms, options={"target": "benign"}), form=form, **options)
    assert (error.status, error.code) == (status, code)


def test_overlay_has_the_image_s_geometry(predictor: Predictor, pgms: list[bytes]) -> None:
    reply = run(predictor, PGM, pgms[0], form=AnswerType.OVERLAY)
    assert cv2.imdecode(np.frombuffer(reply.body, np.uint8), cv2.IMREAD_UNCHANGED).shape == (304, 260, 3)
    assert reply.form is AnswerType.OVERLAY and "malignancy_score=" in reply.attributes


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ("report", "Comprehensive SR"),
        ("overlay", "Secondary Capture"),
        ("cad-sr", "Mammography CAD SR"),
        ("gsps", "Grayscale Softcopy Presentation State"),
    ],
)
def test_dicom_results_keep_the_source_s_study(
    predictor: Predictor, dicoms: list[bytes], result: str, kind: str
) -> None:
    source = pydicom.dcmread(io.BytesIO(dicoms[0]))
    assert source.StudyInstanceUID
    reply = run(predictor, DICOM, dicoms[0], form=AnswerType.DICOM, result=result)
    made = pydicom.dcmread(io.BytesIO(reply.body))
    assert reply.form is AnswerType.DICOM and kind in made.SOPClassUID.name
    assert (made.StudyInstanceUID, made.PatientID) == (source.StudyInstanceUID, source.PatientID)
    assert made.SOPInstanceUID != source.SOPInstanceUID


def test_a_dicom_result_needs_a_dicom_source(predictor: Predictor, pgms: list[bytes]) -> None:
    error = refused(predictor, PGM, pgms[0], form=AnswerType.DICOM)
    assert (error.status, error.code) == (422, "no_source_identity")


@pytest.mark.parametrize(("result", "modality"), [("report", "SR"), ("cad-sr", "SR"), ("gsps", "PR")])
def test_an_exam_s_result_is_one(predictor: Predictor, dicoms: list[bytes], result: str, modality: str) -> None:
    reply = run(predictor, JSON, exam(dicoms[:2]), form=AnswerType.DICOM, result=result)
    made = pydicom.dcmread(io.BytesIO(reply.body))
    assert made.Modality == modality
    assert ("Graphic Data" in str(made)) is (result != "report"), "regions of a report are asked for by `heatmap`"


@pytest.mark.parametrize("form", [AnswerType.DICOM, AnswerType.ZIP])
@pytest.mark.parametrize("count", [1, 2])
def test_all_results_are_one_archive(predictor: Predictor, dicoms: list[bytes], form: AnswerType, count: int) -> None:
    options = {"result": "all"} if form is AnswerType.DICOM else {}
    body, kind = (dicoms[0], DICOM) if count == 1 else (exam(dicoms[:2]), JSON)
    reply = run(predictor, kind, body, form=form, **options)
    assert reply.form is AnswerType.ZIP
    names = zipfile.ZipFile(io.BytesIO(reply.body)).namelist()
    assert names == [
        "answer.json",
        "report.dcm",
        "cad-report.dcm",
        "presentation-state-0.dcm",
        *(f"overlay-{index}.dcm" for index in range(count)),
    ]
    answered = json.loads(zipfile.ZipFile(io.BytesIO(reply.body)).read("answer.json"))
    assert all(image["heatmap"]["regions"] for image in answered.get("images", [answered]))


def test_an_archive_holds_all_results_and_no_single_one(predictor: Predictor, dicoms: list[bytes]) -> None:
    error = refused(predictor, DICOM, dicoms[0], form=AnswerType.ZIP, result="report")
    assert (error.status, error.code) == (400, "bad_option") and "application/zip" in error.message


@pytest.mark.parametrize("how", ["mirrored", "upside down", "lying"])
def test_a_turned_file_s_answer_is_in_its_own_pixels(predictor: Predictor, dicoms: list[bytes], how: str) -> None:
    """The model sees the breast upright; regions, heatmaps and overlays refer to the file's own pixels."""
    upright = pydicom.dcmread(io.BytesIO(dicoms[0]))
    left = upright.ImageLaterality == "L"
    pixels = upright.pixel_array
    turned, orientation = {
        "mirrored": (pixels[:, ::-1], ["P" if left else "A", "FR" if left else "FL"]),
        "upside down": (pixels[::-1, ::-1], ["P" if left else "A", "HL" if left else "HR"]),
        "lying": (pixels.T, ["FR" if left else "FL", "A" if left else "P"]),
    }[how]
    upright.PatientOrientation = ["A", "FR"] if left else ["P", "FL"]
    as_usual = Answer.model_validate_json(run(predictor, DICOM, native(upright, pixels), heatmap="true").body)
    upright.PatientOrientation = orientation
    body = native(upright, turned)
    answer = Answer.model_validate_json(run(predictor, DICOM, body, heatmap="true").body)
    assert answer.malignancy_score == pytest.approx(as_usual.malignancy_score)
    assert (answer.image.rows, answer.image.columns) == turned.shape
    assert answer.heatmap is not None and as_usual.heatmap is not None
    heats = [cv2.imdecode(np.frombuffer(base64.b64decode(one.heatmap.png), np.uint8), -1) for one in (as_usual, answer)]
    expected = {"mirrored": heats[0][:, ::-1], "upside down": heats[0][::-1, ::-1], "lying": heats[0].T}[how]
    assert np.array_equal(heats[1], expected)
    for region in answer.heatmap.regions:
        assert (
            heats[1][region.peak_y, region.peak_x]
            == heats[1][region.top : region.bottom, region.left : region.right].max()
        )
    assert run(predictor, DICOM, body, form=AnswerType.ZIP).form is AnswerType.ZIP
    picture = run(predictor, DICOM, body, form=AnswerType.OVERLAY, overlay="none").body
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), -1).shape == turned.shape


def native(dataset: pydicom.Dataset, pixels: Any) -> bytes:
    """Return the file with other pixels, uncompressed."""
    stream = io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = False
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
