"""DICOM results: whose they are, what they refer to, what they say and where, and that workstations can read them."""

import hashlib
import logging
import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from highdicom.sr import srread
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from inference.dicom_results import MixedPatientsError, NoSourceIdentityError, overlay_capture, structured_report
from inference.explain import overlay
from inference.schema import NOTICE, Answer, ExamAnswer
from processing.imaging import Mammogram, read_mammogram
from processing.phantom_rsna import write_rsna_tree

MODEL = {"id": "model-package/7", "architecture": "resnet50", "weights_sha256": "ab" * 32,
         "preprocess_digest": "cd" * 32}
DECISION = {"operating_point": "sensitivity", "threshold": 0.31, "finding": "suspicious", "sensitivity": 0.92,
            "specificity": None}
POOR = {"refer": True, "reasons": [{"code": "segmentation", "message": "the mask covers 96 % of the film"}]}
FINE: dict[str, Any] = {"refer": False, "reasons": []}
REGIONS = [{"left": 10, "top": 20, "right": 110, "bottom": 220, "peak_x": 60, "peak_y": 99, "strength": 0.9312},
           {"left": 0, "top": 0, "right": 7, "bottom": 5, "peak_x": 3, "peak_y": 4, "strength": 0.6}]
SECRETS = {"PatientName": "DOE^JANE", "PatientID": "MRN-4711", "PatientBirthDate": "19610203", "PatientSex": "F",
           "AccessionNumber": "ACC-42", "ReferringPhysicianName": "HOUSE^GREGORY", "StudyDate": "20260101",
           "StudyTime": "101112", "StudyID": "S-9", "StudyDescription": "SCREENING OF JANE"}


@pytest.fixture(scope="module")
def exams(tmp_path_factory: pytest.TempPathFactory) -> list[list[bytes]]:
    """Two patients' files: the first of a MONOCHROME2 machine, the second of a MONOCHROME1 machine."""
    folder = tmp_path_factory.mktemp("rsna")
    write_rsna_tree(folder, patients=2, height=260)
    return [[file.read_bytes() for file in sorted(patient.iterdir())]
            for patient in sorted((folder / "train_images").iterdir())]


def changed(data: bytes, **attributes: Any) -> bytes:
    """Return a DICOM file with other attributes; `None` takes one out, of the file meta information, too."""
    dataset = pydicom.dcmread(BytesIO(data))
    for keyword, value in attributes.items():
        if value is not None:
            setattr(dataset, keyword, value)
            continue
        for holder, name in ((dataset, keyword), (dataset.file_meta, f"MediaStorage{keyword}")):
            if name in holder.dir():
                delattr(holder, name)
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=False)
    return stream.getvalue()


def image_facts(data: bytes, **other: Any) -> dict[str, Any]:
    mammogram = read_mammogram(data)
    rows, columns = mammogram.pixels.shape
    image = {"sha256": hashlib.sha256(data).hexdigest(), "rows": rows, "columns": columns,
             "laterality": mammogram.laterality, "view": "MLO", "quality": {}}
    heatmap = {"target": "malignant", "rows": rows, "columns": columns, "png": "", "outside_share": 0.0,
               "regions": REGIONS}
    return {"image": image, "probabilities": {"normal": 0.2, "benign": 0.1, "malignant": 0.7}, "warnings": [],
            "malignancy_score": 70.0, "decile": 9, "entropy": 0.801818, "decision": DECISION, "referral": FINE,
            "heatmap": heatmap, **other}


def one(data: bytes, request_id: str = "r1", model: dict[str, str] = MODEL, **other: Any) -> Answer:
    return Answer.model_validate({"request_id": request_id, "model": model, "timings_ms": {"read": 1.5},
                                  **image_facts(data, **other)})


