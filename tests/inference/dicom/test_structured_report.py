"""The structured report (Comprehensive SR): its references, measurement groups, codes and sentences."""

from io import BytesIO
from typing import Any

import pytest
from highdicom.sr import srread
from pydicom.sr.codedict import codes

from mammopipe.inference.contract.schema import NOTICE, ExamAnswer
from mammopipe.inference.dicom import wording
from mammopipe.inference.dicom.results import mammography_cad_report, structured_report
from tests.inference.dicom.dicom_examples import (
    MODEL,
    changed,
    coded,
    exam,
    groups,
    image_facts,
    instances,
    items,
    name_of,
    numbers,
    one,
    opened,
    referred,
    section,
    words,
)


@pytest.mark.parametrize("machine", [0, 1])
def test_the_report_refers_to_every_source_and_is_of_its_study(exams: list[list[bytes]], machine: int) -> None:
    files = exams[machine]
    source, report = opened(files[0]), opened(structured_report(files, exam(files)))
    [evidence] = report.CurrentRequestedProcedureEvidenceSequence
    [series] = evidence.ReferencedSeriesSequence
    assert (evidence.StudyInstanceUID, series.SeriesInstanceUID) == (source.StudyInstanceUID, source.SeriesInstanceUID)
    references = [(item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID) for item in series.ReferencedSOPSequence]
    assert references == [(uid, source.file_meta.MediaStorageSOPClassUID) for uid in instances(files)]
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
    assert numbers(group) == {
        "111047": 70,
        "P-NORMAL": 0.2,
        "P-BENIGN": 0.1,
        "P-MALIGNANT": 0.7,
        "DECILE": 9,
        "ENTROPY": 0.801818,
        "THRESHOLD": 0.31,
    }
    found = coded(group)
    assert (found["DECISION"], found["OPERATING-POINT"], found["REFERRAL"]) == (
        "SUSPICIOUS",
        "SENSITIVITY",
        "NO-REFERRAL",
    )
    texts = [str(item.TextValue) for item in items(group) if item.ValueType == "TEXT"]
    assert {
        "mammopipe resnet50",
        MODEL["id"],
        f"weights sha256 {'ab' * 32}",
        f"preprocessing {'cd' * 32}",
        "The threshold in validation: sensitivity 0.920",
    } <= set(texts)


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


def test_indices_may_skip_files_that_are_no_images(exams: list[list[bytes]]) -> None:
    """An answer counts the files of the request; of a study with a report in it, the index of an image is no place."""
    files = exams[0]
    answer = exam(files)
    images = [image.model_copy(update={"index": 2 * image.index + 1}) for image in answer.images]
    breasts = [one.model_copy(update={"images": [2 * index + 1 for index in one.images]}) for one in answer.breasts]
    skipping = answer.model_copy(update={"images": images, "breasts": breasts})
    found, uids = groups(opened(structured_report(files, skipping))), instances(files)
    assert referred(found["breast R"]) == uids[2:] and referred(found["image 5"]) == uids[2:3]
    assert set(referred(found["image 5 region 0"])) == {uids[2]}
    report = opened(mammography_cad_report(files, skipping))
    held = [item.ReferencedContentItemIdentifier for item in items(report) if item.RelationshipType == "SELECTED FROM"]
    assert [list(one) for one in held[::4]] == [[1, 2, place] for place in (2, 3, 4)]


def test_a_breast_scored_beside_the_other_says_so(exams: list[list[bytes]]) -> None:
    answer = exam(exams[0])
    beside = answer.model_copy(
        update={"breasts": [breast.model_copy(update={"compared": True}) for breast in answer.breasts]}
    )
    found = groups(opened(structured_report(exams[0], beside)))
    assert coded(found["breast L"])["370129005"] == "BESIDE-MEAN"


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
    area = codes.SCT.Area.value
    assert numbers(rois[2][0]) == {area: 20000, "HEAT": 0.9312, "PEAK-COLUMN": 60.5, "PEAK-ROW": 99.5}


def test_an_area_is_in_square_millimetres_where_the_spacing_is_known(exams: list[list[bytes]]) -> None:
    data = changed(exams[0][1], PixelSpacing=[0.1, 0.1])
    group = groups(opened(structured_report([data], one(data))))["image 0 region 0"]
    area = next(item for item in items(group) if item.ValueType == "NUM")
    [measured] = area.MeasuredValueSequence
    assert (float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue) == (200, "mm2")


def test_what_has_no_coordinates_stands_apart_from_the_measurements(exams: list[list[bytes]]) -> None:
    files = exams[1]
    report = opened(structured_report(files, exam(files)))
    found = section(report, codes.DCM.Findings).ContentSequence
    assert len(found) == 1 + 2 + len(files), "exam, breasts, images"
    for group in section(report, codes.DCM.ImagingMeasurements).ContentSequence:
        assert name_of(group) == codes.DCM.MeasurementGroup.value
        assert [item.ValueType for item in group.ContentSequence].count("SCOORD") == 1


