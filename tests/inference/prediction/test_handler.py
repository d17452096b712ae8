import base64
import dataclasses
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pydicom
import pytest

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.contract.exclusions import ExclusionPolicy
from mammopipe.inference.contract.media_types import AnswerType
from mammopipe.inference.contract.openapi import document
from mammopipe.inference.contract.request import RequestOptions, read_options
from mammopipe.inference.contract.schema import Answer, ExamAnswer
from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.prediction.handler import Reply, Task, answer
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.files import write_bytes, write_json
from mammopipe.processing.images.mammogram import ReadConfig
from mammopipe.processing.phantoms.mias_tree import make_film, write_rsna_tree
from mammopipe.training.networks import model_directory
from tests.support.points import level_figures

PGM, JSON, ZIP, DICOM = "image/x-portable-graymap", "application/json", "application/zip", "application/dicom"


def figures(sensitive: float, specific: float) -> dict[str, Any]:
    return level_figures(sensitivity=sensitive, specificity=specific)


@pytest.fixture(scope="module")
def predictor(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """An evaluated model: it knows thresholds of breasts and patients."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_bytes(folder / "weights.safetensors", (base / "model" / "weights.safetensors").read_bytes())
    described = model_directory.read_description(base / "model")
    write_json(
        folder / "model.json",
        described
        | {
            "calibration": {**described["calibration"], "breast_rule": "max"},
            "metrics": {"validation": {"breast": figures(1e-9, 1 - 1e-9), "patient": figures(0.1, 0.9)}},
        },
    )
    return Predictor(folder, engine=EngineSettings(EngineKind.TORCH))


@pytest.fixture(scope="module")
def pgms() -> list[bytes]:
    """Two left breasts and a right one."""
    images = []
    for seed, side in ((4, Laterality.LEFT), (5, Laterality.RIGHT), (6, Laterality.LEFT)):
        image = make_film(seed, label=Label.MALIGNANT, laterality=side, height=300 + seed, width=260)
        images.append(b"P5 %d %d 255\n" % (260, 300 + seed) + (image.pixels >> 8).astype(np.uint8).tobytes())
    return images


@pytest.fixture(scope="module")
def dicoms(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The views of two patients, two and two; each file says its view."""
    folder = tmp_path_factory.mktemp("rsna")
    write_rsna_tree(folder, patients=2, height=400)
    patients = sorted(path for path in (folder / "train_images").iterdir())
    return [with_view(path) for patient in patients for path in sorted(patient.iterdir())[:2]]


def with_view(path: Path) -> bytes:
    dataset, stream = pydicom.dcmread(path), io.BytesIO()
    dataset.ViewPosition = "MLO"
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def run(
    predictor: Predictor, content_type: str, body: bytes, *, form: AnswerType = AnswerType.JSON, **options: str
) -> Reply:
    task = Task("r1", body, read_options("", options.items()), form, content_type=content_type)
    # A task comes out of another process, and its reply goes back there.
    copy: Reply = pickle.loads(pickle.dumps(answer(predictor, pickle.loads(pickle.dumps(task)), ReadConfig())))
    return copy


def exam(images: list[bytes], **more: Any) -> bytes:
    return json.dumps({"images": [{"data": base64.b64encode(data).decode()} for data in images], **more}).encode()


def refused(
    predictor: Predictor, content_type: str, body: bytes, *, form: AnswerType = AnswerType.JSON, **options: str
) -> RequestError:
    with pytest.raises(RequestError) as caught:
        run(predictor, content_type, body, form=form, **options)
    return pickle.loads(pickle.dumps(caught.value))


def validate(name: str, body: bytes) -> None:
    whole = document()
    jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": whole["components"]}
    ).validate(json.loads(body))


