"""The Mammography CAD SR: its templates, findings, image library and operating points."""

import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from mammopipe.inference.contract.errors import NoSourceIdentityError
from mammopipe.inference.dicom.results import mammography_cad_report
from tests.inference.dicom.cad_templates import FINDING, OPTIONAL, REQUIRED, TID_4000, below, breaches, count, value_of
from tests.inference.dicom.dicom_examples import (
    DECISION,
    FINE,
    REGIONS,
    SECRETS,
    changed,
    exam,
    image_facts,
    instances,
    items,
    name_of,
    numbers,
    one,
    opened,
    oriented,
    phantom_exams,
)


def targets(report: Dataset) -> list[Dataset]:
    """Return the items that all relationships by reference lead to."""
    found = []
    for item in items(report):
        if "ReferencedContentItemIdentifier" in item:
            target = report
            for number in item.ReferencedContentItemIdentifier[1:]:
                target = target.ContentSequence[number - 1]
            found.append(target)
    return found


def named(report: Dataset, code: Any) -> list[Dataset]:
    return [item for item in items(report) if name_of(item) == code.value]


def intents(report: Dataset) -> list[str]:
    return [value_of(item) for item in named(report, codes.DCM.RenderingIntent)]


CALM = {**DECISION, "finding": "not_suspicious"}


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [oriented(data, **SECRETS, PixelSpacing=[0.07, 0.07]) for data in phantom_exams()[0]]


def of_exam(files: list[bytes]) -> Dataset:
    return opened(mammography_cad_report(files, exam(files)))


def of_image(data: bytes, **other: Any) -> Dataset:
    return opened(mammography_cad_report([data], one(data, **other)))


def test_an_exam_conforms_to_the_templates(files: list[bytes]) -> None:
    report = of_exam(files)
    assert report.SOPClassUID == report.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.88.50"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "4000"
    assert breaches(report, TID_4000) == []
    assert all(target.ValueType == "IMAGE" for target in targets(report))
    assert len(targets(report)) == 2 * len(files) + 2 * 2 * (len(files) - 1)


@pytest.mark.parametrize("other", [{}, {"heatmap": None}, {"decision": None}, {"decision": CALM}])
def test_an_image_conforms_to_the_templates(files: list[bytes], other: dict[str, Any]) -> None:
    assert breaches(of_image(files[1], **other), TID_4000) == []


def test_the_checker_of_templates_finds_what_breaks_them(files: list[bytes]) -> None:
    report = of_exam(files)
    feature = named(report, codes.DCM.CompositeFeature)[0].ContentSequence
    intent = feature.pop(0)
    assert breaches(report, TID_4000) == ["1.3.6.7: 1 to 1 of CODE 111056"]
    feature.append(intent)
    assert "out of order" in breaches(report, TID_4000)[0]
    intent.ConceptCodeSequence[0].CodeValue = "111222"
    assert any("111222 is not allowed" in breach for breach in breaches(report, TID_4000))
    del named(report, codes.DCM.CompositeFeature)[0].ContentSequence[7:]
    assert "1.3.6.7: at least two of rows 5 and 6" in breaches(report, TID_4000)
    drawn = named(report, codes.DCM.Outline)[-1].ContentSequence[0]
    drawn.ReferencedContentItemIdentifier = [1, 2, 1]
    assert any("TID 4021 row 4" in breach for breach in breaches(report, TID_4000))
    report.ContentSequence.append(named(report, codes.DCM.ImpressionDescription)[0])
    assert any(
        "1.6: HAS PROPERTIES TEXT 111033 is not in the template" == breach for breach in breaches(report, TID_4000)
    )


def test_a_suspicious_image_must_be_presented_and_a_calm_one_may_be(files: list[bytes]) -> None:
    assert set(intents(of_image(files[1]))) == {REQUIRED}
    calm = of_image(files[1], decision=CALM)
    assert set(intents(calm)) == {OPTIONAL}
    findings = named(calm, codes.DCM.SingleImageFinding)
    points = [value_of(item) for finding in findings for item in items(finding) if name_of(item) == "111071"]
    assert points == ["{1:1}"] * len(REGIONS)
    assert len(named(of_image(files[1]), codes.DCM.CADOperatingPoint)) == 2, "those of the table alone"