def exam(files: list[bytes]) -> ExamAnswer:
    images = [{"index": index, **image_facts(data)} for index, data in enumerate(files)]
    images[0] |= {"referral": POOR, "heatmap": None}
    sides = [image["image"]["laterality"] for image in images]
    breasts = [{"laterality": side, "images": [index for index, other in enumerate(sides) if other == side],
                "rule": "mean", "malignancy_score": 61.0, "decision": None, "referral": FINE} for side in "LR"]
    warnings = [{"code": "no-reference", "message": "the model has no reference"}]
    return ExamAnswer.model_validate({
        "request_id": "r1", "model": MODEL, "timings_ms": {}, "images": images, "breasts": breasts,
        "exam": {"malignancy_score": 64.0, "decision": DECISION, "referral": POOR}, "warnings": warnings})


def opened(data: bytes) -> Dataset:
    return pydicom.dcmread(BytesIO(data))


def items(container: Dataset) -> Iterator[Dataset]:
    """Yield every content item below one, in the order of the document."""
    for item in container.get("ContentSequence", []):
        yield item
        yield from items(item)


def groups(report: Dataset) -> dict[str, Dataset]:
    """Return the measurement groups by their tracking identifiers."""
    found = [item for item in items(report) if item.ValueType == "CONTAINER" and name_of(item) == "125007"]
    return {str(group.ContentSequence[0].TextValue): group for group in found}