@pytest.mark.parametrize(("heatmap", "expected"), [(None, "not asked for"), ({"regions": []}, "no region")])
def test_a_report_without_regions_says_why(
    exams: list[list[bytes]], heatmap: dict[str, Any] | None, expected: str
) -> None:
    data = exams[0][0]
    given = {**image_facts(data)["heatmap"], **heatmap} if heatmap else None
    report = structured_report([data], one(data, heatmap=given))
    [item] = section(opened(report), codes.DCM.ImagingMeasurements).ContentSequence
    assert item.ValueType == "TEXT" and expected in item.TextValue
    assert srread(BytesIO(report)).content.get_planar_roi_measurement_groups() == []


def test_the_threshold_says_what_it_did_in_validation(exams: list[list[bytes]]) -> None:
    decision = {
        "sensitivity": 0.92,
        "sensitivity_interval": [0.71, 0.98],
        "recall_rate": 0.2,
        "n": 52,
        "positives": 8,
        "prevalence": 0.154,
    }
    assert wording.validation(decision) == (
        "sensitivity 0.920 (95 % interval 0.710 to 0.980), recall rate 0.200, on 52 cases, 8 of them malignant, "
        "prevalence 0.154"
    )


@pytest.mark.parametrize(
    ("level", "rule", "expected"),
    [
        ("image", None, "The probability holds for a prevalence of 0.154 (validation)"),
        ("breast", "attention", "The probability holds for a prevalence of 0.154 (validation)"),
        (
            "breast",
            "mean",
            "The score ranks cases, and assumes a prevalence of 0.154 (validation); it is not a calibrated",
        ),
        (
            "patient",
            None,
            "The score ranks cases, and assumes a prevalence of 0.154 (validation); it is not a calibrated",
        ),
    ],
)
def test_only_a_score_that_was_calibrated_is_called_a_probability(level: str, rule: str | None, expected: str) -> None:
    facts = {"prevalence": {"value": 0.154, "of": "validation", "level": level}, "rule": rule, "decision": None}
    assert any(text.startswith(expected) for text in wording.sentences(facts))


def test_the_image_library_codes_side_and_view(exams: list[list[bytes]]) -> None:
    files = exams[0]
    report = opened(structured_report(files, exam(files)))
    [library] = [item for item in items(report) if name_of(item) == codes.DCM.ImageLibrary.value]
    entries = [item for item in items(library) if item.ValueType == "IMAGE"]
    sides = [opened(data).ImageLaterality for data in files]
    for entry, side in zip(entries, sides, strict=True):
        [concept] = entry.ConceptNameCodeSequence
        assert (concept.CodeValue, concept.CodeMeaning) == ("260753009", "Source")
        expected = codes.cid244.Left if side == "L" else codes.cid244.Right
        assert coded(entry) == {
            codes.DCM.Modality.value: "MG",
            codes.DCM.ImageLaterality.value: expected.value,
            codes.DCM.ImageView.value: codes.cid4014.MedioLateralObliqueProjection.value,
        }


def test_what_is_not_known_is_left_out(exams: list[list[bytes]]) -> None:
    data = exams[0][0]
    unknown = {**image_facts(data)["image"], "laterality": None, "view": None}
    answer = one(data, image=unknown, decile=None, decision=None, heatmap=None)
    found = groups(opened(structured_report([data], answer)))
    assert list(found) == ["image 0"]
    assert not {"DECILE", "THRESHOLD"} & set(numbers(found["image 0"]))
    assert not {"DECISION", "272741003"} & set(coded(found["image 0"]))


def test_a_calibrated_probability_is_the_probability_of_cancer_and_the_score_stands_beside_it(
    exams: list[list[bytes]],
) -> None:
    files = exams[0]
    facts = exam(files).model_dump(mode="json")
    facts["exam"] |= {"probability": 0.0875, "prevalence": {"value": 0.01, "of": "deployment", "level": "patient"}}
    facts["breasts"][0]["probability"] = 0.07
    found = groups(opened(structured_report(files, ExamAnswer.model_validate(facts))))
    assert numbers(found["exam"])["111047"] == 8.75 and numbers(found["exam"])["SCORE"] == 64
    assert numbers(found["breast L"]) == {"111047": 7, "SCORE": 61} and numbers(found["breast R"]) == {"111047": 61}
    expected = "The probability is calibrated for a prevalence of 0.01 (deployment); the decision follows from"
    assert any(text.startswith(expected) for text in words(found["exam"]))
    assert wording.chances(facts["exam"], "exam") == "Probability of cancer, exam: 8.75 % (score 64 of 100)"
    assert wording.chances(facts["breasts"][1], "right breast") == "Probability of cancer, right breast: 61 %"