def test_a_required_finding_is_below_required_items_only(files: list[bytes]) -> None:
    """A workstation follows Required items from the root and stops at the first that is not."""
    answer = exam(files)
    quiet = [image.model_copy(update={"decision": None}) for image in answer.images[:3]]
    report = opened(mammography_cad_report(files, answer.model_copy(update={"images": [*quiet, answer.images[3]]})))
    left, right = map(intents, named(report, codes.DCM.IndividualImpressionRecommendation))
    assert left == [OPTIONAL] * 4, "the impression, its feature, the two regions of one image"
    assert right == [REQUIRED, REQUIRED, OPTIONAL, OPTIONAL, REQUIRED, REQUIRED]


def test_a_region_has_its_peak_its_box_and_its_image(files: list[bytes]) -> None:
    report = of_exam(files)
    finding = named(report, codes.DCM.SingleImageFinding)[0]
    center, outline = (item for item in finding.ContentSequence if item.ValueType == "SCOORD")
    assert list(center.GraphicData) == [60.5, 99.5] and center.GraphicType == "POINT"
    assert list(outline.GraphicData) == [10, 20, 110, 20, 110, 220, 10, 220, 10, 20]
    [reference] = center.ContentSequence
    assert list(reference.ReferencedContentItemIdentifier) == [1, 2, 2]
    library = report.ContentSequence[1].ContentSequence
    assert [entry.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for entry in library] == instances(files)


def test_the_impressions_state_every_score_in_words(files: list[bytes]) -> None:
    """TID 4002 has no number for a probability; only a composite feature has (TID 4005 row 5)."""
    report = of_exam(files)
    overall, left, right = (item.TextValue for item in named(report, codes.DCM.ImpressionDescription))
    exam_score, left_score, right_score = (
        f"Probability of cancer, {subject} %" for subject in ("exam: 64", "left breast: 61", "right breast: 61")
    )
    assert overall.endswith(". ".join([exam_score, left_score, right_score]))
    assert left.endswith(left_score) and right.endswith(right_score)
    features = named(report, codes.DCM.CompositeFeature)
    assert [numbers(feature)["111047"] for feature in features] == [61, 61]
    assert len(named(report, codes.DCM.ProbabilityOfCancer)) == len(features)


def test_the_operating_point_states_its_validation(files: list[bytes]) -> None:
    first = named(of_exam(files), codes.DCM.CADOperatingPoint)[0]
    assert "sensitivity first, threshold 0.31; in validation sensitivity 0.920" in first.ContentSequence[0].TextValue
    assert numbers(first) == {"111088": 92}


def test_a_single_region_of_a_breast_is_no_composite_feature(files: list[bytes]) -> None:
    answer = exam(files)
    none = [image.model_copy(update={"heatmap": None}) for image in answer.images]
    heatmap = answer.images[1].heatmap
    assert heatmap is not None
    none[1] = answer.images[1].model_copy(
        update={"heatmap": heatmap.model_copy(update={"regions": heatmap.regions[:1]})}
    )
    report = opened(mammography_cad_report(files, answer.model_copy(update={"images": none})))
    assert breaches(report, TID_4000) == []
    [impression] = named(report, codes.DCM.IndividualImpressionRecommendation)
    assert count(impression, FINDING) == 1 and not named(report, codes.DCM.CompositeFeature)


STATED = {
    "StudyDate": ("111060", "20260101"),
    "StudyTime": ("111061", "101112"),
    "ContentDate": ("111018", "20260102"),
    "ContentTime": ("111019", "101314.5"),
}


@pytest.mark.parametrize("keyword", STATED)
def test_the_library_states_the_moments_that_the_file_states(files: list[bytes], keyword: str) -> None:
    """TID 4020 rows 7 to 10: each shall be present if its attribute is in the image."""
    name, value = STATED[keyword]
    data = changed(files[1], **{each: text for each, (_, text) in STATED.items()})
    entry = library(opened(mammography_cad_report([data], one(data))))[0]
    [item] = below(entry, name)
    assert str(item.get("Date", item.get("Time"))) == value
    without = changed(data, **{keyword: None})
    assert count(library(opened(mammography_cad_report([without], one(without))))[0], name) == 0