def test_the_answer_to_an_image_obeys_its_schema(predictor: Predictor, pgms: list[bytes]) -> None:
    reply = run(predictor, PGM, pgms[0], heatmap="true", operating_point="specificity")
    validate("Answer", reply.body)
    said = Answer.model_validate_json(reply.body)
    assert (said.schema_version, said.request_id) == (2, "r1")
    assert said.decision is not None and said.decision.finding == "not_suspicious"
    assert said.heatmap is not None and (said.heatmap.rows, said.heatmap.columns) == (304, 260)
    assert {"unpack", "read", "preprocess", "infer", "explain"} <= set(said.timings_ms)
    assert not said.referral.refer and said.decile is None and said.entropy == pytest.approx(np.log(3), abs=0.1)
    assert "refer=false" in reply.attributes and "request_id=r1" in reply.attributes


def test_the_answer_to_an_exam_obeys_its_schema(predictor: Predictor, pgms: list[bytes]) -> None:
    reply = run(predictor, JSON, exam(pgms, options={"heatmap": True}))
    validate("ExamAnswer", reply.body)
    said = ExamAnswer.model_validate_json(reply.body)
    assert [image.index for image in said.images] == [0, 1, 2]
    assert [image.image.rows for image in said.images] == [304, 305, 306]
    assert all(image.heatmap is not None for image in said.images)
    assert [(breast.laterality, breast.images, breast.rule) for breast in said.breasts] == [
        ("L", [0, 2], "max"),
        ("R", [1], "max"),
    ]
    scores = [image.malignancy_score for image in said.images]
    assert said.breasts[0].malignancy_score == pytest.approx(max(scores[0], scores[2]))
    assert said.exam.malignancy_score == pytest.approx(max(scores))
    assert said.exam.decision is not None and said.exam.decision.threshold == 0.1
    assert [warning.code for warning in said.warnings] == ["identity-incomplete"], "these files have no header"
    single = Answer.model_validate_json(run(predictor, PGM, pgms[1]).body)
    assert single.probabilities == said.images[1].probabilities


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
    said = ExamAnswer.model_validate_json(run(predictor, JSON, json.dumps({"images": images}).encode()).body)
    assert said.images[0].image.laterality == "R"
    assert "chest-side-against-laterality" in {warning.code for warning in said.images[0].warnings}
    assert said.exam.referral.refer and said.exam.referral.reasons[0].code == "segmentation"
    side = pydicom.dcmread(io.BytesIO(dicoms[0])).ImageLaterality
    images = [{"data": base64.b64encode(dicoms[0]).decode(), "laterality": "L" if side == "R" else "R"}]
    error = refused(predictor, JSON, json.dumps({"images": images}).encode())
    assert (error.status, error.code, error.detail) == (400, "contradiction", {"image": 0})


def test_the_bad_image_of_an_exam_is_named(predictor: Predictor, pgms: list[bytes]) -> None:
    error = refused(predictor, JSON, exam([pgms[0], b"P5 64 64 255\n" + bytes(64 * 64)]))
    assert (error.status, error.code, error.detail) == (422, "no_breast", {"image": 1})
    assert refused(predictor, JSON, exam([b"no film"])).detail == {"image": 0}


def test_an_exam_is_one_patient_s(predictor: Predictor, dicoms: list[bytes]) -> None:
    error = refused(predictor, JSON, exam(dicoms[:3]))
    assert (error.status, error.code, error.detail) == (422, "mixed_patients", {"image": 2})
    patient = pydicom.dcmread(io.BytesIO(dicoms[2])).PatientID
    assert patient and patient not in error.message
    assert len(ExamAnswer.model_validate_json(run(predictor, JSON, exam(dicoms[:2])).body).images) == 2


