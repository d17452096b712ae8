"""Images that the model is not for: refused, left out or referred, and named in the answer."""

import io
from pathlib import Path

import pydicom
import pytest

from mammopipe.inference.contract.exclusions import ExclusionPolicy
from mammopipe.inference.contract.media_types import AnswerType
from mammopipe.inference.contract.schema import Answer, ExamAnswer
from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.prediction.predictor import Predictor
from tests.inference.prediction.handler.handler_requests import DICOM, JSON, bodies, changed, exam, refused, run


# --- images that the model is not for
def test_a_referred_view_refers_its_breast_and_its_exam_and_the_answer_names_it(
    predictor: Predictor, dicoms: list[bytes]
) -> None:
    images = [changed(dicoms[0], BreastImplantPresent="YES"), dicoms[1]]
    for kind, body in bodies(images):
        answer = ExamAnswer.model_validate_json(run(predictor, kind, body).body)
        assert [each.flag for each in answer.images[0].exclusions] == ["implant"]
        assert "implant" in answer.images[0].flags
        for case in (answer.images[0], answer.breasts[0], answer.exam):
            assert case.referral.refer
            assert any(reason.code == "excluded" and "implant" in reason.message for reason in case.referral.reasons)
    single = Answer.model_validate_json(run(predictor, DICOM, images[0]).body)
    assert single.referral.refer and single.exclusions[0].action == "refer"
    assert "implant" in {warning.code for warning in single.warnings}


@pytest.mark.parametrize("form", [AnswerType.JSON, AnswerType.DICOM])
def test_a_refused_view_is_answered_422_and_named(predictor: Predictor, dicoms: list[bytes], form: AnswerType) -> None:
    child = changed(dicoms[1], PatientAge="016Y")
    error = refused(predictor, DICOM, child, form=form)
    assert (error.status, error.code, error.detail) == (422, "excluded_view", {"flag": "under-18"})
    for kind, body in bodies([dicoms[0], child]):
        error = refused(predictor, kind, body, form=form)
        assert (error.code, error.detail) == ("excluded_view", {"flag": "under-18", "image": 1})
        assert "016Y" not in error.message


def test_an_exam_is_judged_without_the_views_that_the_table_leaves_out(base: Path, dicoms: list[bytes]) -> None:
    policy = ExclusionPolicy.parse("implant=leave-out")
    stricter = Predictor(base / "model", engine=EngineSettings(EngineKind.TORCH), exclusions=policy)
    implant = changed(dicoms[1], BreastImplantPresent="YES")
    alone = ExamAnswer.model_validate_json(run(stricter, JSON, exam([dicoms[0]])).body)
    for kind, body in bodies([dicoms[0], implant]):
        answer = ExamAnswer.model_validate_json(run(stricter, kind, body).body)
        [image], [view] = answer.images, answer.refused
        assert (image.index, view.index, view.code, view.flag) == (0, 1, "excluded_view", "implant")
        assert answer.exam.malignancy_score == alone.exam.malignancy_score
        assert [breast.images for breast in answer.breasts] == [[0]]
        assert "refused-view" in {warning.code for warning in answer.warnings}
        assert any(reason.message.startswith("image 1: not judged: ") for reason in answer.exam.referral.reasons)
        same_side = view.laterality == answer.breasts[0].laterality
        assert same_side == any("image 1" in reason.message for reason in answer.breasts[0].referral.reasons)
    error = refused(stricter, DICOM, implant)
    assert (error.code, error.detail) == ("excluded_view", {"flag": "implant"})
    error = refused(stricter, JSON, exam([implant]))
    assert (error.code, error.detail) == ("excluded_view", {"flag": "implant", "image": 0})


def test_an_exam_is_judged_without_what_is_no_whole_breast_view(predictor: Predictor, dicoms: list[bytes]) -> None:
    spot = changed(dicoms[1], PaddleDescription="SPOT 10CM")
    for kind, body in bodies([spot, dicoms[0]]):
        answer = ExamAnswer.model_validate_json(run(predictor, kind, body).body)
        assert [image.index for image in answer.images] == [1]
        assert [(view.index, view.code) for view in answer.refused] == [(0, "not_a_mammogram")]
        assert "PaddleDescription" in answer.refused[0].message
        # It may be all that the exam shows of the other breast.
        assert any("image 0" in reason.message for reason in answer.exam.referral.reasons)
        assert not any("image 0" in reason.message for reason in answer.breasts[0].referral.reasons)
        for result in ("report", "cad-sr"):
            report = pydicom.dcmread(io.BytesIO(run(predictor, kind, body, form=AnswerType.DICOM, result=result).body))
            assert "image 0 is in no score" in report.to_json()
            [study] = report.CurrentRequestedProcedureEvidenceSequence
            assert len(study.ReferencedSeriesSequence[0].ReferencedSOPSequence) == 1
    error = refused(predictor, JSON, exam([spot]))
    assert (error.code, error.detail) == ("not_a_mammogram", {"image": 0})
    sides = [changed(dicoms[0], ImageLaterality="L"), changed(dicoms[1], ImageLaterality="R")]
    body = exam([*sides, changed(spot, SOPInstanceUID="2.25.7")])
    answer = ExamAnswer.model_validate_json(run(predictor, JSON, body).body)
    assert len(answer.breasts) == 2
    assert [(view.index, view.code) for view in answer.refused] == [(2, "not_a_mammogram")]
    assert not any("image 2" in reason.message for reason in answer.exam.referral.reasons)


def test_a_damaged_image_refuses_its_exam(predictor: Predictor, dicoms: list[bytes]) -> None:
    error = refused(predictor, JSON, exam([dicoms[0], dicoms[1][:-1000]]))
    assert (error.code, error.detail) == ("corrupt_image", {"image": 1})


def test_a_lossy_image_is_warned_of_and_scored(predictor: Predictor, dicoms: list[bytes]) -> None:
    answer = Answer.model_validate_json(run(predictor, DICOM, changed(dicoms[0], LossyImageCompression="01")).body)
    assert [(each.flag, each.action) for each in answer.exclusions] == [("lossy", "warn")]
    assert not any(reason.code == "excluded" for reason in answer.referral.reasons)