@pytest.mark.parametrize(
    ("keyword", "value"), [("StudyDate", "20261399"), ("ContentTime", "996000"), ("StudyTime", "10:11:12")]
)
def test_a_moment_that_is_none_is_left_out(files: list[bytes], keyword: str, value: str) -> None:
    data = with_raw(files[1], keyword, value)
    report = opened(mammography_cad_report([data], one(data)))
    assert breaches(report, TID_4000) == [] and count(library(report)[0], STATED[keyword][0]) == 0


def test_the_library_has_the_spacing_at_the_detector_where_no_other_is_known(files: list[bytes]) -> None:
    """TID 4020 rows 11 and 12: of (0018,1164) or (0028,0030)."""
    data = changed(files[1], PixelSpacing=None, ImagerPixelSpacing=[0.085, 0.085])
    entry = library(opened(mammography_cad_report([data], one(data))))[0]
    assert [numbers(entry)[name] for name in ("111026", "111066")] == [85, 85]


def test_the_library_has_the_files_view_and_its_modifiers(files: list[bytes]) -> None:
    """TID 4020 rows 3 and 4; codes of SNOMED RT become those of the context groups."""
    displaced, rolled = (("R-102D5", "SRT"), ("399197002", "SCT"))
    view = coded_item("399192008", "SCT")
    view.ViewModifierCodeSequence = [coded_item(*displaced), coded_item(*rolled), coded_item("X1", "99SITE")]
    data = changed(files[1], ViewCodeSequence=[view])
    facts = image_facts(data)
    answer = one(data, image={**facts["image"], "view": "CC"})
    report = opened(mammography_cad_report([data], answer))
    assert breaches(report, TID_4000) == []
    [seen] = below(library(report)[0], "111031")
    assert value_of(seen) == "399192008"
    assert {value_of(item) for item in seen.ContentSequence} == {"399209000", "399197002"}


def library(report: Dataset) -> list[Dataset]:
    return list(report.ContentSequence[1].ContentSequence)


def coded_item(value: str, scheme: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "as stated"
    return item


def with_raw(data: bytes, keyword: str, value: str) -> bytes:
    """Return the file with a value that pydicom's checks would refuse."""
    dataset = opened(data)
    dataset.add(DataElement(tag_for_keyword(keyword) or 0, dictionary_VR(keyword), value, validation_mode=IGNORE))
    stream = BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def test_a_referral_stands_in_the_impression(files: list[bytes]) -> None:
    text = named(of_exam(files), codes.DCM.ImpressionDescription)[0].TextValue
    assert text.startswith("research use only: not for diagnosis. Refer to reader: ")


def test_without_regions_there_are_no_findings(files: list[bytes]) -> None:
    summary = named(of_image(files[1], heatmap=None, referral=FINE), codes.DCM.CADProcessingAndFindingsSummary)[0]
    assert value_of(summary) == "111241" and not named(summary, codes.DCM.IndividualImpressionRecommendation)


@pytest.mark.parametrize("lacking", ["laterality", "view"])
def test_an_image_of_unknown_side_or_view_is_refused_by_name(files: list[bytes], lacking: str) -> None:
    image = {**image_facts(files[0])["image"], lacking: None}
    with pytest.raises(NoSourceIdentityError, match=f"image 0: .* its {lacking} is unknown") as caught:
        of_image(files[0], image=image)
    assert caught.value.code == "no_view"


@pytest.mark.parametrize("program", ["dciodvfy", "dsrdump"])
def test_a_validator_finds_no_error(files: list[bytes], program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} (Debian's dicom3tools, dcmtk) is not installed")
    reports = [mammography_cad_report(files, exam(files)), mammography_cad_report(files[:1], one(files[0]))]
    for number, data in enumerate(reports):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(data)
        done = subprocess.run([program, path], capture_output=True, text=True, check=False, errors="replace")
        output = (done.stderr + done.stdout).splitlines()
        assert done.returncode == 0 and not [line for line in output if line.startswith(("Error", "E:", "F:"))]
        assert any("Mammography" in line for line in output)