def name_of(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def numbers(group: Dataset) -> dict[str, float]:
    return {name_of(item): float(item.MeasuredValueSequence[0].NumericValue)
            for item in items(group) if item.ValueType == "NUM"}


def coded(group: Dataset) -> dict[str, str]:
    return {name_of(item): str(item.ConceptCodeSequence[0].CodeValue)
            for item in items(group) if item.ValueType == "CODE"}


def words(group: Dataset) -> list[str]:
    return [str(item.TextValue) for item in group.ContentSequence if name_of(item) == codes.DCM.Comment.value]


def referred(group: Dataset) -> list[str]:
    return [str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
            for item in items(group) if item.ValueType == "IMAGE"]


def instances(files: list[bytes]) -> list[str]:
    return [str(opened(data).SOPInstanceUID) for data in files]


@pytest.mark.parametrize("machine", [0, 1])
def test_the_report_refers_to_every_source_and_is_of_its_study(exams: list[list[bytes]], machine: int) -> None:
    files = exams[machine]
    source, report = opened(files[0]), opened(structured_report(files, exam(files)))
    [evidence] = report.CurrentRequestedProcedureEvidenceSequence
    [series] = evidence.ReferencedSeriesSequence
    assert (evidence.StudyInstanceUID, series.SeriesInstanceUID) == (source.StudyInstanceUID, source.SeriesInstanceUID)
    told = [(item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID) for item in series.ReferencedSOPSequence]
    assert told == [(uid, source.file_meta.MediaStorageSOPClassUID) for uid in instances(files)]
    assert report.StudyInstanceUID == source.StudyInstanceUID
    assert report.PatientID == source.PatientID
    assert report.SeriesInstanceUID != source.SeriesInstanceUID


def test_the_report_is_a_machines_for_a_reader_to_judge(exams: list[list[bytes]]) -> None:
    report = opened(structured_report(exams[0][:1], one(exams[0][0])))
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.CompletionFlagDescription == NOTICE
    assert all(words(group)[0] == NOTICE for name, group in groups(report).items() if "region" not in name)


def test_an_image_has_its_scores_decision_and_algorithm(exams: list[list[bytes]]) -> None:
    group = groups(opened(structured_report(exams[0][:1], one(exams[0][0]))))["image 0"]
    assert numbers(group) == {"111047": 70, "P-NORMAL": 0.2, "P-BENIGN": 0.1, "P-MALIGNANT": 0.7, "DECILE": 9,
                              "ENTROPY": 0.801818, "THRESHOLD": 0.31}
    found = coded(group)
    assert (found["DECISION"], found["OPERATING-POINT"], found["REFERRAL"]) == ("SUSPICIOUS", "SENSITIVITY",
                                                                              "NO-REFERRAL")
    texts = [str(item.TextValue) for item in items(group) if item.ValueType == "TEXT"]
    assert {"mammopipe resnet50", MODEL["id"], f"weights sha256 {'ab' * 32}", f"preprocessing {'cd' * 32}",
            "The threshold in validation: sensitivity 0.920"} <= set(texts)


def test_an_exam_goes_from_the_whole_to_its_parts(exams: list[list[bytes]]) -> None:
    files = exams[0]
    found, uids = groups(opened(structured_report(files, exam(files)))), instances(files)
    assert list(found)[:4] == ["exam", "breast L", "breast R", "image 0"]
    assert referred(found["exam"]) == uids
    assert referred(found["breast R"]) == uids[2:]
    assert numbers(found["exam"])["111047"] == 64
    assert numbers(found["breast L"]) == {"111047": 61}
    assert coded(found["breast L"])["370129005"] == "RULE-MEAN"
    assert coded(found["breast R"])["272741003"] == codes.SCT.Right.value
    assert "No decision: the model has no operating point for this" in words(found["breast L"])


def test_a_referral_says_why_in_words(exams: list[list[bytes]]) -> None:
    found = groups(opened(structured_report(exams[0], exam(exams[0]))))
    for name in ("exam", "image 0"):
        assert coded(found[name])["REFERRAL"] == "REFER"
        assert "Refer to reader: the mask covers 96 % of the film (segmentation)" in words(found[name])
    assert "Warning: the model has no reference (no-reference)" in words(found["exam"])
    assert coded(found["image 1"])["REFERRAL"] == "NO-REFERRAL"


def test_regions_are_planar_rois_in_pixels_of_their_own_source(exams: list[list[bytes]]) -> None:
    files = exams[1]
    document = srread(BytesIO(structured_report(files, exam(files))))
    rois = document.content.get_planar_roi_measurement_groups()
    uids = instances(files)
    assert len(rois) == 2 * (len(files) - 1), "all images but the first have two regions"
    box = rois[2].roi
    assert box.graphic_type.value == "POLYLINE"
    assert box.value.tolist() == [[10, 20], [110, 20], [110, 220], [10, 220], [10, 20]]
    assert box.ContentSequence[0].referenced_sop_instance_uid == uids[2]
    assert numbers(rois[2][0]) == {"HEAT": 0.9312, "PEAK-COLUMN": 60.5, "PEAK-ROW": 99.5}


def test_the_image_library_codes_side_and_view(exams: list[list[bytes]]) -> None:
    files = exams[0]
    report = opened(structured_report(files, exam(files)))
    [library] = [item for item in items(report) if name_of(item) == codes.DCM.ImageLibrary.value]
    entries = [item for item in items(library) if item.ValueType == "IMAGE"]
    sides = [opened(data).ImageLaterality for data in files]
    for entry, side in zip(entries, sides, strict=True):
        expected = codes.cid244.Left if side == "L" else codes.cid244.Right
        assert coded(entry) == {codes.DCM.Modality.value: "MG", codes.DCM.ImageLaterality.value: expected.value,
                                codes.DCM.ImageView.value: codes.cid4014.MedioLateralObliqueProjection.value}


def test_what_is_not_known_is_left_out(exams: list[list[bytes]]) -> None:
    data = exams[0][0]
    unknown = {**image_facts(data)["image"], "laterality": None, "view": None}
    answer = one(data, image=unknown, decile=None, decision=None, heatmap=None)
    found = groups(opened(structured_report([data], answer)))
    assert list(found) == ["image 0"]
    assert not {"DECILE", "THRESHOLD"} & set(numbers(found["image 0"]))
    assert not {"DECISION", "272741003"} & set(coded(found["image 0"]))


def results(data: bytes) -> list[bytes]:
    mammogram = read_mammogram(data)
    return [structured_report([data], one(data)), overlay_capture(data, heat_over(mammogram), one(data))]


def heat_over(mammogram: Mammogram) -> NDArray[np.uint8]:
    heat = np.zeros(mammogram.pixels.shape, np.float32)
    cv2.circle(heat, (mammogram.pixels.shape[1] // 2, mammogram.pixels.shape[0] // 2), 20, 1.0, -1)
    return overlay(mammogram.pixels, cv2.GaussianBlur(heat, (0, 0), 5))


def test_results_keep_patient_and_study_to_the_byte(exams: list[list[bytes]]) -> None:
    issuer = Dataset()
    issuer.PatientID, issuer.IssuerOfPatientID = "OTHER-1", "CLINIC"
    data = changed(exams[0][0], **{**SECRETS, "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
                                   "PatientName": "Yamada^Tarou=山田^太郎", "OtherPatientIDsSequence": [issuer]})
    source = opened(data)
    for result in map(opened, results(data)):
        for keyword in (*SECRETS, "SpecificCharacterSet", "OtherPatientIDsSequence", "StudyInstanceUID"):
            assert result[keyword].value == source[keyword].value, keyword
        assert str(result.PatientName) == "Yamada^Tarou=山田^太郎"


def test_malformed_attributes_of_a_source_are_kept_and_nothing_of_it_is_told(
        exams: list[list[bytes]], caplog: pytest.LogCaptureFixture) -> None:
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


def test_text_beyond_ascii_does_not_break_a_result(exams: list[list[bytes]]) -> None:
    data = exams[0][0]
    model = {**MODEL, "id": "modèle-7"}
    written = overlay_capture(data, heat_over(read_mammogram(data)), one(data, model=model))
    assert opened(written).SoftwareVersions == "mod?le-7"
    group = groups(opened(structured_report([data], one(data, model=model))))["image 0"]
    assert "mod?le-7" in [item.TextValue for item in items(group) if item.ValueType == "TEXT"]


def test_an_unknown_character_set_is_no_obstacle(exams: list[list[bytes]]) -> None:
    data = changed(exams[0][0], SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    data = data.replace(b"ISO_IR 100", b"KLINGON 99")
    assert all(b"KLINGON 99" in result and "Müller^Jörg".encode("latin-1") in result for result in results(data))


def test_the_same_question_gives_the_same_instance(exams: list[list[bytes]]) -> None:
    data = exams[0][0]

    def uid(**other: Any) -> str:
        return str(opened(structured_report([data], one(data, **other))).SOPInstanceUID)
    first = uid()
    assert uid(request_id="r2") == first
    others = {uid(model={**MODEL, "weights_sha256": "ef" * 32}), uid(malignancy_score=71.0), first}
    others |= {str(opened(result).SOPInstanceUID) for result in results(exams[0][1])}
    assert len(others) == 5
    assert all(UID(other).is_valid and other.startswith("2.25.") for other in others)


def test_each_result_is_a_series_of_its_own(exams: list[list[bytes]]) -> None:
    series = [opened(result).SeriesInstanceUID for data in exams[0][:2] for result in results(data)]
    assert len(set(series)) == 4


@pytest.mark.parametrize("machine", [0, 1])
@pytest.mark.parametrize("index", [0, 3])
def test_the_capture_shows_the_overlay_and_the_notice_in_air(
        exams: list[list[bytes]], machine: int, index: int) -> None:
    data = exams[machine][index]
    mammogram = read_mammogram(data)
    painted = heat_over(mammogram)
    untouched = painted.copy()
    capture = opened(overlay_capture(data, painted, one(data, referral=POOR)))
    shown = capture.pixel_array[..., ::-1]
    assert np.array_equal(painted, untouched)
    written = (shown != painted).any(axis=2)
    assert 0.002 < written.mean() < 0.1
    assert np.median(mammogram.pixels[written]) < 0.02 * 65535
    assert capture.file_meta.TransferSyntaxUID.name == "JPEG 2000 Image Compression (Lossless Only)"
    assert (capture.LossyImageCompression, capture.BurnedInAnnotation) == ("00", "NO")


def test_the_capture_refers_to_its_source(exams: list[list[bytes]]) -> None:
    data = changed(exams[0][0], PatientOrientation=["A", "R"], PixelSpacing=[0.07, 0.07], BurnedInAnnotation="YES")
    capture, source = opened(results(data)[1]), opened(data)
    [reference] = capture.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.file_meta.MediaStorageSOPClassUID
    assert capture.StudyInstanceUID == source.StudyInstanceUID
    assert list(capture.PatientOrientation) == ["A", "R"]
    assert list(capture.PixelSpacing) == [0.07, 0.07]
    assert capture.BurnedInAnnotation == "YES"
    assert capture.Laterality == source.ImageLaterality
    assert MODEL["id"] in capture.DerivationDescription
    assert NOTICE in capture.SeriesDescription


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_a_source_without_identity_is_refused_by_the_name_of_the_tag(exams: list[list[bytes]], keyword: str) -> None:
    data = changed(exams[0][0], **{**SECRETS, keyword: None})
    for write in (lambda: structured_report([data], one(data)),
                  lambda: overlay_capture(data, heat_over(read_mammogram(data)), one(data))):
        with pytest.raises(NoSourceIdentityError, match=rf"{keyword} \(00.*is missing") as caught:
            write()
        assert (caught.value.status, caught.value.code) == (422, "no_source_identity")
        assert not [secret for secret in SECRETS.values() if secret in str(caught.value)]


def test_a_uid_that_is_none_is_refused_and_not_repeated(exams: list[list[bytes]]) -> None:
    uid = str(opened(exams[0][0]).StudyInstanceUID).encode()
    data = exams[0][0].replace(b"UI" + len(uid).to_bytes(2, "little") + uid,
                               b"UI" + len(uid).to_bytes(2, "little") + b"DOE^JANE".ljust(len(uid)))
    assert data != exams[0][0]
    with pytest.raises(NoSourceIdentityError, match=r"StudyInstanceUID \(0020,000D\) is no UID") as caught:
        structured_report([data], one(data))
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("form", ["pgm", "png"])
def test_a_source_that_is_not_dicom_is_refused(films: Any, form: str) -> None:
    data = getattr(films, form)
    with pytest.raises(NoSourceIdentityError, match="a DICOM result needs a DICOM file"):
        structured_report([data], one(data))


@pytest.mark.parametrize(("keyword", "value"), [
    ("StudyInstanceUID", "2.25.99"), ("PatientID", "MRN-0815"), ("PatientName", "ROE^RICHARD"),
    ("PatientBirthDate", "19700101"), ("SOPInstanceUID", "")])
def test_images_of_several_patients_are_refused(exams: list[list[bytes]], keyword: str, value: str) -> None:
    files = [changed(data, **SECRETS) for data in exams[0]]
    other = value or opened(files[0]).SOPInstanceUID
    files[2] = changed(files[2], **{keyword: other})
    with pytest.raises(MixedPatientsError, match=f"{keyword} ") as caught:
        structured_report(files, exam(files))
    assert (caught.value.status, caught.value.code, caught.value.detail) == (422, "mixed_patients", {"image": 2})
    assert not [secret for secret in (*SECRETS.values(), other) if secret in str(caught.value)]


def test_an_answer_on_another_image_is_a_fault(exams: list[list[bytes]]) -> None:
    first, second, *_ = exams[0]
    with pytest.raises(ValueError, match="image 0 of the answer is not that of its source"):
        structured_report([second, first], exam([first, second]))
    with pytest.raises(ValueError, match="1 sources for an answer on 2 images"):
        structured_report([first], exam([first, second]))
    with pytest.raises(ValueError, match="overlay of shape"):
        overlay_capture(first, np.zeros((4, 4, 3), np.uint8), one(first))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
@pytest.mark.parametrize("machine", [0, 1])
def test_a_validator_finds_no_error(exams: list[list[bytes]], machine: int, tmp_path: Path) -> None:
    files = [changed(data, **SECRETS, PatientOrientation=["A", "R"]) for data in exams[machine]]
    for number, result in enumerate([structured_report(files, exam(files)), *results(files[0]),
                                     *results(exams[machine][1])]):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(result)
        done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
        assert not [line for line in done.stderr.splitlines() if line.startswith("Error")]
        assert done.returncode == 0
        assert done.stderr.splitlines()[-1:] or done.stdout, "the validator must have said something"