def changed(data: bytes, **attributes: Any) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def bodies(images: list[bytes]) -> list[tuple[str, bytes]]:
    """Return the same images as JSON, as an archive and as a form."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for index, data in enumerate(images):
            target.writestr(f"{index}.dcm", data)
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n'
    form = b"".join(head + data + b"\r\n" for data in images) + b"--b--\r\n"
    return [(JSON, exam(images)), (ZIP, archive.getvalue()), ("multipart/form-data; boundary=b", form)]


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
        said = run(predictor, kind, body)
        codes = [warning["code"] for warning in json.loads(said.body)["warnings"]]
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
    said = ExamAnswer.model_validate_json(run(predictor, ZIP, archive.getvalue()).body)
    assert [image.index for image in said.images] == [0, 2]
    assert sorted(index for breast in said.breasts for index in breast.images) == [0, 2]
    assert [(each.index, each.place, each.reason) for each in said.skipped] == [(1, "file 1 (.txt)", "text")]
    named = [warning.message for warning in said.warnings if warning.code == "skipped-files"]
    assert named == ["files that are no images were not judged: file 1 (.txt): text"]
    report = run(predictor, ZIP, archive.getvalue(), form=AnswerType.DICOM)
    assert pydicom.dcmread(io.BytesIO(report.body)).Modality == "SR"


def test_a_file_of_no_known_kind_refers_the_exam_and_changes_no_score(
    predictor: Predictor, dicoms: list[bytes]
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for name, data in (("DOE.dcm", dicoms[0]), ("IM1", np.random.default_rng(1).bytes(900)), ("a.dcm", dicoms[1])):
            target.writestr(name, data)
    said = ExamAnswer.model_validate_json(run(predictor, ZIP, archive.getvalue()).body)
    without = ExamAnswer.model_validate_json(run(predictor, JSON, exam(dicoms[:2])).body)
    assert said.exam.malignancy_score == without.exam.malignancy_score
    assert [(each.index, each.place, each.reason) for each in said.skipped] == [(1, "file 1", "unknown")]
    for case in (said.exam, *said.breasts):
        reasons = {(reason.code, reason.message) for reason in case.referral.reasons}
        assert (
            case.referral.refer
            and (
                "excluded",
                "image 1: not judged: the file is of no known kind and may be a damaged image",
            )
            in reasons
        )


def test_priors_are_left_out_on_request(predictor: Predictor, dicoms: list[bytes]) -> None:
    current = changed(dicoms[0], StudyDate="20260101")
    prior = changed(dicoms[1], StudyDate="20160101", StudyInstanceUID="1.2.3")
    said = ExamAnswer.model_validate_json(
        run(predictor, JSON, exam([prior, current], options={"priors": "ignore"})).body
    )
    assert [image.index for image in said.images] == [1] and said.breasts[0].images == [1]
    assert [each.reason for each in said.skipped] == ["prior"]
    assert refused(predictor, DICOM, current, priors="ignore").code == "bad_option"


# --- images that the model is not for


def test_a_referred_view_refers_its_breast_and_its_exam_and_the_answer_names_it(
    predictor: Predictor, dicoms: list[bytes]
) -> None:
    images = [changed(dicoms[0], BreastImplantPresent="YES"), dicoms[1]]
    for kind, body in bodies(images):
        said = ExamAnswer.model_validate_json(run(predictor, kind, body).body)
        assert [each.flag for each in said.images[0].exclusions] == ["implant"]
        assert "implant" in said.images[0].flags
        for case in (said.images[0], said.breasts[0], said.exam):
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
        said = ExamAnswer.model_validate_json(run(stricter, kind, body).body)
        [image], [view] = said.images, said.refused
        assert (image.index, view.index, view.code, view.flag) == (0, 1, "excluded_view", "implant")
        assert said.exam.malignancy_score == alone.exam.malignancy_score
        assert [breast.images for breast in said.breasts] == [[0]]
        assert "refused-view" in {warning.code for warning in said.warnings}
        assert any(reason.message.startswith("image 1: not judged: ") for reason in said.exam.referral.reasons)
        same_side = view.laterality == said.breasts[0].laterality
        assert same_side == any("image 1" in reason.message for reason in said.breasts[0].referral.reasons)
    error = refused(stricter, DICOM, implant)
    assert (error.code, error.detail) == ("excluded_view", {"flag": "implant"})
    error = refused(stricter, JSON, exam([implant]))
    assert (error.code, error.detail) == ("excluded_view", {"flag": "implant", "image": 0})


def test_an_exam_is_judged_without_what_is_no_whole_breast_view(predictor: Predictor, dicoms: list[bytes]) -> None:
    spot = changed(dicoms[1], PaddleDescription="SPOT 10CM")
    for kind, body in bodies([spot, dicoms[0]]):
        said = ExamAnswer.model_validate_json(run(predictor, kind, body).body)
        assert [image.index for image in said.images] == [1]
        assert [(view.index, view.code) for view in said.refused] == [(0, "not_a_mammogram")]
        assert "PaddleDescription" in said.refused[0].message
        # It may be all that the exam shows of the other breast.
        assert any("image 0" in reason.message for reason in said.exam.referral.reasons)
        assert not any("image 0" in reason.message for reason in said.breasts[0].referral.reasons)
        for result in ("report", "cad-sr"):
            report = pydicom.dcmread(io.BytesIO(run(predictor, kind, body, form=AnswerType.DICOM, result=result).body))
            assert "image 0 is in no score" in report.to_json()
            [study] = report.CurrentRequestedProcedureEvidenceSequence
            assert len(study.ReferencedSeriesSequence[0].ReferencedSOPSequence) == 1
    error = refused(predictor, JSON, exam([spot]))
    assert (error.code, error.detail) == ("not_a_mammogram", {"image": 0})
    sides = [changed(dicoms[0], ImageLaterality="L"), changed(dicoms[1], ImageLaterality="R")]
    body = exam([*sides, changed(spot, SOPInstanceUID="2.25.7")])
    said = ExamAnswer.model_validate_json(run(predictor, JSON, body).body)
    assert len(said.breasts) == 2
    assert [(view.index, view.code) for view in said.refused] == [(2, "not_a_mammogram")]
    assert not any("image 2" in reason.message for reason in said.exam.referral.reasons)


def test_a_damaged_image_refuses_its_exam(predictor: Predictor, dicoms: list[bytes]) -> None:
    error = refused(predictor, JSON, exam([dicoms[0], dicoms[1][:-1000]]))
    assert (error.code, error.detail) == ("corrupt_image", {"image": 1})


def test_a_lossy_image_is_warned_of_and_scored(predictor: Predictor, dicoms: list[bytes]) -> None:
    said = Answer.model_validate_json(run(predictor, DICOM, changed(dicoms[0], LossyImageCompression="01")).body)
    assert [(each.flag, each.action) for each in said.exclusions] == [("lossy", "warn")]
    assert not any(reason.code == "excluded" for reason in said.referral.reasons)


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


@pytest.mark.parametrize("how", ["mirrored", "upside down", "lying"])
def test_a_turned_file_s_answer_is_in_its_own_pixels(predictor: Predictor, dicoms: list[bytes], how: str) -> None:
    """The model sees the breast as it sees every other; a viewer shows, and a report refers to, the file's pixels."""
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
    said = Answer.model_validate_json(run(predictor, DICOM, body, heatmap="true").body)
    assert said.malignancy_score == pytest.approx(as_usual.malignancy_score)
    assert (said.image.rows, said.image.columns) == turned.shape
    assert said.heatmap is not None and as_usual.heatmap is not None
    heats = [cv2.imdecode(np.frombuffer(base64.b64decode(one.heatmap.png), np.uint8), -1) for one in (as_usual, said)]
    expected = {"mirrored": heats[0][:, ::-1], "upside down": heats[0][::-1, ::-1], "lying": heats[0].T}[how]
    assert np.array_equal(heats[1], expected)
    for region in said.heatmap.regions:
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
